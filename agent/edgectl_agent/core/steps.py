"""What the update machine hears and what it wants done: plain values, no behaviour.

Events go in, actions come out. An action of a step carries the step's number, and the step's result
brings it back, so that the result of a step which was overtaken can be told apart.
"""

from __future__ import annotations

from msgspec import Struct

from edgectl_agent.core.evidence import Copies, Evidence
from edgectl_agent.core.record import Floor, Record, SlotPointer, Update
from edgectl_protocol.messages import (
    Installed,
    Order,
    Reason,
    SlotOrder,
    SwapReport,
    TrialReport,
    UpdatePolicy,
)
from edgectl_protocol.transfers import DeltaOffer, RestOffer, TransferReport
from edgectl_protocol.update import UpdateEvent, UpdateState

__all__ = [
    "Accept",
    "Accompany",
    "Action",
    "Activate",
    "Announce",
    "Answer",
    "Cancel",
    "Collect",
    "Download",
    "Event",
    "GiveUp",
    "HealthSeen",
    "HoldChanged",
    "InferenceDied",
    "InstallAsked",
    "OrderArrived",
    "OrderRefused",
    "Persist",
    "PointerChanged",
    "Refresh",
    "Refuse",
    "Release",
    "Report",
    "RollBack",
    "RollbackAsked",
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
    pointers: dict[str, SlotPointer] = {}
    """What the slots run of which it may have changed that."""
    swaps: dict[str, SwapReport] = {}
    transfer: TransferReport | None = None
    """Of `Download`: what it took."""
    shadowless: bool = False
    """Of `Accompany`: there can be no shadow here, and nothing is to be waited for."""


class StepFailed(_Value, frozen=True, kw_only=True):
    """A step could not do its work now."""

    step: int
    slot: str
    """Whose bundle it is about; of a step for several slots, empty where that is not known."""
    reason: Reason
    pointers: dict[str, SlotPointer] = {}


class StepRejected(_Value, frozen=True, kw_only=True):
    """A step found that it must not be done with this bundle."""

    step: int
    slot: str
    """Whose bundle it is."""
    reason: Reason
    trial: TrialReport | None = None
    pointers: dict[str, SlotPointer] = {}


class HealthSeen(_Value, frozen=True, kw_only=True):
    """Counts of what serves in a slot since it began to, and of what it can be compared with."""

    slot: str
    manifest: str
    requests: int
    errors: int
    non_finite: int
    latency: tuple[int, ...] = ()
    """Histogram of the runs, as in `edgectl_agent.core.evidence`."""
    classes: tuple[int, ...] = ()
    before: Evidence | None = None
    """Of what served before; None where that is not known."""
    companion: str = ""
    """Manifest of what is in memory beside it: the one before, or a shadow. Empty: nothing is."""
    copies: Copies | None = None
    """What the companion did with copies of requests; None while nothing is mirrored."""
    comparable: bool = False
    """Whether the classes of both mean the same: they have the same labels."""


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


class HoldChanged(_Value, frozen=True, kw_only=True):
    """Somebody or an application says "not now", or takes that back."""

    held: Reason | None
    """Who and why, for people; None: models may be switched."""


class RollbackAsked(_Value, frozen=True, kw_only=True):
    """A person at the device wants what ran before, and never again what runs now."""

    slot: str
    request: str = ""
    """Comes back with the `Answer`."""


class InstallAsked(_Value, frozen=True, kw_only=True):
    """A person at the device wants a slot to run something, until a newer order comes."""

    slot: str
    wanted: SlotOrder
    request: str = ""


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
    | HoldChanged
    | RollbackAsked
    | InstallAsked
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


class Answer(_Value, frozen=True, kw_only=True):
    """Tell who asked whether it will be done."""

    request: str
    reason: Reason | None
    """Why not; None: it will, or is being, done."""


class Report(_Value, frozen=True, kw_only=True):
    """Send the reported state."""


class Collect(_Value, frozen=True, kw_only=True):
    """Remove what neither a slot nor an update needs; `keep` are manifests."""

    keep: tuple[str, ...]


class Release(_Value, frozen=True, kw_only=True):
    """Free the models that are kept beside what serves in these slots."""

    slots: tuple[str, ...]


class GiveUp(_Value, frozen=True, kw_only=True):
    """A step does not come back though it was told to: end the process, to be started anew."""

    reason: Reason


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
    delta: DeltaOffer | None = None
    """By which the model may be made from one that is here."""
    rest: RestOffer | None = None
    """By which the rest of the bundle may be made from that of one that is here."""
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


class Accompany(_Value, frozen=True, kw_only=True):
    """Load the bundle beside what serves in its slot, and have it answer copies of requests."""

    step: int
    update: Update
    installed: Installed
    policy: UpdatePolicy


class Activate(_Value, frozen=True, kw_only=True):
    """Switch the pointers of slots that belong together to their bundles, and load them."""

    step: int
    updates: tuple[Update, ...]
    installed: dict[str, Installed]
    """By slot."""
    policy: UpdatePolicy


class RollBack(_Value, frozen=True, kw_only=True):
    """Switch the slots' pointers back from the updates' bundles and load what they point to."""

    step: int
    updates: tuple[Update, ...]


Step = Refresh | Download | Verify | Trial | Accompany | Activate | RollBack
Action = (
    Persist
    | Announce
    | Accept
    | Refuse
    | Answer
    | Report
    | Collect
    | Release
    | Cancel
    | GiveUp
    | Step
)
