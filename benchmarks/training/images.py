"""``python -m benchmarks.training.images ASSETS``: small pictures of another camera.

ASSETS is a folder with ``images/mob_v1.onnx``, a MobileNet-like classifier, and NCHW pictures of
uint8 in ``calibration_uint8.npz``, ``eval_uint8.npz``, ``eval_shifted_uint8.npz``, with labels.
Of the shifted pictures some are labelled, the rest measure. The head is fitted as it is, and once
more as a convolution of one element before the mean over all places.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.deltas.encoder import encode
from edgectl_server.training.runner import run_examination, run_head_trainer
from edgectl_server.training.spec import (
    CALIBRATION,
    DATASET,
    EVALUATION,
    MODEL,
    OUT,
    SOURCE,
    TrainSpec,
)
from training.activity import with_convolution, write_dataset

_MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32).reshape(1, 3, 1, 1)
_DEVIATION = np.array([0.247, 0.2435, 0.2616], np.float32).reshape(1, 3, 1, 1)
_CLASSES = tuple(f"c{number}" for number in range(10))


def main() -> None:
    """Print a row for each kind of head and number of labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("assets", type=Path)
    parser.add_argument("--labels", type=int, nargs="+", default=[300, 600])
    arguments = parser.parse_args()
    folder = arguments.assets / "images"
    for labels in arguments.labels:
        for kind in ("gemm", "conv"):
            with tempfile.TemporaryDirectory() as name:
                _measure(folder, Path(name), kind, labels)


def _measure(folder: Path, directory: Path, kind: str, labels: int) -> None:
    (directory / OUT).mkdir()
    model = onnx.load(folder / "mob_v1.onnx")
    if kind == "conv":
        model = with_convolution(model)
    (directory / SOURCE).write_bytes(model.SerializeToString())
    tensor = model.graph.input[0]
    shape = tuple(one.dim_value or -1 for one in tensor.type.tensor_type.shape.dim)
    spec = TensorSpec(name=tensor.name, datatype="FP32", shape=(-1, *shape[1:]))
    np.savez(directory / CALIBRATION, **{tensor.name: _pictures(folder / "calibration_uint8.npz")})
    with np.load(folder / "eval_uint8.npz") as old:
        truth = old["label"]
    np.savez(
        directory / EVALUATION,
        **{tensor.name: _pictures(folder / "eval_uint8.npz"), "label": truth},
    )
    with np.load(folder / "eval_shifted_uint8.npz") as shifted:
        truth = shifted["label"]
    pictures = _pictures(folder / "eval_shifted_uint8.npz")
    cut = labels * 5 // 6
    rest = len(truth) - labels
    splits = ["train"] * cut + ["validation"] * (labels - cut) + ["test"] * rest
    write_dataset(directory / DATASET, pictures, truth, splits, classes=_CLASSES, inputs=(spec,))
    began = time.monotonic()
    run_head_trainer(
        TrainSpec(task="head", model="har"),
        directory,
        on_progress=lambda _: None,
        cancelled=lambda: False,
    )
    took = time.monotonic() - began
    found = run_examination(
        TrainSpec(task="examine", model="har"), directory, cancelled=lambda: False
    )
    delta = encode((directory / SOURCE).read_bytes(), (directory / OUT / MODEL).read_bytes())
    assert found.old is not None
    new, old = (
        f"{one.champion / one.rows:.3f} to {one.challenger / one.rows:.3f}"
        for one in (found.new, found.old)
    )
    print(
        f"{kind} {labels} labels: shifted {new}, old {old}, "
        f"delta {len(delta.content)} bytes, {took:.0f} s"
    )


def _pictures(path: Path) -> np.ndarray:
    with np.load(path) as arrays:
        return ((arrays["input"].astype(np.float32) / 255 - _MEAN) / _DEVIATION).astype(np.float32)


if __name__ == "__main__":
    main()
