"""Whether what was trained may take the place of what serves: gates on old rows and new ones. Pure.

Both models have answered the same rows. On new rows the challenger must gain; on old ones it may
lose no more than is allowed, so that devices that see what they always saw are not given up for
those that do not. Too few rows are no pass, and neither is a gain that chance may have made.

What chance makes is told row by row, as the built-in trainer does when it chooses: were both equal,
the lead among the rows that only one of them answers rightly would have the root of their number as
its standard error (McNemar, "Note on the sampling error of the difference between correlated
proportions", Psychometrika 12, 1947).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Bounds", "GateVerdict", "Pair", "judge", "passed"]


@dataclass(frozen=True)
class Bounds:
    """What is asked of a challenger; points are hundredths of an accuracy."""

    gain_points_min: float = 0.0
    """On new rows; what is not better than the champion at all never passes."""
    old_drop_points_max: float = 3.0
    rows_min: int = 20
    """New rows without which nothing is said."""


@dataclass(frozen=True)
class Pair:
    """Right answers of two models to the same rows."""

    rows: int
    champion: int
    challenger: int
    differ: int
    """Rows that one of them alone answers rightly."""

    @property
    def is_clear(self) -> bool:
        """Say whether the challenger leads by more than one standard error."""
        return self.challenger - self.champion > math.sqrt(self.differ)

    @property
    def gain_points(self) -> float:
        """Return by how much the challenger is better, in points."""
        return 100.0 * (self.challenger - self.champion) / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class GateVerdict:
    """What one gate says."""

    gate: Literal["new_rows", "gain", "old_rows"]
    verdict: Literal["passed", "failed", "not_enough_data", "not_asked"]
    detail: str
    value: float | None = None
    """Points; of `new_rows` rows."""
    limit: float | None = None


def judge(bounds: Bounds, old: Pair | None, new: Pair) -> tuple[GateVerdict, ...]:
    """Return what each gate says.

    Args:
        bounds: what is asked.
        old: on the data that the champion was pushed with; None: there was none.
        new: on the dataset's test split.
    """
    enough = new.rows >= bounds.rows_min
    found = [
        GateVerdict(
            "new_rows",
            "passed" if enough else "not_enough_data",
            f"{new.rows} labelled rows in the test split",
            float(new.rows),
            float(bounds.rows_min),
        )
    ]
    gained = new.gain_points >= bounds.gain_points_min and new.challenger > new.champion
    found.append(
        GateVerdict(
            "gain",
            "failed" if not gained else "passed" if new.is_clear else "not_enough_data",
            f"{new.challenger} of {new.rows} right, the version in service {new.champion}; "
            f"{new.differ} by one of both alone",
            round(new.gain_points, 4),
            bounds.gain_points_min,
        )
    )
    if old is None or not old.rows:
        detail = "the version in service was pushed without labelled evaluation data"
        return (*found, GateVerdict("old_rows", "not_asked", detail))
    kept = -old.gain_points <= bounds.old_drop_points_max
    found.append(
        GateVerdict(
            "old_rows",
            "passed" if kept else "failed",
            f"{old.challenger} of {old.rows} right, the version in service {old.champion}",
            round(old.gain_points, 4),
            -bounds.old_drop_points_max,
        )
    )
    return tuple(found)


def passed(verdicts: tuple[GateVerdict, ...]) -> bool:
    """Say whether nothing stands against the challenger."""
    return all(one.verdict in {"passed", "not_asked"} for one in verdicts)
