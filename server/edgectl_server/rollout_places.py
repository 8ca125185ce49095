"""Which phase of a rollout each of its devices is for, where phases have selectors.

A device is for the first phase whose selector means it, and for all that come after; one that none
means is for the first phase without a selector.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, case, func, literal, select, update
from sqlalchemy.orm import Session

from edgectl_server.device_selection import compile_selector
from edgectl_server.domain.rollouts import DeviceState
from edgectl_server.errors import Conflict
from edgectl_server.rollout_selection import read_where, settle_where
from edgectl_server.schemas import PhaseSpec, RolloutPolicy
from edgectl_server.storage.tables import Device, Rollout, RolloutDevice

__all__ = ["check_places", "place_devices", "read_places", "settle_phases"]

_NAMES_AT_ONCE = 500


def settle_phases(session: Session, policy: RolloutPolicy) -> RolloutPolicy:
    """Return a policy whose phases go on to mean what they mean when saved selectors are changed.

    Raises:
        Refused: ``selector.syntax``, ``selector.unknown``, ``rollout.selector``.
    """
    phases = [
        phase.model_copy(update={"where": settle_where(session, phase.where)})
        for phase in policy.phases
    ]
    return policy.model_copy(update={"phases": phases})


def read_places(
    session: Session, phases: Sequence[PhaseSpec], names: Sequence[str]
) -> dict[str, int]:
    """Return the number of the first phase that is for each device, from 0."""
    selectors = _selectors(phases)
    if not selectors:
        return dict.fromkeys(names, 0)
    found: dict[str, int] = dict.fromkeys(names, len(selectors))
    first = _first_phase(session, selectors)
    for at in range(0, len(names), _NAMES_AT_ONCE):
        some = names[at : at + _NAMES_AT_ONCE]
        rows = session.execute(select(Device.id, first).where(Device.id.in_(some)))
        found.update((name, number) for name, number in rows)
    return found


def check_places(phases: Sequence[PhaseSpec], places: Iterable[int]) -> None:
    """Refuse a phase that is for no device: it would wait for ever.

    Raises:
        Conflict: ``rollout.no_devices``.
    """
    taken = set(places)
    for number, where in enumerate(_selectors(phases)):
        if number not in taken:
            raise Conflict(
                "rollout.no_devices",
                f"no device of the rollout is {where}, or only of an earlier phase too",
                hint="`edgectl devices list --where` says who is meant",
                data={"phase": phases[number].name},
            )


def place_devices(session: Session, rollout: Rollout) -> None:
    """Note for devices that still wait which phase is for them now."""
    selectors = _selectors(RolloutPolicy.model_validate(rollout.policy).phases)
    if rollout.phase >= len(selectors):
        return
    first = (
        select(_first_phase(session, selectors))
        .where(Device.id == RolloutDevice.device)
        .scalar_subquery()
    )
    place = func.coalesce(first, len(selectors))
    session.execute(
        update(RolloutDevice)
        .where(
            RolloutDevice.rollout == rollout.id,
            RolloutDevice.state == DeviceState.PENDING.value,
            RolloutDevice.from_phase != place,
        )
        .values(from_phase=place)
        .execution_options(synchronize_session=False)
    )


def _selectors(phases: Sequence[PhaseSpec]) -> list[str]:
    return [phase.where for phase in phases if phase.where]


def _first_phase(session: Session, selectors: Sequence[str]) -> ColumnElement[int]:
    conditions = [compile_selector(read_where(session, where)) for where in selectors]
    return case(
        *((condition, literal(number)) for number, condition in enumerate(conditions)),
        else_=literal(len(selectors)),
    )
