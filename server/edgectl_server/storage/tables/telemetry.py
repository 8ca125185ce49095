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


class SystemSampleRow(Base):
    """Health of a device at one moment."""

    __tablename__ = "system_sample"
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    boot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    received_at: Mapped[datetime] = mapped_column(index=True)
    sample: Mapped[Document]  # edgectl_protocol.messages.SystemSample
