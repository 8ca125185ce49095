"""In which phase each device of a rollout had its turn, as conditions of a statement.

A device belongs to the phase that was on when it was first ordered: the rollout's events say when
that was, and when each phase began. A device that has come to an end without an order, because it
was offline for too long or the rollout was aborted, belongs to the last phase that has begun.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Subquery, and_, case, func, select
from sqlalchemy.orm import Session

from edgectl_server.domain.rollouts import DeviceState
from edgectl_server.storage.tables import Rollout, RolloutDevice, RolloutEvent

__all__ = ["NOBODY", "first_orders", "phase_beginnings", "phase_of_device"]

NOBODY = -1
"""The phase of devices that still wait for their turn."""


def phase_beginnings(session: Session, rollout: Rollout) -> Sequence[RolloutEvent]:
    """Return the events with which the second phase and those after it began."""
    return session.scalars(
        select(RolloutEvent)
        .where(RolloutEvent.rollout == rollout.id, RolloutEvent.kind == "phase_began")
        .order_by(RolloutEvent.revision)
    ).all()


def first_orders(rollout_id: str) -> Subquery:
    """Return ``ordered`` (name of a device) and ``revision`` of its first order."""
    # Grouped by the label: PostgreSQL takes the same expression with its own parameter for another.
    ordered = RolloutEvent.data["device"].as_string().label("ordered")
    return (
        select(ordered, func.min(RolloutEvent.revision).label("revision"))
        .where(RolloutEvent.rollout == rollout_id, RolloutEvent.kind == "device_ordered")
        .group_by("ordered")
        .subquery()
    )


def phase_of_device(orders: Subquery, beginnings: Sequence[RolloutEvent]) -> ColumnElement[int]:
    """Return the number of the phase, from 0, of a `RolloutDevice`; `NOBODY` while it waits.

    Args:
        orders: `first_orders`, joined outwards by name.
        beginnings: `phase_beginnings`.
    """
    never = orders.c.revision.is_(None)
    return case(
        (and_(never, RolloutDevice.state == DeviceState.PENDING.value), NOBODY),
        (never, len(beginnings)),
        *(
            (orders.c.revision < beginning.revision, number)
            for number, beginning in enumerate(beginnings)
        ),
        else_=len(beginnings),
    )
