"""Versions that come as files from other servers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from edgectl_server.schemas.base import DigestStr, Schema, Sha256

__all__ = ["ImportAccepted", "ImportRequest", "ImportedInfo", "OriginInfo", "OriginStr"]

OriginStr = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
GRACE_S_MAX = 90 * 86400


class ImportRequest(Schema):
    """``POST /imports``; the file has been uploaded before."""

    file: Sha256
    filename: str = Field(max_length=256)
    origin: OriginStr
    """How the other server is called here."""
    origin_root: DigestStr | None = None
    """SHA-256 of one of its roots, brought by another way; the first time, and by an admin."""
    expired_for_s: int = Field(default=0, ge=0, le=GRACE_S_MAX)
    """So long ago the signatures in the file may have ended."""


class ImportAccepted(Schema):
    """A job has begun; its result names the version."""

    job: str


class ImportedInfo(Schema):
    """From where a version came as a file."""

    origin: str
    root: DigestStr
    """SHA-256 of the origin's root by which it was believed."""
    root_version: int
    file: DigestStr
    filename: str
    pushed_by: str
    """There."""
    imported_at: datetime
    expired_for_s: int
    """So long ago the signatures were allowed to have ended."""


class OriginInfo(Schema):
    """Another server whose exported versions are believed."""

    name: str
    pinned: DigestStr
    """SHA-256 of the root that was named first."""
    root: DigestStr
    """Of the newest that is believed."""
    root_version: int
    created_at: datetime
    created_by: str
    imported_at: datetime
    """The newest time."""
