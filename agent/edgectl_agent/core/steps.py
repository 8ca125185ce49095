"""What the update machine hears and what it wants done: plain values, no behaviour.

Events go in, actions come out. An action of a step carries the step's number, and the step's result
brings it back, so that the result of a step which was overtaken can be told apart.
"""

from __future__ import annotations

from msgspec import Struct

from edgectl_agent.core.record import Floor, Record, SlotPointer, Update
from edgectl_protocol.messages import Installed, Order, Reason, TrialReport
from edgectl_protocol.update import UpdateEvent, UpdateState

__all__ = [
    "Accept",
    "Action",
    "Activate",
    "Announce",
    "Cancel",
    "Collect",
    "Download",
    "Event",
    "HealthSeen",
    "InferenceDied",
    "OrderArrived",
    "OrderRefused",
    "Persist",
    "PointerChanged",
    "Refresh",
    "Refuse",
    "Report",
    "RollBack",
    "Step",
    "StepDone",
    "StepFailed",
    "StepRejected",
    "Ticked",
    "Trial",
    "Verify",
]


class _Value(Struct, frozen=True, kw_only=True):
    """Base of all events and actions."""


# ---------------------------------------------------------------- events


class OrderArrived(_Value, frozen=True, kw_only=True):
    """An order whose signature is good. Whether it is obeyed, the machine decides."""

    order: Order
    key: str = ""
    """Id of the key that has signed it."""
    keys: tuple[str, ...] = ("",)
    """Ids of all keys whose orders count by now; `key` is one of them."""


class OrderRefused(_Value, frozen=True, kw_only=True):
    """Something came as an order and is none of ours."""

    reason: Reason


class StepDone(_Value, frozen=True, kw_only=True):
    """A step did its work."""

    step: int
    slot: str
    floor: Floor | None = None
    trial: TrialReport | None = None
    pointer: SlotPointer | None = None


class StepFailed(_Value, frozen=True, kw_only=True):
    """A step could not do its work now."""

    step: int
    slot: str
    reason: Reason
    pointer: SlotPointer | None = None


class StepRejected(_Value, frozen=True, kw_only=True):
    """A step found that it must not be done with this bundle."""

    step: int
    slot: str
    reason: Reason
    trial: TrialReport | None = None
    pointer: SlotPointer | None = None


class HealthSeen(_Value, frozen=True, kw_only=True):
    """Counts of what serves in a slot since it was loaded."""

    slot: str
    manifest: str
    requests: int
    errors: int
    non_finite: int


class InferenceDied(_Value, frozen=True, kw_only=True):
    """The inference process ended by itself, or had to be ended."""

    reason: Reason
    suspects: tuple[str, ...] = ()
    """Manifests of the models that were computing then; empty where that is not known."""


class PointerChanged(_Value, frozen=True, kw_only=True):
    """A slot runs something else, or nothing, because its files were found damaged."""

    slot: str
    pointer: SlotPointer
    reason: Reason


class Ticked(_Value, frozen=True, kw_only=True):
    """Time has passed."""


Event = (
    OrderArrived
    | OrderRefused
    | StepDone
    | StepFailed
    | StepRejected
    | HealthSeen
    | InferenceDied
    | PointerChanged
    | Ticked
)


# ---------------------------------------------------------------- actions


class Persist(_Value, frozen=True, kw_only=True):
    """Write the record; nothing that follows may be done before."""

    record: Record


class Announce(_Value, frozen=True, kw_only=True):
    """Tell of a transition of `update`, which is shown as it is after it."""

    update: Update
    before: UpdateState
    event: UpdateEvent


class Accept(_Value, frozen=True, kw_only=True):
    """Tell that what came last as an order is obeyed."""


class Refuse(_Value, frozen=True, kw_only=True):
    """Tell that an order is not obeyed."""

    reason: Reason
    counter: int | None = None
    """The order's number, where its signature is good."""


class Report(_Value, frozen=True, kw_only=True):
    """Send the reported state."""


class Collect(_Value, frozen=True, kw_only=True):
    """Remove what neither a slot nor an update needs; `keep` are manifests."""

    keep: tuple[str, ...]


class Cancel(_Value, frozen=True, kw_only=True):
    """Stop the running step; its result is not wanted any more."""


class Refresh(_Value, frozen=True, kw_only=True):
    """Refresh the signed metadata and find the update's target in it."""

    step: int
    update: Update
    floor: Floor


class Download(_Value, frozen=True, kw_only=True):
    """Fetch the manifest and the layers that are not there."""

    step: int
    update: Update
    key: bytes | None = None
    """Content key of an encrypted bundle, sealed to this device; to be kept beside the blobs."""
    keep: tuple[str, ...] = ()
    """Manifests that are needed: where the disk is too small, everything else may go first."""


class Verify(_Value, frozen=True, kw_only=True):
    """Hash every file of the bundle and check its description."""

    step: int
    update: Update


class Trial(_Value, frozen=True, kw_only=True):
    """Prove the bundle in a process of its own."""

    step: int
    update: Update


class Activate(_Value, frozen=True, kw_only=True):
    """Switch the slot's pointer to the bundle and load it."""

    step: int
    update: Update
    installed: Installed


class RollBack(_Value, frozen=True, kw_only=True):
    """Switch the slot's pointer back from the update's bundle and load what it points to."""

    step: int
    update: Update


Step = Refresh | Download | Verify | Trial | Activate | RollBack
Action = Persist | Announce | Accept | Refuse | Report | Collect | Cancel | Step
