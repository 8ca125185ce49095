"""Samples of inputs and answers, and the policies by which they may leave devices."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from edgectl_server.storage.tables.base import Base, Document

__all__ = ["SampleKeyRow", "SamplePolicyRow", "SampleRow"]


class SampleRow(Base):
    """One sample that is here whole; its content and its end are those of its upload."""

    __tablename__ = "sample"
    __table_args__ = (
        Index("ix_sample_model", "model", "taken_at"),
        Index("ix_sample_device", "device", "taken_at"),
        Index("ix_sample_request", "device", "request"),
        Index("ix_sample_label", "model", "label_state", "confidence"),
    )
    id: Mapped[str] = mapped_column(String(16), primary_key=True)  # of no sample before
    upload: Mapped[int] = mapped_column(ForeignKey("upload.id", ondelete="CASCADE"), unique=True)
    device: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[str] = mapped_column(String(71))
    digest: Mapped[str] = mapped_column(String(71))
    reason: Mapped[str] = mapped_column(String(32))
    taken_at: Mapped[datetime]  # by the device's clock
    received_at: Mapped[datetime] = mapped_column(index=True)
    length: Mapped[int]
    tensors: Mapped[list[Any]]  # name, datatype, shape
    request: Mapped[str | None] = mapped_column(String(64))  # that an application has named
    answer: Mapped[int] = mapped_column(default=-1)  # class number; -1: no class scores
    confidence: Mapped[float | None]
    label_state: Mapped[str] = mapped_column(String(16), default="")  # see `domain.agreement`
    label: Mapped[str | None] = mapped_column(String(256))  # that annotations agree on
    label_number: Mapped[int] = mapped_column(default=-1)
    key: Mapped[str] = mapped_column(String(16), default="")  # it came sealed to; empty: to none
    sealed: Mapped[bool] = mapped_column(default=False)  # it still is: this server cannot open it
    redacted: Mapped[bool] = mapped_column(default=False)  # on the device


class SampleKeyRow(Base):
    """A key that samples are, or were, sealed to; none is ever deleted."""

    __tablename__ = "sample_key"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)  # of the public key's digest
    public: Mapped[str] = mapped_column(String(44))  # base64
    holder: Mapped[str] = mapped_column(String(16))  # server, outside
    secret: Mapped[str | None] = mapped_column(Text)  # of the server's, sealed
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))


class SamplePolicyRow(Base):
    """What of a model's inputs and answers may leave devices; without a row nothing may."""

    __tablename__ = "sample_policy"
    model: Mapped[str] = mapped_column(String(64), primary_key=True)
    document: Mapped[Document]
    revision: Mapped[int]  # grows with each change
    changed_at: Mapped[datetime]
    changed_by: Mapped[str] = mapped_column(String(128))
