"""Which steps have been handed out and have not come back, and for how long.

Steps run one after another, so that only the oldest one runs; its time begins when the one before
it has come back.
"""

from __future__ import annotations

from enum import StrEnum

from edgectl_agent.core import steps
from edgectl_agent.core.limits import Limits

__all__ = ["Overrun", "StepWatch"]


class Overrun(StrEnum):
    """How the running step is late."""

    LATE = "late"
    """It overran its limit: cancel it."""
    STUCK = "stuck"
    """It was cancelled and does not come back."""


class StepWatch:
    """Watches one worker."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._out: dict[int, float] = {}
        """Steps that are out, oldest first, and how long each may take."""
        self._since_s = 0.0
        """Since when the oldest one runs."""
        self._cancelled: set[int] = set()
        self._cancelled_s = 0.0

    @property
    def due_s(self) -> float | None:
        """Elapsed seconds at which the running step is late or stuck."""
        running = next(iter(self._out), None)
        if running is None:
            return None
        if running in self._cancelled:
            return max(self._cancelled_s, self._since_s) + self._limits.cancel_s
        return self._since_s + self._out[running]

    @property
    def running(self) -> int | None:
        """Number of the step that runs."""
        return next(iter(self._out), None)

    def submitted(self, step: steps.Step, elapsed_s: float) -> None:
        """Note that a step is handed out."""
        if not self._out:
            self._since_s = elapsed_s
        self._out[step.step] = self._limit_s(step)

    def cancelled(self, elapsed_s: float) -> None:
        """Note that everything that is out was asked to end."""
        self._cancelled = set(self._out)
        self._cancelled_s = elapsed_s

    def returned(self, number: int, elapsed_s: float) -> None:
        """Note that a step has come back."""
        if self._out.pop(number, None) is not None:
            self._cancelled.discard(number)
            self._since_s = elapsed_s

    def check(self, elapsed_s: float) -> Overrun | None:
        """Say whether the running step is late."""
        due_s = self.due_s
        if due_s is None or elapsed_s < due_s:
            return None
        return Overrun.STUCK if self.running in self._cancelled else Overrun.LATE

    def _limit_s(self, step: steps.Step) -> float:
        limits = self._limits
        of_kind: dict[type[steps.Step], float] = {
            steps.Refresh: limits.refresh_s,
            steps.Download: limits.download_s,
            steps.Verify: limits.verify_s,
            steps.Trial: limits.trial_s,
            steps.Accompany: limits.accompany_s,
            steps.Activate: limits.activate_s,
            steps.RollBack: limits.roll_back_s,
        }
        return of_kind[type(step)]
