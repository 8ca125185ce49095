"""Where a rollout stands in its phases: from its row to the planner's facts, and as it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Literal

from edgectl_server.domain import rollouts as domain
from edgectl_server.domain.phases import count_selected, is_last, is_soaking, targets
from edgectl_server.domain.rollout_facts import ADMITTED, GONE, Standing, Verdict
from edgectl_server.schemas import PhaseProgress, PhaseSpec, RolloutPolicy, VerdictInfo
from edgectl_server.storage.tables import Rollout

__all__ = ["keep_standing", "phase_progress", "planner_policy", "standing_of"]


def planner_policy(policy: RolloutPolicy) -> domain.RolloutPolicy:
    """Return what the planner needs of a policy."""
    return domain.RolloutPolicy(
        max_in_progress=policy.max_in_progress,
        failures_max=policy.failures_max,
        phases=tuple(_phase(one) for one in policy.phases),
        gates=domain.Gates(**policy.gates.model_dump()),
        deadline_s=policy.deadline_s,
        on_deadline=policy.on_deadline,
        available_min=policy.available_min,
        available_percent=policy.available_percent,
    )


def _phase(given: PhaseSpec) -> domain.Phase:
    tested, own = given.experiment, given.gates
    experiment = None if tested is None else domain.Experiment(**tested.model_dump())
    gates = None if own is None else domain.Gates(**own.model_dump())
    return domain.Phase(**{**given.model_dump(), "experiment": experiment, "gates": gates})


def standing_of(rollout: Rollout) -> Standing:
    """Return where a rollout stands in its phases."""
    return Standing(
        phase=rollout.phase,
        since=rollout.phase_since,
        settled_at=rollout.settled_at,
        approved=rollout.approved_phase,
        verdicts=tuple(Verdict(**one) for one in rollout.verdicts),
    )


def keep_standing(rollout: Rollout, standing: Standing) -> None:
    """Store where a rollout stands in its phases."""
    rollout.phase, rollout.phase_since = standing.phase, standing.since
    rollout.settled_at, rollout.approved_phase = standing.settled_at, standing.approved
    rollout.verdicts = [asdict(one) for one in standing.verdicts]


def phase_progress(
    rollout: Rollout, counts: Mapping[str, int], from_phases: Mapping[int, int]
) -> PhaseProgress | None:
    """Return how its phase is shown; None when it has no phases.

    Args:
        rollout: its row.
        counts: its devices by state.
        from_phases: those that are still of it, by the number of the first phase that is for them.
    """
    policy = planner_policy(RolloutPolicy.model_validate(rollout.policy))
    if not policy.phases:
        return None
    standing = standing_of(rollout)
    phase = policy.phases[standing.phase]
    total = sum(count for state, count in counts.items() if state not in GONE)
    selected = count_selected(policy.phases, Counter(from_phases).elements())
    until = None
    if standing.settled_at is not None:
        until = standing.settled_at + timedelta(seconds=phase.soak_s)
    return PhaseProgress(
        number=standing.phase + 1,
        phases=len(policy.phases),
        name=phase.name,
        target=targets(policy.phases, total, selected)[standing.phase],
        admitted=sum(counts.get(state.value, 0) for state in ADMITTED),
        step=_step(policy, standing),
        settled_at=standing.settled_at,
        soaks_until=until,
        verdicts=[VerdictInfo(**asdict(one)) for one in standing.verdicts],
    )


def _step(
    policy: domain.RolloutPolicy, standing: Standing
) -> Literal["ordering", "soaking", "gates", "approval"]:
    if standing.settled_at is None or is_last(policy, standing):
        return "ordering"
    if is_soaking(standing):
        return "soaking"
    passed = all(one.verdict == "passed" for one in standing.verdicts)
    return "approval" if passed else "gates"
