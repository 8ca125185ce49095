"""``python -m benchmarks.training.normalization [ASSETS]``: is it worth to correct the input first?

Where a sensor has another offset or gain, ``x * a + b`` for each channel before the model could
undo it: two numbers a channel, found without labels (``a`` and ``b`` that give the new rows the
mean and deviation of the calibration rows). Beside it the built-in trainer, and both one after the
other. In each cell the accuracy on new rows of other people or pictures, and on old ones; the gate
of old rows allows a loss of three points. Bytes are of the delta of the ONNX file, of a model that
has such an ``x * a + b`` already.

ASSETS is as for `benchmarks.training.images`; without it the activity data of the demo alone.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from benchmarks.drift.populations import normalized
from edgectl.demo import activity_data
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
from training.activity import CLASSES, PEOPLE, evaluation, turned, write_dataset

LABELS = 300


class Task(NamedTuple):
    """A model, its old rows, and new ones: the first `LABELS` to learn from, the rest to test."""

    name: str
    model: Path
    calibration: Any
    old: tuple[Any, Any]
    new: tuple[Any, Any]
    classes: tuple[str, ...]


def main(arguments: list[str]) -> int:
    """Print a line for each shift."""
    print(f"{'':34}{'shifted':>10}{'head':>26}{'correction':>26}{'both':>26}")
    for task in _tasks(Path(arguments[0]) if arguments else None):
        shown = [f"{task.name:34}"]
        with tempfile.TemporaryDirectory() as name:
            plain = _front(onnx.load(task.model), np.ones(1), np.zeros(1), task)
            gain, offset = _correction(task)
            corrected = _front(onnx.load(task.model), gain, offset, task)
            champion, of_head = _head(Path(name) / "head", plain, task)
            of_both = _head(Path(name) / "both", corrected, task)[1]
            new = _accuracy(corrected, task.new[0][LABELS:], task.new[1][LABELS:])
            old = _accuracy(corrected, *task.old)
            shown.append(f"{champion:10.3f}")
            bytes_ = _bytes(plain, corrected)
            shown += [
                f"{one[0]:10.3f}, {one[1]:5.3f}, {one[2]:6d} B"
                for one in (of_head, (new, old, bytes_), of_both)
            ]
        print("".join(shown), flush=True)
    return 0


def _head(directory: Path, model: Any, task: Task) -> tuple[float, tuple[float, float, int]]:
    """Return the accuracy before, and what the built-in trainer makes of a model."""
    (directory / OUT).mkdir(parents=True)
    content = model.SerializeToString()
    (directory / SOURCE).write_bytes(content)
    tensor = model.graph.input[0].name
    np.savez(directory / CALIBRATION, **{tensor: task.calibration})
    np.savez(directory / EVALUATION, **{tensor: task.old[0], "label": task.old[1]})
    cut = LABELS * 5 // 6
    rest = len(task.new[1]) - LABELS
    splits: list[Any] = ["train"] * cut + ["validation"] * (LABELS - cut) + ["test"] * rest
    spec = TensorSpec(name=tensor, datatype="FP32", shape=(-1, *task.calibration.shape[1:]))
    write_dataset(directory / DATASET, *task.new, splits, classes=task.classes, inputs=(spec,))
    run_head_trainer(
        TrainSpec(task="head", model="har"),
        directory,
        on_progress=lambda _: None,
        cancelled=lambda: False,
    )
    found = run_examination(
        TrainSpec(task="examine", model="har"), directory, cancelled=lambda: False
    )
    assert found.old is not None
    made = (directory / OUT / MODEL).read_bytes()
    new, old = (one.challenger / one.rows for one in (found.new, found.old))
    return found.new.champion / found.new.rows, (new, old, len(encode(content, made).content))


def _front(model: Any, gain: Any, offset: Any, task: Task) -> Any:
    """Put ``x * gain + offset`` for each channel before a model."""
    channels = task.calibration.shape[1]
    shape = (1, channels, *[1] * (task.calibration.ndim - 2))
    for name, values in (("edgectl/gain", gain), ("edgectl/offset", offset)):
        array = np.broadcast_to(values, (channels,)).astype(np.float32).reshape(shape)
        model.graph.initializer.append(numpy_helper.from_array(array.copy(), name))
    given = model.graph.input[0].name
    for node in model.graph.node:
        for number, one in enumerate(node.input):
            if one == given:
                node.input[number] = "edgectl/corrected"
    model.graph.node.insert(
        0, onnx.helper.make_node("Mul", [given, "edgectl/gain"], ["edgectl/scaled"])
    )
    model.graph.node.insert(
        1,
        onnx.helper.make_node("Add", ["edgectl/scaled", "edgectl/offset"], ["edgectl/corrected"]),
    )
    onnx.checker.check_model(model)
    return model


def _correction(task: Task) -> tuple[Any, Any]:
    axes = (0, *range(2, task.calibration.ndim))
    old, new = task.calibration, task.new[0][:LABELS]
    gain = old.std(axis=axes) / np.maximum(new.std(axis=axes), 1e-6)
    return gain, old.mean(axis=axes) - gain * new.mean(axis=axes)


def _accuracy(model: Any, rows: Any, labels: Any) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    given, answer = session.get_inputs()[0].name, session.get_outputs()[-1].name
    parts = [
        session.run([answer], {given: rows[at : at + 256]})[0].argmax(axis=1)
        for at in range(0, len(rows), 256)
    ]
    return float((np.concatenate(parts) == labels).mean())


def _bytes(before: Any, after: Any) -> int:
    return len(encode(before.SerializeToString(), after.SerializeToString()).content)


def _tasks(assets: Path | None) -> Iterator[Task]:
    windows, labels, people = evaluation()
    with np.load(activity_data.CALIBRATION) as data:
        calibration = data["input"]
    random = np.random.default_rng(0)
    learnt = np.isin(people, random.permutation(PEOPLE)[:5])
    chosen = random.permutation(np.flatnonzero(learnt))[:LABELS]
    tested = random.permutation(np.flatnonzero(~learnt))[:400]
    rows = np.concatenate([chosen, tested])
    towards = np.array([0.3, -0.2, 0.1, 0, 0, 0], np.float32).reshape(1, 6, 1)
    shifts: dict[str, Callable[[Any], Any]] = {
        "activity, gain 0.6": lambda x: x * np.float32(0.6),
        "activity, gain 1.5": lambda x: x * np.float32(1.5),
        "activity, offset": lambda x: x + towards,
        "activity, gain 0.7 and offset": lambda x: x * np.float32(0.7) + towards,
        "activity, turned by 45°": lambda x: turned(x, 45.0),
    }
    for name, shift in shifts.items():
        shifted = shift(windows[rows]).astype(np.float32)
        yield Task(
            name, activity_data.MODEL, calibration, (windows, labels), (shifted, labels[rows]),
            tuple(CLASSES),
        )  # fmt: skip
    if assets is None:
        return
    folder = assets / "images"
    pictures = {
        name: np.load(folder / f"{name}_uint8.npz")
        for name in ("calibration", "eval", "eval_shifted")
    }
    calibration, old = (normalized(pictures[one]["input"]) for one in ("calibration", "eval"))
    truth = pictures["eval"]["label"]
    camera = normalized(pictures["eval_shifted"]["input"]), pictures["eval_shifted"]["label"]
    darker = normalized((pictures["eval"]["input"][:1000] * 0.5 + 10).astype(np.uint8))
    classes = tuple(f"c{number}" for number in range(10))
    model = folder / "mob_v1.onnx"
    yield Task("images, another camera", model, calibration, (old, truth), camera, classes)
    dim = (darker, truth[:1000])
    yield Task("images, darker, less contrast", model, calibration, (old, truth), dim, classes)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
