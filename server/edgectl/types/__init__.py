"""What the REST API answers, as frozen structs.

The names and fields are those of the OpenAPI description; a test compares them with the server's.
Unknown fields are ignored and states are plain text, so that a newer server can be spoken to.
Times are aware and in UTC, sizes bytes, shares 0 to 1.
"""

from __future__ import annotations

from edgectl.types.base import (
    Page,
    Problem,
    ReadyInfo,
    VersionInfo,
)
from edgectl.types.devices import (
    DeviceDetail,
    DeviceEventInfo,
    DeviceSummary,
    FleetSummary,
    InstalledInfo,
    ReasonInfo,
    SecurityEventInfo,
    SlotInfo,
    TelemetrySummary,
    UpdateInfo,
    VersionShare,
)
from edgectl.types.enrolment import (
    AuthorityInfo,
    EnrolRequestInfo,
    EnrolTokenCreated,
    EnrolTokenInfo,
    PreauthorisedEntry,
    PreauthorisedInfo,
    PreauthoriseResult,
)
from edgectl.types.lineage import AncestorInfo, LineageInfo, ToolInfo, VariantLineage
from edgectl.types.models import (
    JobInfo,
    JobProgress,
    ModelSummary,
    PushAccepted,
    PushOptions,
    PushRequest,
    Report,
    SignatureWait,
    TensorInfo,
    Trial,
    VariantInfo,
    VersionDetail,
    VersionSummary,
)
from edgectl.types.people import (
    AuditEntryInfo,
    AuditState,
    Me,
    TokenCreated,
    TokenInfo,
)
from edgectl.types.rollouts import (
    RolloutCounts,
    RolloutDeviceInfo,
    RolloutEventInfo,
    RolloutInfo,
    RolloutPolicy,
    RolloutRequest,
    Selector,
)
from edgectl.types.targets import (
    BenchmarkStart,
    MeasurementInfo,
    TargetInfo,
    TargetLimits,
    TargetList,
)
from edgectl.types.trust import (
    AlertInfo,
    StagedInfo,
    SubmitResult,
    TrustInfo,
    TrustKey,
    TrustRole,
)

__all__ = [
    "AlertInfo",
    "AncestorInfo",
    "AuditEntryInfo",
    "AuditState",
    "AuthorityInfo",
    "BenchmarkStart",
    "DeviceDetail",
    "DeviceEventInfo",
    "DeviceSummary",
    "EnrolRequestInfo",
    "EnrolTokenCreated",
    "EnrolTokenInfo",
    "FleetSummary",
    "InstalledInfo",
    "JobInfo",
    "JobProgress",
    "LineageInfo",
    "Me",
    "MeasurementInfo",
    "ModelSummary",
    "Page",
    "PreauthoriseResult",
    "PreauthorisedEntry",
    "PreauthorisedInfo",
    "Problem",
    "PushAccepted",
    "PushOptions",
    "PushRequest",
    "ReadyInfo",
    "ReasonInfo",
    "Report",
    "RolloutCounts",
    "RolloutDeviceInfo",
    "RolloutEventInfo",
    "RolloutInfo",
    "RolloutPolicy",
    "RolloutRequest",
    "SecurityEventInfo",
    "Selector",
    "SignatureWait",
    "SlotInfo",
    "StagedInfo",
    "SubmitResult",
    "TargetInfo",
    "TargetLimits",
    "TargetList",
    "TelemetrySummary",
    "TensorInfo",
    "TokenCreated",
    "TokenInfo",
    "ToolInfo",
    "Trial",
    "TrustInfo",
    "TrustKey",
    "TrustRole",
    "UpdateInfo",
    "VariantInfo",
    "VariantLineage",
    "VersionDetail",
    "VersionInfo",
    "VersionShare",
    "VersionSummary",
]
