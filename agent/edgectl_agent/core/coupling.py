"""Slots that switch together or not at all.

Rules:

1. Which slots are coupled, the newest order says. A slot of which nothing is wanted, and one that
   runs what a person at the device wants there, keeps nobody back.
2. A member is ready when it is proved and waits, or when it runs already what is wanted. When all
   are, those that wait are switched in one step, observed together, and committed or taken back
   together.
3. While a member is still coming, the others wait. When one has ended without being ready, because
   every candidate of it was rejected or it failed for the last time, nothing will ever complete
   the group: the others end too, rejected or failed as it has, and without blame.
4. Of a group that is taken back only the guilty member's digest is remembered as bad.
5. What runs as it is wanted and is in no record, because the journal was lost, is not taken for
   proved: it may have been switched to a moment before. It is observed, with all that got into
   their slots in the same step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum

from edgectl_agent.core.orders import choose, is_open
from edgectl_agent.core.record import Record, SlotPointer
from edgectl_protocol.messages import Reason
from edgectl_protocol.update import ENDED, UpdateState

__all__ = [
    "Standing",
    "coupled",
    "missing",
    "partner_reason",
    "spoiled",
    "standing",
    "together",
    "unknown",
]

_S = UpdateState


class Standing(StrEnum):
    """How far a slot is with what is wanted of it."""

    RUNS = "runs"
    PROVED = "proved"
    COMING = "coming"
    ENDED = "ended"


def coupled(record: Record, slot: str) -> tuple[str, ...]:
    """Return the slots that switch together with `slot`, itself among them, sorted."""
    order = record.order
    if order is not None and slot not in record.local:
        for group in order.coupled:
            if slot in group:
                others = (one for one in group if one in order.slots and one not in record.local)
                return tuple(sorted({slot, *others}))
    return (slot,)


def standing(
    slot: str,
    record: Record,
    pointers: Mapping[str, SlotPointer],
    retrying: Collection[str],
) -> Standing:
    """Say how far `slot` is.

    Args:
        slot: of which something is wanted.
        record: what is remembered.
        pointers: what runs.
        retrying: slots whose failed update will be tried again.
    """
    wanted = record.wanted(slot)
    assert wanted is not None, slot
    update = record.updates.get(slot)
    if update is not None and update.state not in ENDED:
        proved = update.state is _S.WAITING and update.is_for(wanted)
        return Standing.PROVED if proved else Standing.COMING
    pointer = pointers.get(slot, SlotPointer())
    candidate = choose(wanted, record.rejected)
    if candidate and pointer.running and candidate.manifest == pointer.running.manifest:
        return Standing.RUNS
    if slot in retrying or is_open(slot, record, pointer):
        return Standing.COMING
    return Standing.ENDED


def missing(
    slot: str,
    record: Record,
    pointers: Mapping[str, SlotPointer],
    retrying: Collection[str],
) -> Reason | None:
    """Say for whom `slot`, which is proved, has to wait, or None."""
    late = [
        one
        for one in coupled(record, slot)
        if one != slot and standing(one, record, pointers, retrying) is Standing.COMING
    ]
    if not late:
        return None
    return Reason(
        code="update.partners", detail=f"switches together with {', '.join(late)}, not ready yet"
    )


def spoiled(
    slot: str,
    record: Record,
    pointers: Mapping[str, SlotPointer],
    retrying: Collection[str],
) -> Reason | None:
    """Say which partner of `slot` has ended without being ready, or None."""
    for one in coupled(record, slot):
        if one == slot or standing(one, record, pointers, retrying) is not Standing.ENDED:
            continue
        update = record.updates[one]
        why = update.reason.code if update.reason else str(update.state)
        if update.state is _S.FAILED:
            return Reason(code="update.partner_failed", detail=f"{one}, coupled with it: {why}")
        return Reason(code="update.partner_rejected", detail=f"{one}, coupled with it: {why}")
    return None


def partner_reason(slot: str, reason: Reason) -> Reason:
    """Return why the partners of `slot` are taken back with it."""
    return Reason(code="update.partner", detail=f"switched back with {slot}: {reason.code}")


def together(
    slot: str, record: Record, pointers: Mapping[str, SlotPointer], withdrawn: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the slots that go back in one step with `slot`, itself among them, sorted.

    Those that got in one step with it what they still run, whatever has been tried there since; and
    those of `withdrawn` that the order couples with it.
    """
    found = {slot}
    group = pointers.get(slot, SlotPointer()).together
    found.update(one for one in group if one in pointers and pointers[one].together == group)
    for names in record.order.coupled if record.order else ():
        if slot in names:
            found.update(set(names) & set(withdrawn))
    return tuple(sorted(found))


def unknown(record: Record, pointers: Mapping[str, SlotPointer]) -> tuple[str, ...]:
    """Return slots that run what is wanted there and of which the record knows nothing.

    They are of one step, sorted. Where one of that step is known, or shall run something else, none
    of them is taken: their halves would part.
    """
    for slot in record.wanted_slots:
        group = together(slot, record, pointers)
        if all(_is_unknown(one, record, pointers) for one in group):
            return group
    return ()


def _is_unknown(slot: str, record: Record, pointers: Mapping[str, SlotPointer]) -> bool:
    wanted, running = record.wanted(slot), pointers.get(slot, SlotPointer()).running
    if slot in record.updates or wanted is None or running is None:
        return False
    candidate = choose(wanted, record.rejected)
    return candidate is not None and candidate.manifest == running.manifest
