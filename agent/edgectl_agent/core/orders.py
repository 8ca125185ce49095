"""Judgements about orders, each a pure function that the machine asks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta

from edgectl_agent.core.record import REJECTED_MAX, Record, SlotPointer, Update
from edgectl_agent.core.timing import Moment
from edgectl_protocol.messages import Candidate, Order, Reason, SlotOrder
from edgectl_protocol.update import ENDED, UpdateState

__all__ = [
    "CLOCK_SKEW_MAX",
    "choose",
    "expiry",
    "is_open",
    "is_same",
    "needed",
    "refuse",
    "remember",
    "stands",
    "withdrawn",
]

CLOCK_SKEW_MAX = timedelta(days=1)
"""An order may come from so far ahead of the device's clock."""

_S = UpdateState


def is_same(order: Order, known: Order) -> bool:
    """Say whether an order is the known one, of which an older agent may have read less."""
    return _identity(order) == _identity(known)


def _identity(order: Order) -> tuple[object, ...]:
    targets = {
        slot: (one.model, one.version, [candidate.manifest for candidate in one.candidates])
        for slot, one in order.slots.items()
    }
    return (order.device, order.counter, order.nonce, order.issued_at, targets)


def refuse(order: Order, device: str, floor: int, moment: Moment) -> Reason | None:
    """Say why an order with a good signature is not obeyed, or None.

    Args:
        order: what has come.
        device: who this is.
        floor: only a higher number is new.
        moment: now.
    """
    if order.device != device:
        return Reason(code="order.device", detail=f"for {order.device}, this is {device}")
    if order.counter <= floor:
        return Reason(
            code="order.replayed",
            detail=f"number {order.counter}, {floor} was accepted before",
        )
    coupled = [slot for group in order.coupled for slot in group]
    if len(set(coupled)) != len(coupled):
        return Reason(code="order.coupled", detail="a slot is coupled twice")
    if order.issued_at > moment.wall + CLOCK_SKEW_MAX:
        return Reason(
            code="order.clock",
            detail=f"issued at {order.issued_at}, the device's clock says {moment.wall}",
        )
    return expiry(order, moment)


def expiry(order: Order, moment: Moment) -> Reason | None:
    """Say that the order has expired, or None."""
    if order.expires_at > moment.wall:
        return None
    return Reason(
        code="order.expired",
        detail=f"expired at {order.expires_at}, the device's clock says {moment.wall}",
    )


def remember(record: Record, digest: str) -> tuple[str, ...]:
    """Return the bad digests with `digest` among them.

    Where there are too many, the oldest that nobody wants now is forgotten first: a device that
    forgot what is wanted would try it again, and again.
    """
    bad = [one for one in record.rejected if one != digest]
    if len(bad) >= REJECTED_MAX:
        wanted = {
            one.manifest
            for slot in record.wanted_slots
            if (order := record.wanted(slot))
            for one in order.candidates
        }
        bad.remove(next((one for one in bad if one not in wanted), bad[0]))
    return (*bad, digest)


def choose(wanted: SlotOrder, rejected: Collection[str]) -> Candidate | None:
    """Return the first candidate that is not remembered as bad."""
    return next((one for one in wanted.candidates if one.manifest not in rejected), None)


def stands(update: Update, rejected: Collection[str], forgiven: Collection[str]) -> bool:
    """Say whether a newer order of the same target leaves the update as it is.

    What failed, was taken back or was rolled back without blame is tried again, because somebody
    asks again; what was found bad is not, unless it is forgiven.
    """
    if update.state in {_S.FAILED, _S.IDLE}:
        return False
    if update.state is _S.REJECTED:
        if update.manifest not in rejected:
            return False  # forgiven, or rejected for a partner's sake, which may be better now
        return not any(one.manifest in forgiven for one in update.wanted.candidates)
    if update.state is _S.ROLLED_BACK:
        return update.manifest in rejected
    return True


def is_open(slot: str, record: Record, pointer: SlotPointer) -> bool:
    """Say whether `slot` differs from what is wanted there, and something can be done."""
    wanted = record.wanted(slot)
    if wanted is None:
        return False
    candidate = choose(wanted, record.rejected)
    running = pointer.running
    if candidate and running and candidate.manifest == running.manifest:
        return False
    update = record.updates.get(slot)
    asked = (record.counter, record.wish(slot))
    if update is not None and update.state not in ENDED:
        return False  # it is under way, or waits
    if update is None or not update.is_for(wanted) or (update.order, update.wish) != asked:
        return True
    return {
        # The next one; but not where it was not this one's fault.
        _S.REJECTED: candidate is not None and update.manifest in record.rejected,
        # Taken back, and ordered again before that was done.
        _S.ROLLED_BACK: update.aborted,
        # And yet it does not run: its files were damaged.
        _S.COMMITTED: True,
    }.get(update.state, False)


def withdrawn(order: Order, record: Record, pointers: Mapping[str, SlotPointer]) -> tuple[str, ...]:
    """Return the slots that run what they have committed and the order takes back."""
    slots = []
    for slot in sorted(set(order.withdrawn) - set(record.wanted_slots)):
        update = record.updates.get(slot)
        running = pointers.get(slot, SlotPointer()).running
        if update is None or running is None or update.state is not _S.COMMITTED:
            continue
        if running.manifest == update.manifest:
            slots.append(slot)
    return tuple(slots)


def needed(record: Record, pointers: Mapping[str, SlotPointer]) -> tuple[str, ...]:
    """Return the manifests that a slot or an update needs."""
    manifests: set[str] = set()
    for pointer in pointers.values():
        manifests.update(one.manifest for one in (pointer.running, pointer.previous) if one)
    for update in record.updates.values():
        if update.state not in ENDED or update.state is _S.FAILED:
            manifests.add(update.manifest)
    return tuple(sorted(manifests))
