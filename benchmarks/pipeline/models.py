"""The catalogue: real models with real data, and how each is scored.

Small ones are in the repository. Larger ones are looked for in a folder of assets, and the largest
is made on demand (see ``benchmarks.models.make_large``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.models import make_large

__all__ = ["Array", "Model", "catalogue", "load", "score"]

ROOT = Path(__file__).parents[2]
ACTIVITY = ROOT / "server" / "edgectl" / "demo" / "activity"
OCCUPANCY = ROOT / "tests" / "data" / "occupancy"
ANOMALY = ROOT / "tests" / "data" / "anomaly"
MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)[:, None, None]
DEVIATION = np.array([0.247, 0.2435, 0.2616], np.float32)[:, None, None]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Model:
    """A model, its data, and the metric.

    Attributes:
        name: of the model in tables.
        kind: of the data: sensor, audio, image, tabular, anomaly.
        path: the fp32 file.
        calibration: ``.npz`` with an array for each input.
        evaluation: the same, and ``label``.
        metric: ``accuracy``: share of samples with the right class; ``auc``: area under the curve
            of the mean squared difference of output and input, against the label 1.
    """

    name: str
    kind: str
    path: Path
    calibration: Path
    evaluation: Path
    metric: Literal["accuracy", "auc"] = "accuracy"


def catalogue(assets: Path | None, cache: Path) -> list[Model]:
    """Return the models there are.

    Args:
        assets: folder with ``digits-speech``, ``images`` and ``occupancy``; None: only those of the
            repository.
        cache: an existing folder for what is made; kept things in it are used again.
    """
    models = [
        Model(
            "activity", "sensor", ACTIVITY / "har_v1.onnx",
            ACTIVITY / "calibration.npz", ACTIVITY / "eval.npz",
        ),
        Model(
            "co2", "anomaly", ANOMALY / "ae.onnx",
            ANOMALY / "calibration.npz", ANOMALY / "eval.npz", metric="auc",
        ),
        *(
            Model(
                f"occupancy-{kind}", "tabular", OCCUPANCY / f"occ_{kind}.onnx",
                OCCUPANCY / "train.npz", OCCUPANCY / "test.npz",
            )
            for kind in ("mlp", "rf")
        ),
    ]  # fmt: skip
    return models + (_of_assets(assets, cache) if assets else [])


def _of_assets(assets: Path, cache: Path) -> list[Model]:
    models = []
    speech = assets / "digits-speech"
    if (speech / "kws_v1.onnx").exists():
        known = cache / "digits-eval.npz"
        with np.load(speech / "eval.npz") as data:
            here = ~data["new_speaker"]  # the model is for those whom it knows
            np.savez(known, input=data["input"][here], label=data["label"][here])
        models.append(
            Model("digits", "audio", speech / "kws_v1.onnx", speech / "calibration.npz", known)
        )
    images = assets / "images"
    if (images / "mob_v1.onnx").exists():
        files = [cache / f"images-{role}.npz" for role in ("calibration", "eval")]
        for role, file in zip(("calibration", "eval"), files, strict=True):
            with np.load(images / f"{role}_uint8.npz") as data:
                arrays = {key: data[key] for key in data}
            arrays["input"] = (arrays["input"].astype(np.float32) / 255 - MEAN) / DEVIATION
            np.savez(file, **arrays)
        models.append(Model("mobilenet", "image", images / "mob_v1.onnx", files[0], files[1]))
        large = make_large.make(images, cache)
        models.append(
            Model("efficientnet", "image", large, cache / "calibration.npz", cache / "eval.npz")
        )
    return models


def load(path: Path) -> tuple[dict[str, Array], Array | None]:
    """Return the inputs of a file of samples by name, and the labels if it has them."""
    with np.load(path) as data:
        arrays = {name: data[name] for name in data}
    label = arrays.pop("label", None)
    return arrays, label


def score(metric: str, inputs: dict[str, Array], outputs: dict[str, Array], label: Array) -> float:
    """Return the metric, 0 to 1; outputs that are not finite score 0."""
    if not all(np.isfinite(array).all() for array in outputs.values() if array.dtype.kind == "f"):
        return 0.0
    if metric == "auc":
        (wanted,), (got,) = inputs.values(), outputs.values()
        wrong = np.square(got.astype(np.float64) - wanted).reshape(len(wanted), -1).mean(1)
        return _area(wrong, label)
    classes = [array for array in outputs.values() if array.dtype.kind in "iu" and array.ndim == 1]
    guess = classes[0] if classes else next(iter(outputs.values())).argmax(1)
    return float(np.mean(guess == label))


def _area(scores: Array, label: Array) -> float:
    """Return the area under the curve: the chance that an anomalous sample scores higher.

    By ranks, those of equal scores averaged (Mann and Whitney 1947).
    """
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    positive = int(label.sum())
    above = ranks[label == 1].sum() - positive * (positive + 1) / 2
    return float(above / (positive * (len(label) - positive)))
