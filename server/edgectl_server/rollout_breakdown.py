"""What a rollout has come to so far: devices by phase and state, and by what went wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgectl_server.domain.phases import count_selected, targets
from edgectl_server.domain.rollout_facts import GONE, Phase
from edgectl_server.domain.rollouts import DeviceState
from edgectl_server.rollout_admissions import (
    NOBODY,
    first_orders,
    phase_beginnings,
    phase_of_device,
)
from edgectl_server.rollout_phases import planner_policy
from edgectl_server.rollout_views import count_places, find_rollout
from edgectl_server.schemas import PhaseInfo, ReasonGroup, RolloutCounts, RolloutPolicy
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Rollout, RolloutDevice, RolloutEvent

__all__ = ["RolloutBreakdown"]

REASONS_MAX = 50
_ALL = (Phase("all"),)
"""Of a rollout without phases."""


class RolloutBreakdown:
    """Reads what rollouts have come to. Its methods may be called from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def phases(self, rollout_id: str) -> list[PhaseInfo]:
        """Return the phases of a rollout, with what has become of their devices.

        Devices that wait are counted where there is a place for them.

        Raises:
            NotFound: ``rollout.unknown``.
        """
        with self._database.read() as session:
            rollout = find_rollout(session, rollout_id)
            beginnings = phase_beginnings(session, rollout)
            states = _states_by_phase(session, rollout, beginnings)
            places = count_places(session, rollout)
        phases = planner_policy(RolloutPolicy.model_validate(rollout.policy)).phases or _ALL
        _seat(phases, states, count_selected(phases, Counter(places).elements()))
        began = [rollout.created_at, *(event.at for event in beginnings)]
        ended = [*began[1:], rollout.finished_at]
        return [
            PhaseInfo(
                number=number + 1,
                name=phase.name,
                standing=_standing(rollout, number),
                soak_s=phase.soak_s,
                approval=phase.approval,
                began_at=began[number] if number < len(began) else None,
                ended_at=ended[number] if number < len(ended) else None,
                counts=RolloutCounts(total=states[number].total(), **states[number]),
            )
            for number, phase in enumerate(phases)
        ]

    def reasons(self, rollout_id: str) -> list[ReasonGroup]:
        """Return why devices of a rollout have ended as they have, the most frequent first.

        Raises:
            NotFound: ``rollout.unknown``.
        """
        told = (
            select(
                RolloutDevice.state,
                RolloutDevice.reason["code"].as_string().label("code"),
                RolloutDevice.reason["detail"].as_string().label("detail"),
                RolloutDevice.updated_at,
            )
            .where(RolloutDevice.rollout == rollout_id)
            .subquery()
        )
        groups = (
            select(
                told.c.state,
                told.c.code,
                func.count(),
                func.max(told.c.updated_at),
                func.min(told.c.detail),
            )
            .where(told.c.code.is_not(None))
            .group_by(told.c.state, told.c.code)
            .order_by(func.count().desc(), told.c.code, told.c.state)
            .limit(REASONS_MAX)
        )
        with self._database.read() as session:
            find_rollout(session, rollout_id)
            return [
                ReasonGroup(state=state, code=code, devices=devices, newest_at=at, example=detail)
                for state, code, devices, at, detail in session.execute(groups)
            ]


def _states_by_phase(
    session: Session, rollout: Rollout, beginnings: Sequence[RolloutEvent]
) -> defaultdict[int, Counter[str]]:
    """Return how many devices of each phase are in which state."""
    orders = first_orders(rollout.id)
    phase = phase_of_device(orders, beginnings).label("phase")
    rows = session.execute(
        select(phase, RolloutDevice.state, func.count())
        .outerjoin(orders, orders.c.ordered == RolloutDevice.device)
        .where(RolloutDevice.rollout == rollout.id)
        .group_by("phase", RolloutDevice.state)
    )
    found: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for number, state, count in rows:
        found[number][state] += count
    return found


def _seat(
    phases: Sequence[Phase], states: defaultdict[int, Counter[str]], selected: Sequence[int]
) -> None:
    """Count devices that wait in the phases whose places they will take, in `states` itself."""
    waiting = states.pop(NOBODY, Counter[str]()).total()
    total = waiting + sum(_taken(counts) for counts in states.values())
    before = 0
    for number, target in enumerate(targets(phases, total, selected)):
        free = max(0, target - before - _taken(states[number]))
        # The last phase is of all devices that are left, whatever the others were short of.
        seated = waiting if number == len(phases) - 1 else min(free, waiting)
        if seated:
            states[number][DeviceState.PENDING.value] += seated
        waiting -= seated
        before = target


def _taken(counts: Counter[str]) -> int:
    return sum(count for state, count in counts.items() if state not in GONE)


def _standing(rollout: Rollout, number: int) -> Literal["past", "current", "next"]:
    if number > rollout.phase:
        return "next"
    return "current" if number == rollout.phase and rollout.finished_at is None else "past"
