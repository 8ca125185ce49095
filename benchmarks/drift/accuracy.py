"""Accuracy estimated without labels beside the true one, on real data, shifted.

Half of the labelled rows, at random, are the reference; the other half, shifted, is what a device
answers. Beside both of our estimates, which have counts alone: the average threshold (ATC, Garg et
al. 2022) and the difference of confidences (DoC, Guillory et al. 2021), which have the rows.

    python -m benchmarks.drift.accuracy [FOLDER]

FOLDER holds ``activity`` and ``images`` (without it: the demo's activity). Prints a line for each
shift, then the mean absolute error of each estimate, and ends with one line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from benchmarks.drift.populations import DEMO, Array, blurred, normalized, turned
from edgectl_protocol.histograms import CONFIDENCE_EDGES
from edgectl_protocol.manifest import Scores, TensorSpec
from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import Reference
from edgectl_server.domain.accuracy import AccuracyLimits, judge_accuracy
from edgectl_server.domain.drift import Window
from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.reference import make_reference
from edgectl_statistics.features import Described, Plan, plan_of

PARTS = 6
ROWS_MAX = 3000
ESTIMATES = ("by confidence", "by classes", "ATC", "DoC")
_LIMITS = AccuracyLimits(unseen=1.0)


@dataclass(frozen=True)
class Task:
    """A model, its labelled rows, and the same rows after each shift."""

    name: str
    model: Path
    rows: Array
    labels: npt.NDArray[np.int64]
    shifts: dict[str, Callable[[Array], Array]]


def main(arguments: list[str]) -> int:
    """Measure, print tables, end with one line of JSON."""
    table: dict[str, dict[str, float]] = {}
    for task in _tasks(Path(arguments[0]) if arguments else None):
        print(f"{task.name:28}{'true':>15}", *(f"{one:>15}" for one in ESTIMATES), sep="")
        for name, found in _measured(task):
            table[name] = found
            shown = "".join(f"{value:15.3f}" for value in found.values())
            print(f"{name:28}{shown}", flush=True)
        of_task = [found for name, found in table.items() if name.startswith(task.name)]
        errors = [
            np.mean([abs(found[one] - found["true"]) for found in of_task]) for one in ESTIMATES
        ]
        print(f"{'mean error':43}" + "".join(f"{error:15.3f}" for error in errors) + "\n")
    print(json.dumps({"accuracy": table}))
    return 0


def _tasks(folder: Path | None) -> Iterator[Task]:
    activity = DEMO if folder is None else folder / "activity"
    content = np.load(activity / "eval.npz")
    shifts: dict[str, Callable[[Array], Array]] = {
        f"turned {size}": lambda rows, size=size: turned(rows, size)  # type: ignore[misc]
        for size in (5, 10, 20, 30, 45, 60, 90)
    }
    yield Task("activity", activity / "har_v1.onnx", content["input"], content["label"], shifts)
    if folder is None:
        return
    if (activity / "har_light.onnx").exists():
        yield Task("light", activity / "har_light.onnx", content["input"], content["label"], shifts)
    images = folder / "images"
    content = np.load(images / "eval_uint8.npz")
    pixels, labels = content["input"][:ROWS_MAX], content["label"][:ROWS_MAX]
    shifts = {
        f"brightness {size}": lambda rows, size=size: rows + np.float32(size)  # type: ignore[misc]
        for size in (-1.0, 0.5, 1.0)
    }
    shifts |= {
        f"blurred {times}x": lambda rows, times=times: _often(rows, times)  # type: ignore[misc]
        for times in (1, 2, 4)
    }
    shifted = normalized(np.load(images / "eval_shifted_uint8.npz")["input"][:ROWS_MAX])
    shifts["another camera"] = lambda _rows: shifted
    yield Task("images", images / "mob_v1.onnx", normalized(pixels), labels, shifts)


def _often(rows: Array, times: int) -> Array:
    for _ in range(times):
        rows = blurred(rows, 0.8)
    return rows


def _measured(task: Task) -> Iterator[tuple[str, dict[str, float]]]:
    session = onnxruntime.InferenceSession(str(task.model), providers=["CPUExecutionProvider"])
    given, answer = session.get_inputs()[0].name, session.get_outputs()[-1].name

    def run(values: Array) -> Array:
        parts = [
            session.run([answer], {given: values[at : at + 256].astype(np.float32)})[0]
            for at in range(0, len(values), 256)
        ]
        return np.concatenate(parts)

    random = np.random.default_rng(4)
    places = random.permutation(len(task.rows))
    half = len(places) // 2
    old, new = np.sort(places[:half]), places[half:]
    logits = run(task.rows[old])
    plan = plan_of(
        (TensorSpec(name=given, datatype="FP32", shape=(-1, *task.rows.shape[1:])),),
        (TensorSpec(name=answer, datatype="FP32", shape=(-1, logits.shape[-1])),),
        Scores(output=answer, kind="logits"),
    )
    assert plan is not None
    described = plan.describe({given: task.rows[old]}, {answer: logits})
    samples = Samples(role="evaluation", inputs={given: task.rows[old]}, labels=task.labels[old])
    reference = _reference(plan, described, samples, logits.shape[-1])
    right = described.classes == task.labels[old]
    threshold = float(np.quantile(described.values[:, 0], 1 - right.mean()))
    for name, shift in {"as it is": lambda rows: rows, **task.shifts}.items():
        rows = shift(task.rows)[new]
        found = plan.describe({given: rows}, {answer: run(rows)})
        sure = found.values[:, 0]
        estimate = judge_accuracy(reference, _windows(found, logits.shape[-1]), _LIMITS)[0].estimate
        assert estimate is not None
        yield (
            f"{task.name} {name}",
            {
                "true": float((found.classes == task.labels[new]).mean()),
                "by confidence": estimate.accuracy,
                "by classes": estimate.by_classes,
                "ATC": float((sure >= threshold).mean()),
                "DoC": float(right.mean() - described.values[:, 0].mean() + sure.mean()),
            },
        )


def _reference(plan: Plan, described: Described, samples: Samples, classes: int) -> Reference:
    arrays = dict(samples.inputs)
    names = plan.names(arrays, {plan.scores.output: np.zeros((1, classes))} if plan.scores else {})
    right = described.classes == samples.labels
    return Reference(
        definition=1,
        source="evaluation",
        dataset=digest_of(b""),
        rows=samples.count,
        inputs=(),
        features=make_reference(names, described, samples),
        classes=tuple(np.bincount(described.classes, minlength=classes).tolist()),
        confidence=_histogram(described.values[:, 0]),
        right=_histogram(described.values[right, 0]),
    )


def _windows(found: Described, classes: int) -> list[Window]:
    return [
        Window(
            "device",
            "site",
            len(part),
            (_histogram(found.values[part, 0]),),
            np.bincount(found.classes[part], minlength=classes).tolist(),
        )
        for part in np.array_split(np.arange(len(found.values)), PARTS)
    ]


def _histogram(values: Array) -> tuple[int, ...]:
    places = np.searchsorted(np.array(CONFIDENCE_EDGES), values, "right")
    return tuple(np.bincount(places, minlength=len(CONFIDENCE_EDGES) + 1).tolist())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
