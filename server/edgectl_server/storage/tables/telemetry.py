"""What devices measure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    Index,
    String,
)
from sqlalchemy.orm import Mapped, mapped_column

from edgectl_server.storage.tables.base import Base, Document

__all__ = [
    "AccuracyPointRow",
    "AccuracyStateRow",
    "AnsweredHour",
    "DriftEventRow",
    "DriftStateRow",
    "FeatureHourRow",
    "FeatureWindowRow",
    "MessageReceiptRow",
    "SystemSampleRow",
    "TelemetryWindow",
]


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


class AnsweredHour(Base):
    """That a device has answered with a digest in an hour, and how often: windows added up."""

    __tablename__ = "answered_hour"
    __table_args__ = (
        Index("ix_answered_hour_slot", "slot", "hour"),
        Index("ix_answered_hour_device", "device", "hour"),
        Index("ix_answered_hour_hour", "hour"),
    )
    manifest: Mapped[str] = mapped_column(String(71), primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True)  # its beginning
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    slot: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(64))
    first: Mapped[datetime]
    last: Mapped[datetime]
    requests: Mapped[int]
    errors: Mapped[int]


class SystemSampleRow(Base):
    """Health of a device at one moment."""

    __tablename__ = "system_sample"
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    boot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    received_at: Mapped[datetime] = mapped_column(index=True)
    sample: Mapped[Document]  # edgectl_protocol.messages.SystemSample


class FeatureWindowRow(Base):
    """Counts of features of one model on one device over one window; stored once by its key."""

    __tablename__ = "feature_window"
    __table_args__ = (
        Index("ix_feature_window_manifest", "manifest", "end"),
        Index("ix_feature_window_rolled", "rolled", "hour"),
    )
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    boot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    slot: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[str] = mapped_column(String(71))
    start: Mapped[datetime]
    end: Mapped[datetime]
    hour: Mapped[datetime]  # in which it began
    rows: Mapped[int]
    skipped: Mapped[int]
    clock_shift_s: Mapped[int]
    counts: Mapped[Document]  # feature_counts.Counts
    rolled: Mapped[bool] = mapped_column(default=False)  # it is in its FeatureHourRow
    received_at: Mapped[datetime] = mapped_column(index=True)


class FeatureHourRow(Base):
    """The windows of one hour of one model on one device, added up; kept for longer."""

    __tablename__ = "feature_hour"
    manifest: Mapped[str] = mapped_column(String(71), primary_key=True)
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True, index=True)
    windows: Mapped[int]
    rows: Mapped[int]
    skipped: Mapped[int]
    counts: Mapped[Document]  # feature_counts.Counts


class DriftStateRow(Base):
    """Whether what a device, a site or the fleet sees has left the reference of a bundle."""

    __tablename__ = "drift_state"
    __table_args__ = (Index("ix_drift_state_model", "model", "level"),)
    manifest: Mapped[str] = mapped_column(String(71), primary_key=True)
    level: Mapped[str] = mapped_column(String(16), primary_key=True)  # device, site, fleet
    group: Mapped[str] = mapped_column(String(128), primary_key=True)  # empty: the fleet
    model: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))  # domain.drift.DriftState
    since: Mapped[datetime]
    until: Mapped[datetime] = mapped_column(index=True)  # end of what was looked at last
    rows: Mapped[int]
    findings: Mapped[list[Any]]  # schemas.DriftFinding
    faults: Mapped[list[Any]]  # schemas.DataFault


class UsualDaysRow(Base):
    """Days of which people have said that nothing was wrong with what a model saw."""

    __tablename__ = "usual_days"
    model: Mapped[str] = mapped_column(String(64), primary_key=True)
    since: Mapped[datetime]
    until: Mapped[datetime]
    set_at: Mapped[datetime]
    set_by: Mapped[str] = mapped_column(String(128))


class DriftEventRow(Base):
    """Drift, or a fault of the data, that has begun or ended."""

    __tablename__ = "drift_event"
    __table_args__ = (Index("ix_drift_event_model", "model", "id"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(index=True)
    kind: Mapped[str] = mapped_column(String(32))  # schemas.DriftEventKind
    model: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[str] = mapped_column(String(71))
    level: Mapped[str] = mapped_column(String(16))
    group: Mapped[str] = mapped_column(String(128))
    detail: Mapped[Document]


class AccuracyStateRow(Base):
    """How often a model is right on a device, at a site or in the fleet, as far as counts tell."""

    __tablename__ = "accuracy_state"
    __table_args__ = (Index("ix_accuracy_state_model", "model", "level"),)
    manifest: Mapped[str] = mapped_column(String(71), primary_key=True)
    level: Mapped[str] = mapped_column(String(16), primary_key=True)  # device, site, fleet
    group: Mapped[str] = mapped_column(String(128), primary_key=True)  # empty: the fleet
    model: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))  # domain.accuracy.AccuracyState
    since: Mapped[datetime]
    until: Mapped[datetime] = mapped_column(index=True)  # end of what was looked at last
    rows: Mapped[int]
    found: Mapped[Document]  # schemas.AccuracyFound


class AccuracyPointRow(Base):
    """What was estimated of a site or of the fleet at an earlier time."""

    __tablename__ = "accuracy_point"
    manifest: Mapped[str] = mapped_column(String(71), primary_key=True)
    level: Mapped[str] = mapped_column(String(16), primary_key=True)
    group: Mapped[str] = mapped_column(String(128), primary_key=True)
    until: Mapped[datetime] = mapped_column(primary_key=True, index=True)
    rows: Mapped[int]
    found: Mapped[Document]  # schemas.AccuracyFound


class MessageReceiptRow(Base):
    """Which of the numbered messages of one start of a device's agent have come."""

    __tablename__ = "message_receipt"
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    boot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    last: Mapped[int]  # the highest number
    received: Mapped[int]
    duplicates: Mapped[int]
    forgotten: Mapped[int]  # numbers that are missing and no longer known one by one
    gaps: Mapped[list[Any]]  # of first, last, and when it was noticed
    first_at: Mapped[datetime]
    last_at: Mapped[datetime] = mapped_column(index=True)
