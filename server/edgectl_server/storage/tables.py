"""The database: one class a table, one tree of migrations for SQLite and PostgreSQL.

Rules: times are UTC (`UtcDateTime`), states are names (never ordinals), JSON columns hold what is
shown or passed on but never searched. A state change and its event row are written in one
transaction; what must be told to the world goes into `Outbox` in that same transaction.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import DateTime, TypeDecorator

__all__ = [
    "ApiToken",
    "AuditEntryRow",
    "AuditHeadRow",
    "Base",
    "Blob",
    "BundleVariant",
    "DesiredSlot",
    "Device",
    "DeviceEventRow",
    "EnrolRequestRow",
    "EnrolToken",
    "Job",
    "LoginSession",
    "Model",
    "ModelVersion",
    "OpenIdPerson",
    "Outbox",
    "Preauthorised",
    "ReportedSlot",
    "Retained",
    "Rollout",
    "RolloutDevice",
    "RolloutEvent",
    "SecurityEventRow",
    "SystemSampleRow",
    "TelemetryWindow",
    "User",
]


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, with its zone on the Python side whatever the database keeps."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Refuse times without a zone: they are a bug."""
        assert value is None or value.tzinfo is not None, value
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """SQLite gives times without a zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Document = dict[str, Any]


class Base(DeclarativeBase):
    """Names for constraints, so that migrations can name them on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's own hook, read once
        datetime: UtcDateTime,
        Document: JSON,
        list[Any]: JSON,
        int: BigInteger().with_variant(Integer(), "sqlite"),
    }


# ---------------------------------------------------------------- people


class User(Base):
    """A person who may log in."""

    __tablename__ = "user_account"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    password_hash: Mapped[str] = mapped_column(String(256))  # argon2id; empty: has no password
    role: Mapped[str] = mapped_column(String(16))  # viewer, operator, admin
    created_at: Mapped[datetime]


class OpenIdPerson(Base):
    """Whom a user from an OpenID provider is: the pair of issuer and subject, and nothing else."""

    __tablename__ = "openid_person"
    issuer: Mapped[str] = mapped_column(String(255), primary_key=True)
    subject: Mapped[str] = mapped_column(String(255), primary_key=True)
    user: Mapped[str] = mapped_column(
        ForeignKey("user_account.name", ondelete="CASCADE"), unique=True
    )
    claimed: Mapped[list[Any]]  # values of the roles claim that gave the role
    last_login_at: Mapped[datetime]


class ApiToken(Base):
    """A bearer token; only the SHA-256 of its secret is kept."""

    __tablename__ = "api_token"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user: Mapped[str] = mapped_column(ForeignKey("user_account.name", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(128))
    role: Mapped[str] = mapped_column(String(16))
    scopes: Mapped[list[Any]]  # of edgectl_server.schemas.Scope
    made_by: Mapped[str | None] = mapped_column(  # the token it was made with, and goes with
        ForeignKey("api_token.id", ondelete="CASCADE"), index=True
    )
    secret_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class LoginSession(Base):
    """A browser's session; the cookie holds the secret, the row its SHA-256."""

    __tablename__ = "login_session"
    secret_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    user: Mapped[str] = mapped_column(ForeignKey("user_account.name", ondelete="CASCADE"))
    csrf: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


# ---------------------------------------------------------------- audit log


class AuditEntryRow(Base):
    """What somebody did; see `edgectl_protocol.audit`. Triggers refuse changes and deletions."""

    __tablename__ = "audit_entry"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[str] = mapped_column(String(32))  # text, as it was hashed
    actor: Mapped[str] = mapped_column(String(128), index=True)
    via: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    object: Mapped[str] = mapped_column(String(256))
    outcome: Mapped[str] = mapped_column(String(16))
    details: Mapped[str] = mapped_column(Text)  # canonical JSON, as it was hashed
    previous: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class AuditHeadRow(Base):
    """The newest row, and the lock that puts writers in order; there is one row, number 1."""

    __tablename__ = "audit_head"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int]
    hash: Mapped[str] = mapped_column(String(64))


# ---------------------------------------------------------------- models


class Blob(Base):
    """Content that the blob store holds whole and checked."""

    __tablename__ = "blob"
    digest: Mapped[str] = mapped_column(String(71), primary_key=True)
    size: Mapped[int]
    created_at: Mapped[datetime]
    published: Mapped[bool] = mapped_column(default=False)  # part of a bundle, for ever


class Model(Base):
    """A model by name; its versions are `ModelVersion`."""

    __tablename__ = "model"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))


class ModelVersion(Base):
    """One pushed version; immutable but for its state, report and job."""

    __tablename__ = "model_version"
    __table_args__ = (UniqueConstraint("model", "version"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(ForeignKey("model.name"))
    version: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))  # processing, unsigned, ready, refused, failed
    content: Mapped[str] = mapped_column(String(71))  # digest over source, data and options
    source: Mapped[str] = mapped_column(String(71))
    source_size: Mapped[int]
    source_name: Mapped[str] = mapped_column(String(256))
    calibration: Mapped[str | None] = mapped_column(String(71))
    evaluation: Mapped[str | None] = mapped_column(String(71))
    options: Mapped[Document]
    encrypted: Mapped[bool] = mapped_column(default=False)  # in all its variants
    report: Mapped[Document | None]
    parent: Mapped[str | None] = mapped_column(String(64))
    job: Mapped[str | None] = mapped_column(String(32))
    problem: Mapped[Document | None]  # why it has failed though its job has not
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))


class BundleVariant(Base):
    """A published bundle of a version."""

    __tablename__ = "bundle_variant"
    __table_args__ = (UniqueConstraint("version_id", "variant"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    variant: Mapped[str] = mapped_column(String(64))
    precision: Mapped[str] = mapped_column(String(8))
    target: Mapped[str] = mapped_column(String(256))  # path in the TUF targets
    manifest: Mapped[str] = mapped_column(String(71))
    manifest_size: Mapped[int]
    bundle_bytes: Mapped[int]  # what a device fetches: manifest and layers, without documents
    model_bytes: Mapped[int]
    rank: Mapped[int]  # 0 is tried first
    trial: Mapped[Document]  # the pipeline's row for it: accuracy, latency, recipe
    content_key: Mapped[str | None] = mapped_column(
        String(128)
    )  # of an encrypted bundle, sealed to the server's key


class Job(Base):
    """Long work; the row is the truth, whoever does it."""

    __tablename__ = "job"
    __table_args__ = (Index("ix_job_state", "state", "created_at"),)
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16))  # queued, running, succeeded, failed, cancelled
    payload: Mapped[Document]
    progress: Mapped[Document]
    result: Mapped[Document | None]
    error: Mapped[Document | None]  # code, detail, data
    fence: Mapped[int]  # grows with every claim; a late worker's write is refused by it
    attempts: Mapped[int]
    lease_until: Mapped[datetime | None]
    cancel_requested: Mapped[bool]
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


# ---------------------------------------------------------------- devices


class EnrolToken(Base):
    """A token with which devices may enrol; `key` is SHA-256 of its secret."""

    __tablename__ = "enrol_token"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    key: Mapped[str] = mapped_column(String(64))
    group: Mapped[str] = mapped_column(String(64), default="")  # of the devices that use it
    uses_left: Mapped[int]
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))


class Preauthorised(Base):
    """A key that may enrol under a name, once; also what an operator has approved."""

    __tablename__ = "preauthorised"
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    public_key_sha256: Mapped[str] = mapped_column(String(64))
    group: Mapped[str] = mapped_column(String(64))
    approved: Mapped[bool]  # it had asked, and is expected to ask again at once
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))


class EnrolRequestRow(Base):
    """A device that asks to be let in, by name and key: anybody can claim a name."""

    __tablename__ = "enrol_request"
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    public_key_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    source: Mapped[str] = mapped_column(String(64))  # address, or network of it
    rejected_by: Mapped[str] = mapped_column(String(128))  # empty: it waits
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]


class Device(Base):
    """A device that has enrolled."""

    __tablename__ = "device"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))  # enrolled, revoked, decommissioned
    group: Mapped[str] = mapped_column(String(64), default="", index=True)  # the server says it
    public_key_sha256: Mapped[str] = mapped_column(String(64))
    certificate_serial: Mapped[str] = mapped_column(String(64))  # newest, hexadecimal
    certificate_expires_at: Mapped[datetime]
    encryption_key: Mapped[str | None] = mapped_column(String(64))  # X25519, hexadecimal
    certificate_pem: Mapped[str] = mapped_column(Text)  # a repeated enrolment is answered with it
    # [serial, end] of older certificates that have not expired, revoked with the newest
    earlier_serials: Mapped[list[Any]]
    enrol_token: Mapped[str] = mapped_column(String(16))  # the token that was last used
    enrolled_at: Mapped[datetime]
    enrolled_by: Mapped[str] = mapped_column(String(160), default="")  # how, and whose doing
    decommissioned_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    online: Mapped[bool]
    last_seen_at: Mapped[datetime | None]
    boot: Mapped[int]  # newest (boot, seq) of `reported`
    seq: Mapped[int]
    order_counter: Mapped[int]  # newest order issued
    order_nonces: Mapped[Document] = mapped_column(default=dict)  # of the newest orders, by counter
    order: Mapped[Document | None]  # its signed DSSE envelope, published again as it is
    order_expires_at: Mapped[datetime | None]
    reported: Mapped[Document]  # edgectl_protocol.messages.ReportedState
    agent_version: Mapped[str] = mapped_column(String(32))


class ReportedSlot(Base):
    """What a slot of a device does, taken out of `Device.reported` in order to be searched."""

    __tablename__ = "reported_slot"
    device: Mapped[str] = mapped_column(
        ForeignKey("device.id", ondelete="CASCADE"), primary_key=True
    )
    slot: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str | None] = mapped_column(String(64))  # running
    manifest: Mapped[str | None] = mapped_column(String(71))  # running
    update_state: Mapped[str | None] = mapped_column(String(16))  # of the newest update


class DesiredSlot(Base):
    """What a slot of a device shall run."""

    __tablename__ = "desired_slot"
    device: Mapped[str] = mapped_column(
        ForeignKey("device.id", ondelete="CASCADE"), primary_key=True
    )
    slot: Mapped[str] = mapped_column(String(64), primary_key=True)
    version_id: Mapped[int | None] = mapped_column(ForeignKey("model_version.id"))  # None: nothing
    rollout: Mapped[str | None] = mapped_column(String(32))
    updated_at: Mapped[datetime]


class DeviceEventRow(Base):
    """A transition that a device has reported; stored once by (device, boot, seq)."""

    __tablename__ = "device_event"
    __table_args__ = (Index("ix_device_event_received", "device", "received_at"),)
    device: Mapped[str] = mapped_column(
        ForeignKey("device.id", ondelete="CASCADE"), primary_key=True
    )
    boot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    received_at: Mapped[datetime]
    slot: Mapped[str] = mapped_column(String(64))
    rollout: Mapped[str | None] = mapped_column(String(64), index=True)
    event: Mapped[Document]  # edgectl_protocol.messages.DeviceEvent


class SecurityEventRow(Base):
    """What an attacker may have done, as the device or the server saw it; counted, not repeated."""

    __tablename__ = "security_event"
    __table_args__ = (
        UniqueConstraint("device", "key"),
        Index("ix_security_event_received", "device", "received_at"),
    )
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    device: Mapped[str] = mapped_column(ForeignKey("device.id", ondelete="CASCADE"))
    key: Mapped[str] = mapped_column(String(128))  # who saw it and its number: stored once by it
    source: Mapped[str] = mapped_column(String(8))  # device, server
    at: Mapped[datetime]  # first seen, by the clock of the source
    until: Mapped[datetime]  # last seen
    received_at: Mapped[datetime] = mapped_column(index=True)  # newest news of it
    code: Mapped[str] = mapped_column(String(64))
    detail: Mapped[str] = mapped_column(String(1024))
    count: Mapped[int]
    order: Mapped[int | None]  # counter of the order that is meant


# ---------------------------------------------------------------- rollouts


class Rollout(Base):
    """A version on its way to devices."""

    __tablename__ = "rollout"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    model: Mapped[str] = mapped_column(String(64))
    version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    state: Mapped[str] = mapped_column(
        String(16), index=True
    )  # running, paused, completed, aborted
    selector: Mapped[Document]
    policy: Mapped[Document]
    revision: Mapped[int]  # number of the newest `RolloutEvent`
    failures_acknowledged: Mapped[int]  # by the newest resume; these do not pause it again
    note: Mapped[str] = mapped_column(String(1024))  # why it is paused, or what it waits for
    due_at: Mapped[datetime | None]  # when the planner looks at it again; None when ended
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))
    finished_at: Mapped[datetime | None]


class RolloutDevice(Base):
    """One device of a rollout."""

    __tablename__ = "rollout_device"
    rollout: Mapped[str] = mapped_column(
        ForeignKey("rollout.id", ondelete="CASCADE"), primary_key=True
    )
    device: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    state: Mapped[str] = mapped_column(String(16))  # see edgectl_server.domain.rollouts
    previous_version_id: Mapped[int | None]
    order_counter: Mapped[int | None]
    reason: Mapped[Document | None]
    updated_at: Mapped[datetime]


class RolloutEvent(Base):
    """What has happened to a rollout, in order."""

    __tablename__ = "rollout_event"
    rollout: Mapped[str] = mapped_column(
        ForeignKey("rollout.id", ondelete="CASCADE"), primary_key=True
    )
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[Document]


class Retained(Base):
    """What the broker is made to hold; written before it is published, so none is forgotten."""

    __tablename__ = "retained"
    key: Mapped[str] = mapped_column(String(128), primary_key=True)  # digest, or role/version
    kind: Mapped[str] = mapped_column(String(16))  # blob, metadata
    size: Mapped[int]  # bytes
    complete: Mapped[bool]  # all of it was published
    until: Mapped[datetime | None]  # for a late device, after which it may be cleared
    created_at: Mapped[datetime]


class Outbox(Base):
    """A message that must be published, written with the change that causes it."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    key: Mapped[str] = mapped_column(
        String(128), unique=True
    )  # such as order/<device>: newest wins
    kind: Mapped[str] = mapped_column(String(32))
    payload: Mapped[Document]
    created_at: Mapped[datetime]


# ---------------------------------------------------------------- telemetry


class TelemetryWindow(Base):
    """Counts of one model slot of one device over one window; stored once by its key."""

    __tablename__ = "telemetry_window"
    __table_args__ = (Index("ix_telemetry_window_slot", "slot", "end"),)
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    boot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # within the batch
    slot: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[str] = mapped_column(String(71))
    start: Mapped[datetime]
    end: Mapped[datetime]
    requests: Mapped[int]
    errors: Mapped[int]
    non_finite: Mapped[int]
    refused: Mapped[int]
    latency: Mapped[list[Any]]
    confidence: Mapped[list[Any]]
    classes: Mapped[list[Any]]
    received_at: Mapped[datetime] = mapped_column(index=True)


class SystemSampleRow(Base):
    """Health of a device at one moment."""

    __tablename__ = "system_sample"
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    boot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    received_at: Mapped[datetime] = mapped_column(index=True)
    sample: Mapped[Document]  # edgectl_protocol.messages.SystemSample
