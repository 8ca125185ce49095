"""What people, imports and the field say of samples."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from edgectl_server.storage.tables.base import Base

__all__ = ["AnnotationRow", "OutcomeRow"]


class AnnotationRow(Base):
    """What one labeller says of one sample."""

    __tablename__ = "annotation"
    __table_args__ = (
        UniqueConstraint("sample", "source", "labeller"),
        Index("ix_annotation_labeller", "labeller", "made_at"),
    )
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    sample: Mapped[str] = mapped_column(ForeignKey("sample.id", ondelete="CASCADE"))
    source: Mapped[str] = mapped_column(String(8))  # person, import, field
    labeller: Mapped[str] = mapped_column(String(128))
    label: Mapped[str | None] = mapped_column(String(256))  # None: cannot tell
    number: Mapped[int]  # of the class; -1: cannot tell
    made_at: Mapped[datetime]
    entered_by: Mapped[str] = mapped_column(String(128))


class OutcomeRow(Base):
    """What an application has said of a request whose sample has not come yet."""

    __tablename__ = "outcome"
    device: Mapped[str] = mapped_column(
        ForeignKey("device.id", ondelete="CASCADE"), primary_key=True
    )
    model: Mapped[str] = mapped_column(String(64), primary_key=True)
    request: Mapped[str] = mapped_column(String(64), primary_key=True)
    label: Mapped[str] = mapped_column(String(256))
    received_at: Mapped[datetime] = mapped_column(index=True)
