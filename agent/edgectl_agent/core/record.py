"""What the device remembers of updates across a power loss.

The `Record` is written to the journal as a whole before anything that follows from it is done. What
runs in the slots is not in it: that is each slot's pointer (`SlotPointer`), changed in one step by
the store, for as many slots as belong together, and the machine is told of it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, structs

from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.messages import (
    Candidate,
    Installed,
    Nonce,
    Order,
    Reason,
    SlotOrder,
    TrialReport,
    UpdateReport,
)
from edgectl_protocol.names import Digest, ModelName, Version
from edgectl_protocol.update import UpdateState

__all__ = [
    "EMPTY",
    "REJECTED_MAX",
    "Floor",
    "Record",
    "SlotPointer",
    "SlotPointers",
    "Update",
    "decode_pointers",
    "decode_record",
]

REJECTED_MAX = 64
"""How many bad digests are remembered; the oldest is forgotten first."""


class SlotPointer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a slot runs, and what a rollback returns to. The one truth about it."""

    running: Installed | None = None
    previous: Installed | None = None


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


class Update(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The newest update of one slot: what is wanted, which candidate is tried, how far it is."""

    slot: ModelName
    order: int
    """Counter of the newest order that names this update."""
    nonce: Nonce
    """Of that order."""
    wanted: SlotOrder
    manifest: Digest
    """The candidate that is being tried."""
    state: UpdateState
    attempt: int = 1
    resumes: int = 0
    """How often the agent has died in the present state."""
    aborted: bool = False
    """A newer order took it back: it rolls back without blame."""
    reason: Reason | None = None
    trial: TrialReport | None = None

    @property
    def version(self) -> Version:
        """Version of the model."""
        return self.wanted.version

    @property
    def candidate(self) -> Candidate:
        """The candidate that is being tried."""
        return next(one for one in self.wanted.candidates if one.manifest == self.manifest)

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
        )

    def named_by(self, order: Order) -> Update:
        """Return the same update as what `order` asks for."""
        wanted = order.slots[self.slot]
        return structs.replace(self, order=order.counter, nonce=order.nonce, wanted=wanted)

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
    rejected: Annotated[tuple[Digest, ...], Meta(max_length=REJECTED_MAX)] = ()
    floor: Floor = Floor()
    stopped: bool = False
    """The agent ended in good order, so that its next start is no resume."""

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
    return record


def decode_pointers(content: bytes) -> dict[str, SlotPointer]:
    """Decode the pointers of all slots; raise `MalformedMessage` for anything else."""
    try:
        return dict(msgspec.json.decode(content, type=SlotPointers).slots)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("not the pointers of slots") from error
