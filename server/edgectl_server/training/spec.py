"""What a training's child is asked to do, and what it leaves: files of JSON in its folder.

The folder of a run::

    source.onnx         the model in service, as it was pushed
    calibration.npz     that it was pushed with, if any
    evaluation.npz      the same
    dataset/            what to learn from
    out/model.onnx      what a trainer leaves
    out/metrics.json    figures of its own, an object of numbers
    out/calibration.npz, out/evaluation.npz     what the candidate is pushed with (`examination`)
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from edgectl_server.pipeline.spec import PipelineLimits

__all__ = [
    "CALIBRATION",
    "DATASET",
    "EVALUATION",
    "METRICS",
    "METRICS_MAX",
    "MODEL",
    "OUT",
    "SOURCE",
    "Accuracies",
    "Examined",
    "HeadOptions",
    "Metrics",
    "TrainSpec",
    "Trained",
]

SOURCE, DATASET, OUT = "source.onnx", "dataset", "out"
CALIBRATION, EVALUATION = "calibration.npz", "evaluation.npz"
MODEL, METRICS = "model.onnx", "metrics.json"
METRICS_MAX = 256
"""Figures that are kept of a trainer."""
Metrics = Annotated[
    dict[Annotated[str, Meta(pattern=r"^[^\x00]{1,256}$")], float], Meta(max_length=METRICS_MAX)
]


class HeadOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the built-in trainer works."""

    old_drop_points_max: Annotated[float, Meta(ge=0, le=100)] = 3.0
    """How many answers in a hundred to the old data may change, by choice of the strength."""


class TrainSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``spec.json`` of a run."""

    task: Literal["head", "examine"]
    model: str
    """Name, for messages."""
    limits: PipelineLimits = PipelineLimits()
    head: HeadOptions = HeadOptions()
    seed: int = 0


class Trained(Struct, frozen=True, kw_only=True):
    """``result.json`` of a trainer: its figures."""

    metrics: Metrics


class Accuracies(Struct, frozen=True, kw_only=True):
    """Right answers of both models to the same rows."""

    rows: int
    champion: int
    challenger: int
    differ: int
    """Rows that one of them answers rightly, and the other does not."""


class Examined(Struct, frozen=True, kw_only=True):
    """``result.json`` of an examination."""

    old: Accuracies | None
    """On the evaluation data that the champion was pushed with; None: it has none, or no labels."""
    new: Accuracies
    """On the dataset's test split."""
    labels: int
    """Rows of the dataset that have a label, all splits."""
    same: bool
    """The challenger is the champion, to the byte."""


def decode(content: bytes) -> TrainSpec:
    """Decode ``spec.json``, which the parent has written."""
    return msgspec.json.decode(content, type=TrainSpec)
