"""Devices: how they come in, what they shall run, what they report."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from edgectl_server.storage.tables.base import Base, Document

__all__ = [
    "DesiredSlot",
    "Device",
    "DeviceEventRow",
    "EnrolRequestRow",
    "EnrolToken",
    "Measurement",
    "Preauthorised",
    "ReportedSlot",
    "SavedSelector",
    "SecurityEventRow",
]


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
    __table_args__ = (
        Index("ix_device_seen", "state", "online", "last_seen_at"),
        Index("ix_device_held", "state", "held_at"),
    )
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
    device_class: Mapped[str] = mapped_column(String(64), default="", index=True)  # empty: none
    request_counter: Mapped[int] = mapped_column(default=0)  # newest request issued
    labels: Mapped[Document] = mapped_column(default=dict)  # people's; of the device: `reported`
    disconnects: Mapped[list[Any]] = mapped_column(default=list)  # newest moments, ISO 8601
    held_at: Mapped[datetime | None]  # no rollout begins on it from then on
    held_by: Mapped[str] = mapped_column(String(128), default="")
    hold_reason: Mapped[str] = mapped_column(String(1024), default="")


class SavedSelector(Base):
    """Devices that have a name together, as an expression of `domain.selectors`."""

    __tablename__ = "saved_selector"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    text: Mapped[str] = mapped_column(String(1024))
    changed_at: Mapped[datetime]
    changed_by: Mapped[str] = mapped_column(String(128))


class ReportedSlot(Base):
    """What a slot of a device does, taken out of `Device.reported` in order to be searched."""

    __tablename__ = "reported_slot"
    __table_args__ = (
        Index("ix_reported_slot_version", "slot", "version", "device"),
        Index("ix_reported_slot_update", "update_state", "device"),
    )
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
    # Manifests in the order in which they were offered, chosen once: what is measured afterwards
    # changes no device outside of a rollout. None: not chosen yet.
    ranking: Mapped[list[Any] | None]


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


class Measurement(Base):
    """What a variant needed on a device, in the trial of an update or because somebody asked."""

    __tablename__ = "measurement"
    __table_args__ = (
        UniqueConstraint("device", "boot", "seq"),  # of the message: stored once by it
        Index("ix_measurement_manifest", "manifest", "device_class", "id"),
    )
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    device: Mapped[str] = mapped_column(ForeignKey("device.id", ondelete="CASCADE"))
    boot: Mapped[int]
    seq: Mapped[int]
    version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"), index=True)
    variant: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[str] = mapped_column(String(71))
    device_class: Mapped[str] = mapped_column(String(64))  # empty: none
    source: Mapped[str] = mapped_column(String(16))  # trial, benchmark
    verdict: Mapped[str] = mapped_column(String(16))  # ok, rejected
    reason: Mapped[str] = mapped_column(String(64))  # its code, where it was rejected
    load_ms: Mapped[float | None]
    latency_p50_us: Mapped[float | None]
    latency_p95_us: Mapped[float | None]
    rss_bytes: Mapped[int | None]
    golden_passed: Mapped[int | None]
    golden_total: Mapped[int | None]
    max_abs_diff: Mapped[float | None]
    runs: Mapped[int | None]
    threads: Mapped[int | None]
    runtime: Mapped[str] = mapped_column(String(64))
    cpu_model: Mapped[str] = mapped_column(String(128))
    at: Mapped[datetime]  # by the device's clock
    received_at: Mapped[datetime]


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
