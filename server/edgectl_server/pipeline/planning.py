"""Which recipes are tried next: pure, from the rows so far.

::

    all of the table (MinMax ranges)
      └─ no static recipe keeps the accuracy ──► the two nearest, with Entropy and Percentile ranges
           └─ still none, or none that is as fast as fp32 ──► mixed precision

Other ranges make a variant neither smaller nor faster, and mixed precision makes it larger; so
neither is tried while a static recipe keeps the accuracy and is fast. Mixed precision leaves the
1, 2, 4, … operators in float that lose most by themselves, until it passes; then the fewest that
pass are found by halving the gap.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgectl_server.pipeline.recipes import Recipe
from edgectl_server.pipeline.spec import TrialRow

__all__ = ["keeps_accuracy", "mixed_counts", "nearest", "other_ranges"]

_NEAREST = 2


def keeps_accuracy(rows: Sequence[TrialRow]) -> bool:
    """Say whether a static recipe was accepted."""
    return any(row.status == "accepted" and _is_static(row) for row in rows)


def nearest(rows: Sequence[TrialRow], recipes: Sequence[Recipe]) -> list[Recipe]:
    """Return the static recipes that were rejected, the least loss first; portable before others.

    Args:
        rows: what was tried.
        recipes: those that the rows are of.
    """
    losses = {
        row.recipe: row.drop_points
        for row in rows
        if row.status == "rejected" and row.drop_points is not None and _is_static(row)
    }
    tried = [recipe for recipe in recipes if recipe.name in losses]
    return sorted(tried, key=lambda one: (losses[one.name], not one.portable))


def other_ranges(rows: Sequence[TrialRow], recipes: Sequence[Recipe]) -> list[Recipe]:
    """Return the recipes to try when MinMax ranges do not keep the accuracy."""
    if keeps_accuracy(rows):
        return []
    best = nearest(rows, recipes)[:_NEAREST]
    return [one.with_ranges(ranges) for one in best for ranges in ("entropy", "percentile")]


def mixed_counts(total: int, verdicts: dict[int, bool], at_once: int) -> list[int]:
    """Return how many operators to leave in float in the next trials; none when it is known.

    Args:
        total: number of operators that can be left in float; all of them is no quantization.
        verdicts: by count: whether the accuracy was kept.
        at_once: how many trials run at a time.
    """
    passed = min((count for count, good in verdicts.items() if good), default=None)
    failed = max((count for count, good in verdicts.items() if not good), default=0)
    if passed is None:
        counts: list[int] = []
        count = max(1, 2 * failed)
        while count < total and len(counts) < at_once:
            counts.append(count)
            count *= 2
        last = total - 1
        return counts or ([last] if failed < last and last not in verdicts else [])
    between = [count for count in range(failed + 1, passed) if count not in verdicts]
    if not between:
        return []
    step = max(1, len(between) // (at_once + 1))
    return between[step - 1 :: step][:at_once] if len(between) > at_once else between


def _is_static(row: TrialRow) -> bool:
    return row.recipe.startswith(("int8-static", "int8-mixed"))
