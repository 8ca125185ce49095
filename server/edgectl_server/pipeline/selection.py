"""Which variants are published, and in which order devices try them. Pure.

At most one int8 variant: of the accepted recipes the fastest by median latency, then the smallest,
then the most accurate; within 5 % is equally fast, within 2 % equally small, so that neither noise
nor a few bytes outweigh accuracy. It is tried before fp32 if it is not more than 10 % slower, or if
its file is less than 60 % of the size.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.spec import TrialRow

__all__ = ["best_int8", "check_int8", "gate_reason", "int8_first"]

_EQUALLY_FAST = 1.05
_EQUALLY_SMALL = 1.02
_SLOWER_MAX = 1.1
_SIZE_SHARE_MAX = 0.6
_ROUNDING = 1e-9


def gate_reason(metric: str, reference: float, value: float, max_drop_points: float) -> str:
    """Return why a variant's value is refused, or an empty text."""
    drop = 100 * (reference - value)
    if drop <= max_drop_points + _ROUNDING:
        return ""
    return (
        f"loses {drop:.2f} points of {metric} ({reference:.4f} to {value:.4f}), "
        f"allowed are {max_drop_points:g}"
    )


def best_int8(trials: Sequence[TrialRow]) -> TrialRow | None:
    """Return the accepted int8 trial that is published."""
    accepted = [row for row in trials if row.precision == "int8" and row.status == "accepted"]
    if not accepted:
        return None
    fastest = min(_latency(row) for row in accepted)
    fast = [row for row in accepted if _latency(row) <= fastest * _EQUALLY_FAST]
    smallest = min(_size(row) for row in fast)
    small = [row for row in fast if _size(row) <= smallest * _EQUALLY_SMALL]
    return max(small, key=lambda row: (row.value or 0.0, -_size(row), -_latency(row)))


def int8_first(int8: TrialRow, fp32: TrialRow) -> bool:
    """Say whether devices try the int8 variant before fp32."""
    as_fast = _latency(int8) <= _SLOWER_MAX * _latency(fp32)
    return as_fast or _size(int8) < _SIZE_SHARE_MAX * _size(fp32)


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


def _rounded_up(points: float) -> str:
    return f"{-(-points * 10 // 1) / 10:g}"
