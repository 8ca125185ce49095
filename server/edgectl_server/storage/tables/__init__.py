"""The database: one class a table, one tree of migrations for SQLite and PostgreSQL.

Rules: times are UTC (`UtcDateTime`), states are names (never ordinals), JSON columns hold what is
shown or passed on; only selectors look into them, row by row. A state change and its event row are
written in one transaction; what must be told to the world goes into `Outbox` in that same one.
"""

from __future__ import annotations

from edgectl_server.storage.tables.alerts import (
    AlertEventRow,
    AlertNotice,
    AlertRoute,
    AlertRow,
    AlertSilence,
    AlertTold,
    AlertTurn,
)
from edgectl_server.storage.tables.annotations import AnnotationRow, OutcomeRow
from edgectl_server.storage.tables.base import Base, UtcDateTime
from edgectl_server.storage.tables.datasets import DatasetBlobRow, DatasetRow
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
from edgectl_server.storage.tables.learning import (
    LoopEventRow,
    LoopPolicyRow,
    LoopRunRow,
    RetrainingRow,
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
    LoginProof,
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
from edgectl_server.storage.tables.samples import SampleKeyRow, SamplePolicyRow, SampleRow
from edgectl_server.storage.tables.telemetry import (
    AccuracyPointRow,
    AccuracyStateRow,
    AnsweredHour,
    DriftEventRow,
    DriftStateRow,
    FeatureHourRow,
    FeatureWindowRow,
    MessageReceiptRow,
    SystemSampleRow,
    TelemetryWindow,
    UsualDaysRow,
)
from edgectl_server.storage.tables.uploads import (
    DeviceUpload,
    DeviceUploadChunk,
    LogFollow,
    LogFollowLines,
)
from edgectl_server.storage.tables.webhooks import Webhook, WebhookDelivery

__all__ = [
    "AccuracyPointRow",
    "AccuracyStateRow",
    "AlertEventRow",
    "AlertNotice",
    "AlertRoute",
    "AlertRow",
    "AlertSilence",
    "AlertTold",
    "AlertTurn",
    "AnnotationRow",
    "AnsweredHour",
    "ApiToken",
    "AuditEntryRow",
    "AuditHeadRow",
    "Base",
    "Blob",
    "BundleVariant",
    "DatasetBlobRow",
    "DatasetRow",
    "Delta",
    "DesiredSlot",
    "Device",
    "DeviceEventRow",
    "DeviceUpload",
    "DeviceUploadChunk",
    "DriftEventRow",
    "DriftStateRow",
    "EnrolRequestRow",
    "EnrolToken",
    "FeatureHourRow",
    "FeatureWindowRow",
    "Job",
    "KnownTrial",
    "LogFollow",
    "LogFollowLines",
    "LoginProof",
    "LoginSession",
    "LoopEventRow",
    "LoopPolicyRow",
    "LoopRunRow",
    "Measurement",
    "MessageReceiptRow",
    "Model",
    "ModelPolicyRow",
    "ModelVersion",
    "OpenIdPerson",
    "Origin",
    "Outbox",
    "OutcomeRow",
    "Preauthorised",
    "ReportedSlot",
    "Retained",
    "RetrainingRow",
    "Rollout",
    "RolloutDevice",
    "RolloutEvent",
    "SampleKeyRow",
    "SamplePolicyRow",
    "SampleRow",
    "SavedSelector",
    "SecurityEventRow",
    "SystemSampleRow",
    "TelemetryWindow",
    "User",
    "UsualDaysRow",
    "UtcDateTime",
    "Webhook",
    "WebhookDelivery",
    "Worker",
]
