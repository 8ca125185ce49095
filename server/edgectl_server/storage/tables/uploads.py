"""What devices upload, from the offer to its end; the content is in the blob store when whole."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from edgectl_server.storage.tables.base import Base, Document

__all__ = ["DeviceUpload", "DeviceUploadChunk"]


class DeviceUpload(Base):
    """One content of one device."""

    __tablename__ = "upload"
    __table_args__ = (
        UniqueConstraint("device", "digest"),
        Index("ix_upload_state", "state", "created_at"),
        Index("ix_upload_digest", "digest"),
    )
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    device: Mapped[str] = mapped_column(ForeignKey("device.id", ondelete="CASCADE"))
    digest: Mapped[str] = mapped_column(String(71))
    kind: Mapped[str] = mapped_column(String(16))
    media_type: Mapped[str] = mapped_column(String(64))
    length: Mapped[int]
    chunk_index: Mapped[str | None] = mapped_column(String(71))  # None: content of one chunk
    index: Mapped[bytes | None] = mapped_column(LargeBinary)  # when it has come
    state: Mapped[str] = mapped_column(String(16))  # waiting, receiving, received, complete, failed
    bitmap: Mapped[bytes] = mapped_column(LargeBinary)  # of the chunks that have come
    asked: Mapped[list[Any]]  # numbers of those that are wanted now
    asked_at: Mapped[datetime | None]
    window: Mapped[int]
    stalls: Mapped[int]  # how often the present ones were asked for in vain
    refusals: Mapped[int]  # chunks that came with other content
    job: Mapped[str] = mapped_column(String(32))  # that it answers; empty: none
    made_at: Mapped[datetime]  # by the device's clock
    created_at: Mapped[datetime]
    began_at: Mapped[datetime | None]  # receiving
    moved_at: Mapped[datetime]  # newest chunk, or offer
    ended_at: Mapped[datetime | None]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    reason: Mapped[Document | None]  # why it has failed


class DeviceUploadChunk(Base):
    """A chunk of an upload that is not whole yet."""

    __tablename__ = "upload_chunk"
    upload: Mapped[int] = mapped_column(
        ForeignKey("upload.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    content: Mapped[bytes] = mapped_column(LargeBinary)
