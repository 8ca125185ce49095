"""The phases of a rollout: how many devices may have had their turn, and when the next one begins.

Rules:

1. Targets count from the beginning of the rollout and never fall: 5, then 10 %, then all. A share
   is of the devices that the rollout has now, so that late joiners move it; it is rounded up.
2. A phase with a selector is for the devices that it, or one before it, means; they come first.
3. A phase is filled when its target has been admitted; when nobody waits any more; or, where a
   deadline is given and has passed, when nobody who could be ordered is left. It has settled when
   it is filled and nobody is in progress. From then on nobody is ordered, late joiners neither,
   until the next phase begins.
4. Settled, it soaks; after that its gates are asked. Each says passed, failed or not enough data;
   not enough data is no pass: it is waited for, or a person lets the phase pass. An experiment is
   asked from the beginning of the soak, so that it can fail before the end.
5. A failed gate pauses the rollout. To resume it is to let that phase pass.
6. To approve or to resume is to judge what was seen: a gate that fails only afterwards takes the
   approval back, and pauses.
7. Nothing stands behind the last phase: there is nobody left to protect.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from edgectl_server.domain.experiments import judge_experiment
from edgectl_server.domain.phase_gates import PhaseFacts, judge
from edgectl_server.domain.rollout_facts import (
    GateName,
    Gates,
    Phase,
    RolloutPolicy,
    Standing,
    Verdict,
)

__all__ = [
    "advance",
    "count_selected",
    "gates_of",
    "has_failed",
    "is_last",
    "is_past_deadline",
    "is_soaking",
    "targets",
    "waits_for",
]


def count_selected(phases: Sequence[Phase], from_phases: Iterable[int]) -> tuple[int, ...]:
    """Return how many devices each phase with a selector is for, those of earlier ones included.

    Args:
        phases: of the rollout.
        from_phases: of its devices, see `ObservedDevice.from_phase`.
    """
    first = list(from_phases)
    selected = [number for number, phase in enumerate(phases) if phase.where]
    return tuple(sum(1 for one in first if one <= number) for number in selected)


def targets(phases: Sequence[Phase], total: int, selected: Sequence[int] = ()) -> tuple[int, ...]:
    """Return how many devices may have had their turn at the end of each phase.

    Args:
        phases: of the rollout.
        total: devices that it has.
        selected: what `count_selected` says of them.
    """
    found: list[int] = []
    for number, phase in enumerate(phases):
        wanted = total
        if phase.where:
            wanted = selected[number]
        elif phase.devices is not None:
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


def gates_of(policy: RolloutPolicy, standing: Standing) -> Gates:
    """Return what must hold at the end of the phase that is on."""
    if not policy.phases:
        return policy.gates
    own = policy.phases[standing.phase].gates
    return policy.gates if own is None else own


def is_past_deadline(policy: RolloutPolicy, since: datetime | None, now: datetime) -> bool:
    """Say whether whoever is offline has been waited for long enough."""
    if policy.deadline_s is None or since is None:
        return False
    return now - since >= timedelta(seconds=policy.deadline_s)


def advance(
    policy: RolloutPolicy, standing: Standing, facts: PhaseFacts, now: datetime
) -> Standing:
    """Return where a running rollout stands now: at most one phase further."""
    seen = _failed(standing)
    standing = standing if standing.since is not None else replace(standing, since=now)
    if is_last(policy, standing):
        return replace(standing, settled_at=None, verdicts=())
    late = is_past_deadline(policy, standing.since, now) and facts.reachable == 0
    nobody_left = late or facts.waiting == facts.reachable == 0
    filled = (
        facts.admitted >= facts.targets[standing.phase]
        or nobody_left
        or standing.settled_at is not None
    )
    if not filled or facts.in_progress:
        return replace(standing, settled_at=None, verdicts=())
    standing = replace(standing, settled_at=standing.settled_at or now)
    phase = policy.phases[standing.phase]
    assert standing.settled_at is not None
    lasted = now - standing.settled_at
    tested = _test(phase, standing, facts, lasted)
    soaks = lasted < timedelta(seconds=phase.soak_s)
    said = () if soaks else judge(gates_of(policy, standing), facts)
    standing = replace(standing, verdicts=(*said, *tested))
    if _failed(standing) - seen:
        standing = replace(standing, approved=min(standing.approved, standing.phase - 1))
    if soaks:
        return standing
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


def _test(
    phase: Phase, standing: Standing, facts: PhaseFacts, lasted: timedelta
) -> tuple[Verdict, ...]:
    if phase.experiment is None:
        return ()
    before = next((one for one in standing.verdicts if one.gate == "experiment"), None)
    return (judge_experiment(phase.experiment, facts.signals, lasted, before),)


def is_soaking(standing: Standing) -> bool:
    """Say whether a settled phase has not come to its gates yet."""
    return all(one.gate == "experiment" for one in standing.verdicts)


def has_failed(standing: Standing) -> bool:
    """Say whether a gate has failed that nobody has let pass."""
    return bool(_failed(standing)) and standing.approved < standing.phase


def _failed(standing: Standing) -> frozenset[GateName]:
    return frozenset(one.gate for one in standing.verdicts if one.verdict == "failed")


def waits_for(policy: RolloutPolicy, standing: Standing) -> str:
    """Say what a settled phase waits for; empty: it has not settled."""
    if standing.settled_at is None or is_last(policy, standing):
        return ""
    phase = policy.phases[standing.phase]
    if is_soaking(standing):
        until = standing.settled_at + timedelta(seconds=phase.soak_s)
        return f"phase {phase.name} soaks until {until:%Y-%m-%d %H:%M:%S} UTC"
    missing = [one for one in standing.verdicts if one.verdict == "not_enough_data"]
    if missing:
        told = "; ".join(f"{one.gate}: {one.detail}" for one in missing)
        return f"phase {phase.name} has not enough data: {told}"
    return f"phase {phase.name} waits for approval"
