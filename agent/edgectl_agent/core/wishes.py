"""What a person at the device may ask for, and what becomes of it.

Rules:

1. An installation goes the way of every update: fetched, verified, tried, observed. It counts until
   a newer order of the server comes, waits for no maintenance window and no partner, and is never a
   shadow. What was found bad is not installed: only the server forgives.
2. A rollback returns to what ran before, and what ran until then is remembered as bad, so that the
   order that is still there does not install it again. It goes before everything else, and waits
   for nothing; only what is being switched in another slot is finished first, by asking again.
3. Slots that were switched together go back together; only the one that was named is blamed.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgectl_agent.core.orders import choose
from edgectl_agent.core.record import NO_NONCE, LocalWish, Record, SlotPointer, Update
from edgectl_protocol.messages import SLOTS_MAX, Candidate, Installed, Reason, SlotOrder
from edgectl_protocol.metadata import target_path
from edgectl_protocol.update import UpdateState

__all__ = ["SWITCHING", "as_committed", "cannot_install", "cannot_roll_back", "with_wish"]

_S = UpdateState
SWITCHING = frozenset({_S.ACTIVATING, _S.OBSERVING, _S.ROLLING_BACK})
"""States between the first change of a pointer and the last."""


def cannot_install(record: Record, slot: str, wanted: SlotOrder) -> Reason | None:
    """Say why a person's wish is refused, or None."""
    if choose(wanted, record.rejected) is None:
        return Reason(
            code="update.remembered",
            detail="every candidate was found bad on this device before",
        )
    if len({*record.local, slot}) > SLOTS_MAX or len({*record.updates, slot}) > SLOTS_MAX:
        return Reason(code="install.slots", detail=f"a device has at most {SLOTS_MAX} slots")
    return None


def with_wish(record: Record, slot: str, wanted: SlotOrder) -> dict[str, LocalWish]:
    """Return the local wishes with a new one among them."""
    update = record.updates.get(slot)
    last = max(record.wish(slot), update.wish if update else 0)
    return {**record.local, slot: LocalWish(wanted=wanted, number=last + 1)}


def cannot_roll_back(
    record: Record, pointers: Mapping[str, SlotPointer], slot: str
) -> Reason | None:
    """Say why a slot is not rolled back, or None."""
    update = record.updates.get(slot)
    if update is not None and update.state in SWITCHING:
        return None  # then it is a matter of that update
    busy = [one.slot for one in record.updates.values() if one.state in SWITCHING]
    if busy:
        return Reason(
            code="rollback.busy",
            detail=f"slot {busy[0]} is {record.updates[busy[0]].state}: try again after that",
        )
    pointer = pointers.get(slot, SlotPointer())
    if pointer.running is None or pointer.previous is None:
        return Reason(code="rollback.nothing", detail=f"nothing ran in slot {slot} before")
    if pointer.previous.manifest in record.rejected:
        return Reason(
            code="rollback.rejected", detail="what ran before was found bad on this device"
        )
    return None


def as_committed(record: Record, slot: str, running: Installed) -> Update:
    """Return the update that brought what a slot runs, also where another has followed it."""
    update = record.updates.get(slot)
    if update and update.state is _S.COMMITTED and update.manifest == running.manifest:
        return update
    model = update.wanted.model if update else slot
    target = target_path(model, running.version, running.variant)
    candidate = Candidate(variant=running.variant, target=target, manifest=running.manifest)
    return Update(
        slot=slot,
        order=record.counter,
        nonce=record.nonce or NO_NONCE,
        wanted=SlotOrder(model=model, version=running.version, candidates=(candidate,)),
        manifest=running.manifest,
        state=_S.COMMITTED,
    )
