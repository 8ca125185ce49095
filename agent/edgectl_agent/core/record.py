"""What the device remembers of updates across a power loss.

The `Record` is written to the journal as a whole before anything that follows from it is done. What
runs in the slots is not in it: that is each slot's pointer (`SlotPointer`), changed in one step by
the store, for as many slots as belong together, and the machine is told of it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, structs

from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.messages import (
    SLOTS_MAX,
    Candidate,
    Installed,
    Nonce,
    ObservationReport,
    Order,
    Reason,
    SlotOrder,
    SwapReport,
    TrialReport,
    UpdateReport,
)
from edgectl_protocol.names import Digest, ModelName, Version
from edgectl_protocol.transfers import TransferReport
from edgectl_protocol.update import UpdateState

__all__ = [
    "EMPTY",
    "REJECTED_MAX",
    "Floor",
    "LocalWish",
    "Record",
    "SlotPointer",
    "SlotPointers",
    "Update",
    "decode_pointers",
    "decode_record",
]

REJECTED_MAX = 256
"""How many bad digests are remembered: more than an order can name, so that none is forgotten of
what is still wanted."""
NO_NONCE = "0" * 32
"""Of an update that no order asks for."""


class SlotPointer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a slot runs, and what a rollback returns to. The one truth about it."""

    running: Installed | None = None
    previous: Installed | None = None
    together: Annotated[tuple[ModelName, ...], Meta(max_length=SLOTS_MAX)] = ()
    """Slots that got what they run in the same step, itself among them; empty is itself alone."""


class SlotPointers(Struct, frozen=True, kw_only=True):
    """What all slots run: one value, so that slots which belong together change together."""

    format: Literal["edgectl-slots-1"] = "edgectl-slots-1"
    slots: dict[ModelName, SlotPointer] = {}


class Floor(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Newest versions of the signed metadata that were ever believed; nothing older is."""

    root: int = 0
    timestamp: int = 0
    snapshot: int = 0

    def raised_to(self, seen: Floor) -> Floor:
        """Return the higher of both, field by field."""
        return Floor(
            root=max(self.root, seen.root),
            timestamp=max(self.timestamp, seen.timestamp),
            snapshot=max(self.snapshot, seen.snapshot),
        )


class LocalWish(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person at the device wants a slot to run, until a newer order of the server comes."""

    wanted: SlotOrder
    number: Annotated[int, Meta(ge=1)]
    """Grows with each wish, so that the same one can be asked for again."""


class Update(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The newest update of one slot: what is wanted, which candidate is tried, how far it is."""

    slot: ModelName
    order: int
    """Counter of the newest order that names this update, or was there when a person asked."""
    nonce: Nonce
    """Of that order."""
    wish: int = 0
    """Number of the local wish that asks for it; 0: the order does."""
    wanted: SlotOrder
    manifest: Digest
    """The candidate that is being tried."""
    state: UpdateState
    attempt: int = 1
    resumes: int = 0
    """How often the agent has died in the present state."""
    aborted: bool = False
    """A newer order took it back: it rolls back without blame."""
    again: bool = False
    """It rolls back for the world's fault, and is tried again after that."""
    together: Annotated[tuple[ModelName, ...], Meta(max_length=SLOTS_MAX)] = ()
    """Slots that are switched in one step with this one, itself among them; empty is itself."""
    reason: Reason | None = None
    trial: TrialReport | None = None
    shadow: ObservationReport | None = None
    observation: ObservationReport | None = None
    swap: SwapReport | None = None
    transfer: TransferReport | None = None

    @property
    def version(self) -> Version:
        """Version of the model."""
        return self.wanted.version

    @property
    def candidate(self) -> Candidate:
        """The candidate that is being tried."""
        return next(one for one in self.wanted.candidates if one.manifest == self.manifest)

    @property
    def members(self) -> tuple[ModelName, ...]:
        """The slots that are switched in one step with this one, itself among them."""
        return self.together or (self.slot,)

    def installed(self, since: datetime) -> Installed:
        """Return the candidate as what a slot runs from `since` on."""
        return Installed(
            version=self.version,
            variant=self.candidate.variant,
            manifest=self.manifest,
            since=since,
            threads=0 if self.trial is None else self.trial.threads,
            provider="" if self.trial is None else self.trial.provider,
        )

    def report(self) -> UpdateReport:
        """Return the update as it is reported; bytes transferred are not known here."""
        return UpdateReport(
            order=self.order,
            version=self.version,
            variant=self.candidate.variant,
            manifest=self.manifest,
            state=self.state,
            attempt=self.attempt,
            rollout=self.wanted.rollout,
            reason=self.reason,
            trial=self.trial,
            shadow=self.shadow,
            observation=self.observation,
            swap=self.swap,
            transfer=self.transfer,
        )

    def named_by(self, order: Order) -> Update:
        """Return the same update as what `order` asks for."""
        wanted = order.slots[self.slot]
        return structs.replace(self, order=order.counter, nonce=order.nonce, wanted=wanted, wish=0)

    def is_for(self, wanted: SlotOrder) -> bool:
        """Say whether an order of `wanted` names the same target; the rollout may be another."""
        return (self.wanted.model, self.wanted.version, self.wanted.candidates) == (
            wanted.model,
            wanted.version,
            wanted.candidates,
        )


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that the update machine persists."""

    format: Literal["edgectl-journal-1"] = "edgectl-journal-1"
    order: Order | None = None
    """The newest order that was accepted; its counter is the floor for the next one."""
    order_key: str = ""
    """Id of the key that has signed it."""
    updates: dict[ModelName, Update] = {}
    local: Annotated[dict[ModelName, LocalWish], Meta(max_length=SLOTS_MAX)] = {}
    """What a person at the device wants, by slot; it goes before the order."""
    rejected: Annotated[tuple[Digest, ...], Meta(max_length=REJECTED_MAX)] = ()
    floor: Floor = Floor()
    stopped: bool = False
    """The agent ended in good order, so that its next start is no resume."""
    at: datetime | None = None
    """When it was decided, by the device's clock; None: the agent kept no times then."""

    @property
    def counter(self) -> int:
        """Counter of the newest accepted order, 0 before the first."""
        return self.order.counter if self.order else 0

    def counter_floor(self, keys: Collection[str]) -> int:
        """Return the number above which orders are new, where orders of `keys` count.

        Numbers of a key that was taken out are forgotten with it: its thief may have numbered so
        far ahead that nobody could order anything any more.
        """
        return self.counter if self.order_key in keys else 0

    def wanted(self, slot: str) -> SlotOrder | None:
        """Return what a slot shall run, by a person's wish or by the order; None: as it is."""
        wish = self.local.get(slot)
        if wish is not None:
            return wish.wanted
        return None if self.order is None else self.order.slots.get(slot)

    def wish(self, slot: str) -> int:
        """Return the number of the local wish for a slot; 0: there is none."""
        wish = self.local.get(slot)
        return 0 if wish is None else wish.number

    @property
    def wanted_slots(self) -> tuple[str, ...]:
        """The slots of which something is wanted, sorted."""
        return tuple(sorted({*self.local, *(self.order.slots if self.order else ())}))

    @property
    def nonce(self) -> Nonce | None:
        """Nonce of the newest accepted order, None before the first."""
        return self.order.nonce if self.order else None


EMPTY = Record()


def decode_record(content: bytes) -> Record:
    """Decode what the journal holds; raise `MalformedMessage` for anything else."""
    try:
        record = msgspec.json.decode(content, type=Record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("not a record of updates") from error
    for update in record.updates.values():
        if all(one.manifest != update.manifest for one in update.wanted.candidates):
            raise MalformedMessage(f"the update of {update.slot} names none of its candidates")
        if any(slot not in record.updates for slot in update.together):
            raise MalformedMessage(f"the update of {update.slot} is coupled with one that is not")
    return record


def decode_pointers(content: bytes) -> dict[str, SlotPointer]:
    """Decode the pointers of all slots; raise `MalformedMessage` for anything else."""
    try:
        return dict(msgspec.json.decode(content, type=SlotPointers).slots)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("not the pointers of slots") from error
