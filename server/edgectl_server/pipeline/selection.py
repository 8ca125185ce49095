"""Which variants are published, and in which order devices try them. Pure.

At most one fp16 and two int8 variants. Of the accepted int8 recipes one is the best by the
objective: ``latency`` looks for the fastest by median latency, then the smallest; ``size`` the
other way round. Within 5 % is equally fast, within 2 % equally small, so that neither noise nor a
few bytes outweigh the rest; of equals the one is taken that takes the smallest update from the
parent version, then the most accurate. A portable one (see `recipes`) gives way only to one that is
15 % faster or 10 % smaller; then it is published beside that one as ``int8-portable``, for the
processors on which the other is wrong.

A variant is tried before fp32 if it is not more than 10 % slower, or if its file is less than 60 %
of the size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.spec import Objective, Precision, TrialRow

__all__ = [
    "best_int8",
    "check_int8",
    "choose",
    "comes_first",
    "gate_reason",
    "measured_rows",
    "publish_order",
]

_EQUALLY_FAST = 1.05
_EQUALLY_SMALL = 1.02
_SLOWER_MAX = 1.1
_SIZE_SHARE_MAX = 0.6
_CLEARLY_FASTER = 0.85
_CLEARLY_SMALLER = 0.9
_ROUNDING = 1e-9
_MEASURED_MAX = 32
PORTABLE_VARIANT = "int8-portable"


def gate_reason(metric: str, reference: float, value: float, lost: float, allowed: float) -> str:
    """Return why a variant's value is refused, or an empty text.

    Args:
        metric: its name.
        reference: what fp32 reaches.
        value: what the variant reaches.
        lost: how much worse that is, in points (`metrics.points`).
        allowed: how many points may be lost.
    """
    if lost <= allowed + _ROUNDING:
        return ""
    return (
        f"loses {lost:.2f} points of {metric} ({reference:.4f} to {value:.4f}), "
        f"allowed are {allowed:g}"
    )


def measured_rows(trials: Sequence[TrialRow]) -> list[TrialRow]:
    """Return the rows of what may be published, to measure their latency; the smallest first."""
    accepted = [row for row in trials if row.status == "accepted"]
    return sorted(accepted, key=lambda row: (_size(row), row.recipe))[:_MEASURED_MAX]


def choose(
    trials: Sequence[TrialRow], precisions: Sequence[Precision], objective: Objective
) -> list[TrialRow]:
    """Return the rows to publish, each with the name of its variant.

    Args:
        trials: all rows, the latencies of those that were accepted among them.
        precisions: what was asked for.
        objective: of the choice between int8 recipes.
    """
    wanted = "fp32" in precisions
    chosen = [
        row for row in trials if row.precision == "fp32" and wanted and row.status == "accepted"
    ]
    chosen += [row for row in trials if row.precision == "fp16" and row.status == "accepted"]
    best = best_int8(trials, objective)
    portable = best_int8([row for row in trials if row.portable], objective)
    if best is None or portable is None:
        return chosen if best is None else [*chosen, best]
    if not _clearly_better(best, portable):
        return [*chosen, portable]
    return [*chosen, best, msgspec.structs.replace(portable, variant=PORTABLE_VARIANT)]


def best_int8(trials: Sequence[TrialRow], objective: Objective = "latency") -> TrialRow | None:
    """Return the accepted int8 trial that is the best by the objective."""
    left = [row for row in trials if row.precision == "int8" and row.status == "accepted"]
    if not left:
        return None
    for key, equal in _KEYS[objective]:
        least = min(key(row) for row in left)
        left = [row for row in left if key(row) <= least * equal]
    return max(
        left,
        key=lambda row: (
            -(row.update_bytes or 0),
            row.value or 0.0,
            row.portable,
            -_size(row),
            -_latency(row),
        ),
    )


def publish_order(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Return the rows in the order in which devices try them, all else being equal.

    Int8 in the order of `choose`, the best by the objective before the portable one; then fp16,
    then fp32 for another runtime.
    """
    fp32 = next((row for row in rows if row.precision == "fp32"), None)
    others = [row for kind in ("int8", "fp16") for row in rows if row.precision == kind]
    others += [row for row in rows if row.precision == "fp32" and row is not fp32]
    if fp32 is None:
        return others
    before = [row for row in others if comes_first(row, fp32)]
    return [*before, fp32, *(row for row in others if row not in before)]


def comes_first(row: TrialRow, fp32: TrialRow, *, by_size: bool = True) -> bool:
    """Say whether devices try a variant before fp32: for its speed, or else for its size."""
    as_fast = _latency(row) <= _SLOWER_MAX * _latency(fp32)
    return as_fast or (by_size and _size(row) < _SIZE_SHARE_MAX * _size(fp32))


def check_int8(trials: Sequence[TrialRow], *, measured: bool, fp32_wanted: bool) -> str:
    """Decide what it means that no int8 recipe was accepted.

    Args:
        trials: all rows; int8 was asked for.
        measured: there was data to measure on.
        fp32_wanted: the fp32 variant may be published in its place.

    Returns:
        A warning for the report: fp32 alone is published.

    Raises:
        PipelineRefused: ``pipeline.accuracy`` (a recipe was measured and lost too much),
            ``pipeline.quantization`` (none could be made), ``pipeline.no_data``.
    """
    int8 = [row for row in trials if row.precision == "int8"]
    if not measured:
        if fp32_wanted:
            return (
                "No calibration or evaluation data: int8 was not tried, only fp32 is published. "
                "Push again with --calibration and --evaluation."
            )
        raise PipelineRefused(
            "pipeline.no_data",
            "Only int8 was asked for, and there is no data to make and measure it with.",
            "Push with --calibration and --evaluation, or with --precision fp32.",
        )
    if all(row.status == "skipped" for row in int8) and fp32_wanted:
        reasons = sorted({row.reason for row in int8})
        return f"No int8 variant: {'; '.join(reasons)}. Only fp32 is published."
    rejected = [row for row in int8 if row.status == "rejected"]
    if not rejected:
        reasons = sorted({row.reason for row in int8})
        raise PipelineRefused(
            "pipeline.quantization",
            f"No int8 recipe could make a variant of this model ({'; '.join(reasons)[:400]}).",
            "Push with --precision fp32 to publish it unquantized.",
        )
    nearest = min(rejected, key=lambda row: row.drop_points or 0.0)
    more = (
        ""
        if any(row.recipe.startswith("int8-static") and row.status != "skipped" for row in int8)
        else " More recipes can be tried with --calibration."
    )
    raise PipelineRefused(
        "pipeline.accuracy",
        f"None of {len(int8)} int8 recipes keeps the accuracy; the nearest, {nearest.recipe}, "
        f"{nearest.reason}.",
        f"Allow more with --max-drop {_rounded_up(nearest.drop_points or 0.0)}, publish it "
        f"unquantized with --precision fp32, or push more calibration samples.{more}",
    )


def _latency(row: TrialRow) -> float:
    return row.latency_p50_us or 0.0


def _size(row: TrialRow) -> int:
    return row.size_bytes or 0


_KEYS: dict[Objective, tuple[tuple[Callable[[TrialRow], float], float], ...]] = {
    "latency": ((_latency, _EQUALLY_FAST), (_size, _EQUALLY_SMALL)),
    "size": ((_size, _EQUALLY_SMALL), (_latency, _EQUALLY_FAST)),
}
"""What is compared, and up to which factor values are equal."""


def _clearly_better(row: TrialRow, other: TrialRow) -> bool:
    faster = _latency(row) < _CLEARLY_FASTER * _latency(other)
    return faster or _size(row) < _CLEARLY_SMALLER * _size(other)


def _rounded_up(points: float) -> str:
    return f"{-(-points * 10 // 1) / 10:g}"
