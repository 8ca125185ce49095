"""The phases of a rollout: how many devices may have had their turn, and when the next one begins.

Rules:

1. Targets count from the beginning of the rollout and never fall: 5, then 10 %, then all. A share
   is of the devices that the rollout has now, so that late joiners move it; it is rounded up.
2. A phase is filled when its target has been admitted; or, where a deadline is given and has
   passed, when nobody who could be ordered is left. It has settled when it is filled and nobody is
   in progress. From then on nobody is ordered, late joiners neither, until the next phase begins.
3. Settled, it soaks; after that its gates are asked. Each says passed, failed or not enough data;
   not enough data is no pass: it is waited for, or a person lets the phase pass.
4. A failed gate pauses the rollout. To resume it is to let that phase pass.
5. Nothing stands behind the last phase: there is nobody left to protect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from edgectl_server.domain.rollout_facts import (
    Gates,
    Phase,
    RolloutPolicy,
    Signals,
    Standing,
    Verdict,
)

__all__ = ["PhaseFacts", "advance", "has_failed", "is_last", "judge", "targets", "waits_for"]


_NO_SIGNALS = Signals()


@dataclass(frozen=True)
class PhaseFacts:
    """The devices of a rollout, counted."""

    total: int
    admitted: int
    in_progress: int
    committed: int
    bad: int
    reachable: int
    """Waiting, and could be ordered now."""
    signals: Signals = _NO_SIGNALS


def targets(phases: Sequence[Phase], total: int) -> tuple[int, ...]:
    """Return how many devices may have had their turn at the end of each phase."""
    found: list[int] = []
    for phase in phases:
        wanted = total
        if phase.devices is not None:
            wanted = min(phase.devices, total)
        elif phase.percent is not None:
            wanted = min(max(1, math.ceil(total * phase.percent / 100)), total)
        found.append(max([wanted, *found[-1:]]))
    if found:
        found[-1] = total
    return tuple(found) or (total,)


def is_last(policy: RolloutPolicy, standing: Standing) -> bool:
    """Say whether no phase comes after this one."""
    return standing.phase >= len(policy.phases) - 1


def is_past_deadline(policy: RolloutPolicy, since: datetime | None, now: datetime) -> bool:
    """Say whether whoever is offline has been waited for long enough."""
    if policy.deadline_s is None or since is None:
        return False
    return now - since >= timedelta(seconds=policy.deadline_s)


def advance(
    policy: RolloutPolicy, standing: Standing, facts: PhaseFacts, now: datetime
) -> Standing:
    """Return where a running rollout stands now: at most one phase further."""
    standing = standing if standing.since is not None else replace(standing, since=now)
    if is_last(policy, standing):
        return replace(standing, settled_at=None, verdicts=())
    target = targets(policy.phases, facts.total)[standing.phase]
    late = is_past_deadline(policy, standing.since, now) and facts.reachable == 0
    filled = facts.admitted >= target or late or standing.settled_at is not None
    if not filled or facts.in_progress:
        return replace(standing, settled_at=None, verdicts=())
    standing = replace(standing, settled_at=standing.settled_at or now)
    phase = policy.phases[standing.phase]
    assert standing.settled_at is not None
    if now - standing.settled_at < timedelta(seconds=phase.soak_s):
        return standing
    standing = replace(standing, verdicts=judge(policy.gates, facts))
    approved = standing.approved >= standing.phase
    passed = all(one.verdict == "passed" for one in standing.verdicts)
    if not (approved or (passed and not phase.approval)):
        return standing
    return Standing(
        phase=standing.phase + 1,
        since=now,
        approved=standing.approved,
        passed=standing.verdicts,
    )


def has_failed(standing: Standing) -> bool:
    """Say whether a gate has failed that nobody has let pass."""
    failed = any(one.verdict == "failed" for one in standing.verdicts)
    return failed and standing.approved < standing.phase


def waits_for(policy: RolloutPolicy, standing: Standing) -> str:
    """Say what a settled phase waits for; empty: it has not settled."""
    if standing.settled_at is None or is_last(policy, standing):
        return ""
    phase = policy.phases[standing.phase]
    if not standing.verdicts:
        until = standing.settled_at + timedelta(seconds=phase.soak_s)
        return f"phase {phase.name} soaks until {until:%Y-%m-%d %H:%M:%S} UTC"
    missing = [one for one in standing.verdicts if one.verdict == "not_enough_data"]
    if missing:
        told = "; ".join(f"{one.gate}: {one.detail}" for one in missing)
        return f"phase {phase.name} has not enough data: {told}"
    return f"phase {phase.name} waits for approval"


def judge(gates: Gates, facts: PhaseFacts) -> tuple[Verdict, ...]:
    """Return what each gate says."""
    found = [_judge_committed(gates, facts)]
    if gates.success_min is not None:
        found.append(_judge_success(gates, gates.success_min, facts))
    if gates.error_rate_max is not None:
        found.append(_judge_errors(gates, gates.error_rate_max, facts.signals))
    if gates.latency_p95_us_max is not None:
        found.append(_judge_latency(gates, gates.latency_p95_us_max, facts.signals))
    if gates.latency_ratio_max is not None:
        found.append(_judge_ratio(gates, gates.latency_ratio_max, facts.signals))
    return tuple(found)


def _judge_committed(gates: Gates, facts: PhaseFacts) -> Verdict:
    wanted = min(gates.committed_min, facts.total)
    detail = f"{facts.committed} of at least {wanted}"
    if facts.committed < wanted:
        return Verdict("committed", "not_enough_data", detail)
    return Verdict("committed", "passed", detail)


def _judge_success(gates: Gates, wanted: float, facts: PhaseFacts) -> Verdict:
    ended = facts.committed + facts.bad
    detail = f"{facts.committed} of {ended} ended devices, at least {wanted:g}"
    if ended < max(1, min(gates.committed_min, facts.total)):
        return Verdict("success", "not_enough_data", detail)
    return _says("success", detail, passed=facts.committed >= wanted * ended)


def _judge_errors(gates: Gates, limit: float, signals: Signals) -> Verdict:
    if signals.requests < max(1, gates.requests_min):
        return _few("error_rate", gates, signals)
    detail = f"{signals.errors} of {signals.requests} requests, at most {limit:g}"
    return _says("error_rate", detail, passed=signals.errors <= limit * signals.requests)


def _judge_latency(gates: Gates, limit: float, signals: Signals) -> Verdict:
    p95 = signals.latency_p95_us
    if p95 is None or signals.requests < max(1, gates.requests_min):
        return _few("latency_p95", gates, signals)
    return _says("latency_p95", f"{p95:.0f} µs, at most {limit:.0f} µs", passed=p95 <= limit)


def _judge_ratio(gates: Gates, limit: float, signals: Signals) -> Verdict:
    p95, reference = signals.latency_p95_us, signals.reference_p95_us
    few = min(signals.requests, signals.reference_requests) < max(1, gates.requests_min)
    if few or p95 is None or not reference:
        detail = (
            f"{signals.requests} requests, and {signals.reference_requests} of other versions,"
            f" of at least {gates.requests_min}"
        )
        return Verdict("latency_ratio", "not_enough_data", detail)
    detail = f"{p95 / reference:.2f} ({p95:.0f} µs against {reference:.0f} µs), at most {limit:g}"
    return _says("latency_ratio", detail, passed=p95 <= limit * reference)


def _few(gate: str, gates: Gates, signals: Signals) -> Verdict:
    detail = f"{signals.requests} of at least {gates.requests_min} requests"
    return Verdict(gate, "not_enough_data", detail)


def _says(gate: str, detail: str, *, passed: bool) -> Verdict:
    return Verdict(gate, "passed" if passed else "failed", detail)
