"""Rollouts that stand in files: which one a file means, and what may be changed of it.

A file means the newest rollout of its version to its selector, with saved selectors replaced by
what they mean. What it says again changes nothing; so it may be applied as often as somebody likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_server.domain.rollouts import RolloutState
from edgectl_server.errors import Conflict
from edgectl_server.schemas import RolloutPolicy, Selector
from edgectl_server.storage.tables import Rollout

__all__ = ["CHANGEABLE", "find_meant", "what_changes"]

CHANGEABLE = frozenset(
    {
        "available_min",
        "available_percent",
        "deadline_s",
        "failures_max",
        "gates",
        "max_in_progress",
        "on_deadline",
        "priority",
    }
)
"""What the planner reads anew at each tick. The rest is in orders that devices have, or is where
the rollout stands."""
_ENDED = frozenset({RolloutState.COMPLETED.value})


def find_meant(session: Session, model: str, version_id: int, selector: Selector) -> Rollout | None:
    """Return the rollout that a file means; it is locked.

    Args:
        session: that writes.
        model: of the file.
        version_id: of its version.
        selector: as `settle_selector` returns it.
    """
    rows = session.scalars(
        select(Rollout)
        .where(Rollout.model == model, Rollout.version_id == version_id)
        .order_by(Rollout.created_at.desc(), Rollout.id)
        .with_for_update()
    )
    wanted = _same(selector)
    return next(
        (row for row in rows if _same(Selector.model_validate(row.selector)) == wanted), None
    )


def what_changes(rollout: Rollout, policy: RolloutPolicy) -> dict[str, Any]:
    """Return the fields of a rollout's policy that a file says otherwise, as it says them.

    Raises:
        Conflict: ``rollout.ended``: it was aborted; ``rollout.unchangeable``.
    """
    if rollout.state == RolloutState.ABORTED.value:
        raise Conflict(
            "rollout.ended",
            f"rollout {rollout.id} of this file was aborted: a file does not start it again",
            hint="start it by hand with `edgectl rollout start`, or name another version",
            data={"rollout": rollout.id},
        )
    if rollout.state in _ENDED:
        return {}
    before = RolloutPolicy.model_validate(rollout.policy).model_dump(mode="json")
    after = policy.model_dump(mode="json")
    changed = {name: value for name, value in after.items() if before[name] != value}
    fixed = sorted(set(changed) - CHANGEABLE)
    if fixed:
        raise Conflict(
            "rollout.unchangeable",
            f"rollout {rollout.id} has begun: {', '.join(fixed)} cannot be changed any more",
            hint="put it back in the file; or abort the rollout, and start it by hand",
            data={"rollout": rollout.id, "fields": fixed},
        )
    return changed


def _same(selector: Selector) -> Mapping[str, Any]:
    return {**selector.model_dump(), "devices": sorted(set(selector.devices))}
