"""Rollouts, their devices and their history."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct, field

from edgectl.types.devices import ObservationInfo, ReasonInfo, SwapInfo, TransferInfo

__all__ = [
    "RolloutBytes",
    "RolloutCounts",
    "RolloutDeviceInfo",
    "RolloutEventInfo",
    "RolloutInfo",
    "RolloutPolicy",
    "RolloutRequest",
    "Selector",
]


class Selector(Struct, frozen=True):
    """Which devices: all that are enrolled when it starts, those of a group, or these."""

    all: bool = False
    devices: list[str] = field(default_factory=list)
    group: str = ""


class RolloutPolicy(Struct, frozen=True):
    """How it goes about it."""

    max_in_progress: int = 100
    failures_max: int = 1
    observe_s: float = 10.0
    shadow_s: float = 0.0
    windows: str = ""
    error_rate_max: float = 0.05
    latency_ratio_max: float | None = 5.0
    class_shift_max: float | None = 0.5
    disagreement_max: float | None = 0.5
    goes_with: list[str] = field(default_factory=list)
    forgive: bool = False


class RolloutRequest(Struct, frozen=True):
    """``POST /rollouts``."""

    model: str
    version: str
    selector: Selector
    policy: RolloutPolicy = RolloutPolicy()


class RolloutCounts(Struct, frozen=True):
    """Devices by state; the sum is `total`."""

    total: int = 0
    pending: int = 0
    in_progress: int = 0
    committed: int = 0
    failed: int = 0
    rejected: int = 0
    rolled_back: int = 0
    cancelled: int = 0

    @property
    def unsuccessful(self) -> int:
        """Devices on which it has gone wrong."""
        return self.failed + self.rejected + self.rolled_back


class RolloutBytes(Struct, frozen=True):
    """What fetching costs, of one device or of all."""

    whole: int = 0
    predicted: int = 0
    fetched: int = 0
    saved: int = 0


class RolloutInfo(Struct, frozen=True):
    """A rollout."""

    id: str
    model: str
    version: str
    state: str
    selector: Selector
    policy: RolloutPolicy
    counts: RolloutCounts
    revision: int
    created_at: datetime
    created_by: str
    finished_at: datetime | None
    note: str = ""
    bytes: RolloutBytes = RolloutBytes()


class RolloutDeviceInfo(Struct, frozen=True):
    """One device of a rollout."""

    device: str
    online: bool
    state: str
    step: str
    bytes_done: int
    bytes_total: int
    variant: str
    reason: ReasonInfo | None
    updated_at: datetime
    trial: dict[str, Any] | None = None
    shadow: ObservationInfo | None = None
    observation: ObservationInfo | None = None
    swap: SwapInfo | None = None
    transfer: TransferInfo | None = None
    bytes: RolloutBytes | None = None


class RolloutEventInfo(Struct, frozen=True):
    """What has happened to a rollout."""

    revision: int
    at: datetime
    actor: str
    kind: str
    data: dict[str, Any]
