"""Real data, shifted as a sensor or a camera shifts it, and described as a device describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from edgectl_protocol.manifest import Scores, TensorSpec
from edgectl_statistics.features import plan_of

__all__ = ["DEMO", "Population", "Shift", "blurred", "normalized", "populations", "turned"]

Array = npt.NDArray[Any]
DEMO = Path(__file__).resolve().parents[2] / "server" / "edgectl" / "demo" / "activity"
Change = Callable[[Array, float, np.random.Generator], Array]
Shifts = dict[str, tuple[Change, tuple[float, ...]]]
_ROWS_MAX = 3000
_MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)[:, np.newaxis, np.newaxis]
_DEVIATION = np.array([0.247, 0.2435, 0.2616], np.float32)[:, np.newaxis, np.newaxis]


@dataclass(frozen=True)
class Shift:
    """One kind and size of a shift, and the features of all rows after it, [rows, features]."""

    kind: str
    size: float
    values: Array


@dataclass(frozen=True)
class Population:
    """A data set in its own order.

    Attributes:
        name: of it.
        names: of the features.
        plain: features of the rows as they are, [rows, features].
        shifts: the same rows, shifted.
        inputs: the rows themselves, to be offered to a device's counts.
        specs: of inputs and outputs, and the scores.
    """

    name: str
    names: tuple[str, ...]
    plain: Array
    shifts: tuple[Shift, ...]
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], Scores]


def populations(assets: Path) -> Iterator[Population]:
    """Yield what there is: activity and occupancy, and images where the folder has them."""
    demo = assets / "activity"
    demo = demo if demo.exists() else DEMO
    activity = np.load(demo / "eval.npz")["input"]
    shifts = {
        "offset": (_offset, (0.01, 0.02, 0.05)),
        "noise": (_noise, (0.02, 0.05, 0.1)),
        "turned": (turned, (0.5, 3.0, 90.0)),
    }
    yield _population("activity", demo / "har_v1.onnx", activity, shifts, "logits")
    occupancy = np.load(assets / "occupancy" / "train.npz")
    rows = next(occupancy[name] for name in occupancy.files if occupancy[name].ndim > 1)
    shifts = {
        "scale": (_column_scale, (0.1, 0.2, 0.4)),
        "outliers": (_outliers, (0.03, 0.05, 0.1)),
        "offset": (_column_offset, (0.1, 0.2, 3.0)),
    }
    model = assets / "occupancy" / "occ_mlp.onnx"
    yield _population("occupancy", model, rows.astype(np.float32), shifts, "probabilities")
    images = assets / "images" / "eval_uint8.npz"
    if images.exists():
        content = np.load(images)
        pixels = next(content[name] for name in content.files if content[name].ndim == 4)
        pictures = normalized(pixels[:_ROWS_MAX])
        shifts = {
            "brightness": (_brightness, (0.05, 0.1, 0.2)),
            "blur": (blurred, (0.1, 0.2, 0.4)),
            "noise": (_noise, (0.05, 0.1, 0.2)),
        }
        model = assets / "images" / "mob_v1.onnx"
        yield _population("images", model, pictures, shifts, "logits")


def _population(name: str, path: Path, rows: Array, shifts: Shifts, kind: Any) -> Population:
    rows = rows[:_ROWS_MAX]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0].name
    answer = session.get_outputs()[-1].name

    def run(values: Array) -> Array:
        parts = [
            session.run([answer], {given: values[at : at + 256]})[0]
            for at in range(0, len(values), 256)
        ]
        return np.concatenate(parts)

    outputs = run(rows)
    inputs_spec = (TensorSpec(name=given, datatype="FP32", shape=(-1, *rows.shape[1:])),)
    outputs_spec = (TensorSpec(name=answer, datatype="FP32", shape=(-1, outputs.shape[-1])),)
    scores = Scores(output=answer, kind=kind)
    plan = plan_of(inputs_spec, outputs_spec, scores)
    assert plan is not None

    def described(values: Array, answers: Array) -> Array:
        return plan.describe({given: values}, {answer: answers}).values

    random = np.random.default_rng(1)
    found = []
    for what, (change, sizes) in shifts.items():
        for size in sizes:
            moved = change(rows.copy(), size, random)
            found.append(Shift(what, size, described(moved, run(moved))))
    return Population(
        name,
        plan.names({given: rows}, {answer: outputs}),
        described(rows, outputs),
        tuple(found),
        {given: rows},
        {answer: outputs},
        (inputs_spec, outputs_spec, scores),
    )


def _offset(rows: Array, size: float, _random: np.random.Generator) -> Array:
    """A sensor's zero moves, by so many standard deviations of its channel."""
    rows[:, 0] += size * rows[:, 0].std()
    return rows


def _noise(rows: Array, size: float, random: np.random.Generator) -> Array:
    """A sensor gets noisy, by so many standard deviations of all."""
    noise = random.normal(scale=size * rows.std(), size=rows.shape)
    return rows + noise.astype(rows.dtype)


def turned(rows: Array, size: float, _random: np.random.Generator | None = None) -> Array:
    """The device is mounted askew, by so many degrees about z."""
    angle = np.deg2rad(size)
    turned = rows.copy()
    for first in (0, 3):
        x, y = rows[:, first], rows[:, first + 1]
        turned[:, first] = np.cos(angle) * x - np.sin(angle) * y
        turned[:, first + 1] = np.sin(angle) * x + np.cos(angle) * y
    return turned


def _column_offset(rows: Array, size: float, _random: np.random.Generator) -> Array:
    rows[:, 0] += size * rows[:, 0].std()
    return rows


def _column_scale(rows: Array, size: float, _random: np.random.Generator) -> Array:
    middle = rows[:, 1].mean()
    rows[:, 1] = middle + (1 + size) * (rows[:, 1] - middle)
    return rows


def _outliers(rows: Array, size: float, random: np.random.Generator) -> Array:
    """So many rows of one column are far outside."""
    hit = random.random(len(rows)) < size
    rows[hit, 0] += 5 * rows[:, 0].std()
    return rows


def _brightness(rows: Array, size: float, _random: np.random.Generator) -> Array:
    return rows + np.float32(size)


def blurred(rows: Array, size: float, _random: np.random.Generator | None = None) -> Array:
    """Each pixel gets so much of its four neighbours' mean."""
    beside = [np.roll(rows, step, axis) for axis in (2, 3) for step in (1, -1)]
    around = np.mean(beside, axis=0)
    mixed: Array = (1 - np.float32(size)) * rows + np.float32(size) * around
    return mixed


def normalized(pixels: Array) -> Array:
    """Return pictures as the image models take them."""
    found: Array = ((pixels.astype(np.float32) / 255) - _MEAN) / _DEVIATION
    return found
