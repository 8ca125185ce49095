"""The reference that a device's counts are compared with: ``reference.json`` of a variant.

It is made from the best data that was pushed, evaluation before calibration, with the answers of
this very variant, because int8 is sure of other things than fp32. Made-up samples are none: then
the variant has no reference, and nothing of it is watched for drift.

Edges are quantiles, so that every bin of the reference holds about as many rows; where many rows
share one value, there are fewer of them. They have six digits, which devices need not fetch more
of. Those of the parent version are kept as long as they cut
the rows well enough: then windows of both versions can be laid side by side, and of the reference
little more than the counts is new to devices that have the parent.
"""

from __future__ import annotations

from decimal import ROUND_FLOOR, Context
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from edgectl_protocol.histograms import CONFIDENCE_EDGES
from edgectl_protocol.manifest import Scores, TensorSpec
from edgectl_protocol.watching import (
    BINS_MAX,
    DEFINITION,
    REFERENCE_BYTES_MAX,
    Feature,
    Reference,
)
from edgectl_server.pipeline.data import Array, Samples
from edgectl_server.pipeline.execution import Runner
from edgectl_server.pipeline.spec import encode
from edgectl_statistics.dispersion import Dispersion, design_effects, dispersion
from edgectl_statistics.features import Described, plan_of

__all__ = ["make_reference", "write_reference"]

ROWS_MAX = 4096
_SIX_DIGITS = Context(prec=6, rounding=ROUND_FLOOR)
_AT_ONCE = 256
_BLOCKS = 16
_BLOCK_ROWS_MIN = 8
_SHARE_MAX = 4 / BINS_MAX
"""Of the rows in one bin of edges that are kept: four times an even share…"""
_SHARE_GROWTH_MAX = 1.5
"""…or so much more than it was, where many rows share one value."""


def write_reference(
    path: Path,
    runner: Runner,
    samples: Samples,
    *,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    scores: Scores | None,
    seed: int,
    before: Reference | None = None,
) -> bool:
    """Describe the samples and this variant's answers; say whether there is a reference now.

    Args:
        path: the file; the same samples and answers give the same bytes.
        runner: the variant.
        samples: the best data there is.
        inputs: of the model.
        outputs: of the model.
        scores: its class scores, if it has any.
        seed: of the choice, where there are more samples than are needed.
        before: of the parent's variant, whose edges may be kept.
    """
    plan = plan_of(inputs, outputs, scores)
    if plan is None or samples.role == "random":
        return False
    chosen = samples.choose(ROWS_MAX, seed)
    answers = runner.run(chosen)
    names = plan.names(chosen.inputs, answers)
    parts = [
        plan.describe(
            {name: array[at : at + _AT_ONCE] for name, array in chosen.inputs.items()},
            {name: array[at : at + _AT_ONCE] for name, array in answers.items()},
        )
        for at in range(0, chosen.count, _AT_ONCE)
    ]
    values, rows_classes = zip(*parts, strict=True)
    described = Described(np.concatenate(values), np.concatenate(rows_classes))
    reference = make_reference(names, described, chosen, before)
    width = 0 if plan.scores is None else answers[plan.scores.output].shape[-1]
    content = encode(
        Reference(
            definition=DEFINITION,
            source="evaluation" if samples.role == "evaluation" else "calibration",
            dataset=samples.digest,
            rows=chosen.count,
            inputs=plan.inputs,
            outputs=plan.outputs,
            features=reference,
            classes=tuple(np.bincount(described.classes, minlength=width).tolist()),
            **_confidence(described, chosen.labels),
        )
    )
    if not reference or len(content) > REFERENCE_BYTES_MAX:
        return False
    path.write_bytes(content)
    return True


def make_reference(
    names: tuple[str, ...],
    described: Described,
    samples: Samples,
    before: Reference | None = None,
) -> tuple[Feature, ...]:
    """Return how the rows are distributed, feature by feature.

    Args:
        names: of the features.
        described: the rows.
        samples: whose they are; of their labels, blocks are of rows of one class.
        before: of the parent's variant, whose edges may be kept.
    """
    groups = _groups(described, samples)
    known = {} if before is None else {one.name: one for one in before.features}
    counted = [
        _feature(name, values, groups, known.get(name))
        for name, values in zip(names, described.values.T, strict=True)
        if np.isfinite(values).all()
    ]
    effects = design_effects([parts for _, parts in counted])
    return tuple(
        msgspec.structs.replace(feature, design_effect=round(effect, 3))
        for (feature, _), effect in zip(counted, effects, strict=True)
    )


def _feature(
    name: str,
    values: Array,
    groups: list[list[npt.NDArray[np.int64]]],
    before: Feature | None,
) -> tuple[Feature, list[Dispersion]]:
    """Return a feature, and how much its blocks vary."""
    quantiles = np.quantile(values, np.arange(1, BINS_MAX) / BINS_MAX)
    edges = np.unique([_short(one) for one in quantiles.tolist()])
    if before is not None and _still_cuts(before, values):
        edges = np.array(before.edges)
    places = np.searchsorted(edges, values, "right")
    bins = len(edges) + 1
    parts = [
        dispersion(np.stack([np.bincount(places[block], minlength=bins) for block in group]))
        for group in groups
    ]
    feature = Feature(
        name=name,
        edges=tuple(edges.tolist()),
        counts=tuple(np.bincount(places, minlength=bins).tolist()),
        low=float(values.min()),
        high=float(values.max()),
    )
    return feature, parts


def _short(edge: float) -> float:
    """Return six digits of an edge, or a little less: what was on it or above it stays so."""
    return float(_SIX_DIGITS.create_decimal_from_float(edge))


def _still_cuts(before: Feature, values: Array) -> bool:
    """Say whether no bin of the older edges holds too much of the rows."""
    edges = np.array(before.edges)
    counts = np.bincount(np.searchsorted(edges, values, "right"), minlength=len(edges) + 1)
    largest = max(before.counts) / max(1, sum(before.counts))
    return bool(counts.max() / len(values) <= max(_SHARE_MAX, _SHARE_GROWTH_MAX * largest))


def _groups(described: Described, samples: Samples) -> list[list[npt.NDArray[np.int64]]]:
    """Return blocks of neighbouring rows, by class: sorting by class is no correlation."""
    classes = described.classes
    if samples.labels is not None and samples.labels.dtype.kind == "i":
        classes = samples.labels
    if len(classes) != samples.count:
        classes = np.zeros(samples.count, np.int64)
    groups = []
    for one in np.unique(classes):
        rows = np.flatnonzero(classes == one)
        blocks = min(_BLOCKS, len(rows) // _BLOCK_ROWS_MIN)
        if blocks > 1:
            groups.append(list(np.array_split(rows, blocks)))
    return groups


def _confidence(described: Described, labels: Array | None) -> dict[str, tuple[int, ...]]:
    """Return how often the variant is right when it is so sure; nothing without known classes."""
    if labels is None or labels.dtype.kind != "i" or len(labels) != len(described.classes):
        return {}
    places = np.searchsorted(np.array(CONFIDENCE_EDGES), described.values[:, 0], "right")
    bins = len(CONFIDENCE_EDGES) + 1
    right = places[described.classes == labels]
    return {
        "confidence": tuple(np.bincount(places, minlength=bins).tolist()),
        "right": tuple(np.bincount(right, minlength=bins).tolist()),
    }
