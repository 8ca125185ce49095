"""Rollouts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.messages import SLOTS_MAX, UpdatePolicy
from edgectl_protocol.windows import parse_windows
from edgectl_server.schemas.base import (
    DeviceIdStr,
    GroupStr,
    ModelNameStr,
    ModelVersionStr,
    Schema,
    VersionStr,
)
from edgectl_server.schemas.devices import ObservationInfo, ReasonInfo, SwapInfo, TransferInfo

__all__ = [
    "ActionRequest",
    "RolloutBytes",
    "RolloutCounts",
    "RolloutDeviceInfo",
    "RolloutEventInfo",
    "RolloutInfo",
    "RolloutPolicy",
    "RolloutRequest",
    "Selector",
]


def _check_windows(text: str) -> str:
    try:
        parse_windows(text)
    except ProtocolError as error:
        raise ValueError(str(error)) from error
    return text


WindowsStr = Annotated[str, Field(max_length=1024), AfterValidator(_check_windows)]


class Selector(Schema):
    """Which devices: all that are enrolled when it starts, those of a group, or these."""

    all: bool = False
    group: GroupStr = ""
    devices: list[DeviceIdStr] = Field(default=[])


class RolloutPolicy(Schema):
    """How it goes about it."""

    max_in_progress: int = Field(default=100, ge=1)
    failures_max: int = Field(default=1, ge=1)
    """It pauses by itself when so many devices have failed, rejected or rolled back."""
    observe_s: float = Field(default=10.0, ge=0, le=7 * 86400)
    shadow_s: float = Field(default=0.0, ge=0, le=7 * 86400)
    """How long a candidate answers copies of live requests before it serves; 0: not at all."""
    windows: WindowsStr = ""
    """When devices may switch, such as ``mon-fri 02:00-04:00``; empty: at any time."""
    error_rate_max: float = Field(default=0.05, ge=0, le=1)
    latency_ratio_max: float | None = Field(default=5.0, gt=1, le=1000)
    class_shift_max: float | None = Field(default=0.5, ge=0, le=1)
    disagreement_max: float | None = Field(default=0.5, ge=0, le=1)
    goes_with: list[ModelVersionStr] = Field(default=[], max_length=SLOTS_MAX - 1)
    """Versions of other models, ``name@version``, that devices switch to in the same step."""
    forgive: bool = False
    """Devices that remember it as bad try it once more."""

    def for_devices(self) -> UpdatePolicy:
        """Return what an order tells the device."""
        return UpdatePolicy(
            observe_s=self.observe_s,
            shadow_s=self.shadow_s,
            windows=parse_windows(self.windows),
            error_rate_max=self.error_rate_max,
            latency_ratio_max=self.latency_ratio_max,
            class_shift_max=self.class_shift_max,
            disagreement_max=self.disagreement_max,
        )


class RolloutRequest(Schema):
    """``POST /rollouts``."""

    model: ModelNameStr
    version: VersionStr
    selector: Selector
    policy: RolloutPolicy = RolloutPolicy()


class RolloutCounts(Schema):
    """Devices by state; the sum is `total`."""

    total: int = 0
    pending: int = 0
    in_progress: int = 0
    committed: int = 0
    failed: int = 0
    rejected: int = 0
    rolled_back: int = 0
    cancelled: int = 0


class RolloutBytes(Schema):
    """What fetching costs, of one device or of all."""

    whole: int = 0
    """Of the bundles of devices that have been ordered to run them."""
    predicted: int = 0
    """What those were expected to fetch, deltas and what they had counted in."""
    fetched: int = 0
    """What devices say that came over the network."""
    saved: int = 0
    """What those devices would have fetched besides, without deltas and what they had."""


class RolloutInfo(Schema):
    """A rollout; also the SSE snapshot ``rollout:<id>``."""

    id: str
    model: str
    version: str
    state: Literal["running", "paused", "completed", "aborted"]
    selector: Selector
    policy: RolloutPolicy
    counts: RolloutCounts
    revision: int
    created_at: datetime
    created_by: str
    finished_at: datetime | None
    note: str = ""
    """Why it is paused, or what it waits for."""
    bytes: RolloutBytes = RolloutBytes()


class RolloutDeviceInfo(Schema):
    """One device of a rollout."""

    device: str
    online: bool
    state: Literal[
        "pending", "in_progress", "committed", "failed", "rejected", "rolled_back", "cancelled"
    ]
    step: str
    """The device's own update state, such as ``downloading``."""
    bytes_done: int
    bytes_total: int
    variant: str
    reason: ReasonInfo | None
    updated_at: datetime
    trial: dict[str, Any] | None = None
    """What the device measured of the update, as its own page has it."""
    shadow: ObservationInfo | None = None
    observation: ObservationInfo | None = None
    swap: SwapInfo | None = None
    transfer: TransferInfo | None = None
    bytes: RolloutBytes | None = None
    """Null before it was ordered."""


class RolloutEventInfo(Schema):
    """What has happened to a rollout."""

    revision: int
    at: datetime
    actor: str
    kind: str
    data: dict[str, Any]


class ActionRequest(Schema):
    """``POST /rollouts/{id}/actions/{pause|resume|abort}``."""

    reason: str = Field(default="", max_length=1024)
