"""The database: one class a table, one tree of migrations for SQLite and PostgreSQL.

Rules: times are UTC (`UtcDateTime`), states are names (never ordinals), JSON columns hold what is
shown or passed on; only selectors look into them, row by row. A state change and its event row are
written in one transaction; what must be told to the world goes into `Outbox` in that same one.
"""

from __future__ import annotations

from edgectl_server.storage.tables.base import Base, UtcDateTime
from edgectl_server.storage.tables.devices import (
    DesiredSlot,
    Device,
    DeviceEventRow,
    EnrolRequestRow,
    EnrolToken,
    Measurement,
    Preauthorised,
    ReportedSlot,
    SavedSelector,
    SecurityEventRow,
)
from edgectl_server.storage.tables.models import (
    Blob,
    BundleVariant,
    Delta,
    Job,
    KnownTrial,
    Model,
    ModelPolicyRow,
    ModelVersion,
    Origin,
    Worker,
)
from edgectl_server.storage.tables.people import (
    ApiToken,
    AuditEntryRow,
    AuditHeadRow,
    LoginSession,
    OpenIdPerson,
    User,
)
from edgectl_server.storage.tables.rollouts import (
    Outbox,
    Retained,
    Rollout,
    RolloutDevice,
    RolloutEvent,
)
from edgectl_server.storage.tables.telemetry import (
    SystemSampleRow,
    TelemetryWindow,
)
from edgectl_server.storage.tables.uploads import DeviceUpload, DeviceUploadChunk

__all__ = [
    "ApiToken",
    "AuditEntryRow",
    "AuditHeadRow",
    "Base",
    "Blob",
    "BundleVariant",
    "Delta",
    "DesiredSlot",
    "Device",
    "DeviceEventRow",
    "DeviceUpload",
    "DeviceUploadChunk",
    "EnrolRequestRow",
    "EnrolToken",
    "Job",
    "KnownTrial",
    "LoginSession",
    "Measurement",
    "Model",
    "ModelPolicyRow",
    "ModelVersion",
    "OpenIdPerson",
    "Origin",
    "Outbox",
    "Preauthorised",
    "ReportedSlot",
    "Retained",
    "Rollout",
    "RolloutDevice",
    "RolloutEvent",
    "SavedSelector",
    "SecurityEventRow",
    "SystemSampleRow",
    "TelemetryWindow",
    "User",
    "UtcDateTime",
    "Worker",
]
