"""What goes in and out of ``/api/v1``: the public contract for the CLI, the UI and third parties.

Field names are snake_case, times RFC 3339 in UTC, sizes bytes, shares 0 to 1. Fields may be added;
none is renamed or changes its meaning. Errors are `Problem` (RFC 9457) with a stable `code`.
"""

from __future__ import annotations

from edgectl_server.schemas.base import (
    DeviceIdStr,
    DigestStr,
    ModelNameStr,
    Page,
    Problem,
    Role,
    Schema,
    Sha256,
    VersionStr,
)
from edgectl_server.schemas.devices import (
    DeviceDetail,
    DeviceEventInfo,
    DeviceSummary,
    EnrolTokenCreated,
    EnrolTokenRequest,
    FleetSummary,
    InstalledInfo,
    ReasonInfo,
    SlotInfo,
    UpdateInfo,
    VersionShare,
)
from edgectl_server.schemas.jobs import JobInfo, JobProgress
from edgectl_server.schemas.models import (
    ModelSummary,
    PushAccepted,
    PushOptions,
    PushRequest,
    Report,
    TensorInfo,
    Trial,
    VariantInfo,
    VersionDetail,
    VersionSummary,
)
from edgectl_server.schemas.rollouts import (
    ActionRequest,
    RolloutCounts,
    RolloutDeviceInfo,
    RolloutEventInfo,
    RolloutInfo,
    RolloutPolicy,
    RolloutRequest,
    Selector,
)
from edgectl_server.schemas.session import LoginRequest, Me, TokenCreated, TokenInfo, TokenRequest
from edgectl_server.schemas.system import ReadyInfo, VersionInfo
from edgectl_server.schemas.telemetry import TelemetrySummary

__all__ = [
    "ActionRequest",
    "DeviceDetail",
    "DeviceEventInfo",
    "DeviceIdStr",
    "DeviceSummary",
    "DigestStr",
    "EnrolTokenCreated",
    "EnrolTokenRequest",
    "FleetSummary",
    "InstalledInfo",
    "JobInfo",
    "JobProgress",
    "LoginRequest",
    "Me",
    "ModelNameStr",
    "ModelSummary",
    "Page",
    "Problem",
    "PushAccepted",
    "PushOptions",
    "PushRequest",
    "ReadyInfo",
    "ReasonInfo",
    "Report",
    "Role",
    "RolloutCounts",
    "RolloutDeviceInfo",
    "RolloutEventInfo",
    "RolloutInfo",
    "RolloutPolicy",
    "RolloutRequest",
    "Schema",
    "Selector",
    "Sha256",
    "SlotInfo",
    "TelemetrySummary",
    "TensorInfo",
    "TokenCreated",
    "TokenInfo",
    "TokenRequest",
    "Trial",
    "UpdateInfo",
    "VariantInfo",
    "VersionDetail",
    "VersionInfo",
    "VersionShare",
    "VersionStr",
    "VersionSummary",
]
