"""What devices upload, from the offer to its end; the content is in the blob store when whole.

And log lines that somebody looks at, for as long as they do.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from edgectl_server.storage.tables.base import Base, Document

__all__ = ["DeviceUpload", "DeviceUploadChunk", "LogFollow", "LogFollowLines"]


class DeviceUpload(Base):
    """One content of one device."""

    __tablename__ = "upload"
    __table_args__ = (
        UniqueConstraint("device", "digest"),
        Index("ix_upload_state", "state", "created_at"),
        Index("ix_upload_digest", "digest"),
        Index("ix_upload_kept_as", "kept_as"),
    )
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    device: Mapped[str] = mapped_column(ForeignKey("device.id", ondelete="CASCADE"))
    digest: Mapped[str] = mapped_column(String(71))
    kept_as: Mapped[str | None] = mapped_column(String(71))  # digest; None: the same
    sealed_to: Mapped[str | None] = mapped_column(String(16))  # name of the key; None: to none
    kind: Mapped[str] = mapped_column(String(16))
    model: Mapped[str] = mapped_column(String(64), default="")  # of a sample; empty: of none
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

    @property
    def kept(self) -> str:
        """The digest of what is kept of it, once it is complete."""
        return self.kept_as or self.digest


class DeviceUploadChunk(Base):
    """A chunk of an upload that is not whole yet."""

    __tablename__ = "upload_chunk"
    upload: Mapped[int] = mapped_column(
        ForeignKey("upload.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class LogFollow(Base):
    """Somebody looks at the log lines of a device as they come."""

    __tablename__ = "log_follow"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    device: Mapped[str] = mapped_column(ForeignKey("device.id", ondelete="CASCADE"), index=True)
    nonce: Mapped[str] = mapped_column(String(32))
    started_by: Mapped[str] = mapped_column(String(128))
    started_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    watched_until: Mapped[datetime]  # unless somebody asks for lines before
    asked_until: Mapped[datetime | None]  # the device sends for so long; None: not asked yet
    number: Mapped[int]  # of the newest message
    position: Mapped[int]  # lines so far, those that are missing included
    missing: Mapped[int]
    bytes: Mapped[int]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)
    reason: Mapped[str] = mapped_column(String(16))  # time, unwatched, offline, enough; empty: on


class LogFollowLines(Base):
    """The lines of one message."""

    __tablename__ = "log_follow_lines"
    follow: Mapped[str] = mapped_column(
        ForeignKey("log_follow.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    lines: Mapped[list[Any]]  # of edgectl_protocol.log_lines.LogLine
