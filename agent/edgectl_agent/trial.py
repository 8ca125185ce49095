"""The trial: a candidate is proved on this very device by a process that may die alone."""

from __future__ import annotations

from enum import StrEnum

from edgectl_agent.bundle import Bundle
from edgectl_protocol.messages import Reason, TrialReport
from msgspec import Struct

__all__ = ["TrialResult", "Verdict", "run_trial"]


class Verdict(StrEnum):
    """What a trial says about a candidate."""

    OK = "ok"
    REJECTED = "rejected"  # the model's fault: never again for this digest
    FAILED = "failed"  # could not be tried now: may be tried again


class TrialResult(Struct, frozen=True, kw_only=True):
    """Verdict, the reason unless it is OK, and what was measured as far as it came."""

    verdict: Verdict
    reason: Reason | None = None
    report: TrialReport | None = None


def run_trial(bundle: Bundle, *, timeout_s: float, memory_bytes_max: int) -> TrialResult:
    """Prove `bundle` in a throw-away process."""
    raise NotImplementedError
