"""Versions that come as files from other servers."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

__all__ = ["ImportAccepted", "ImportRequest", "ImportedInfo", "OriginInfo"]


class ImportRequest(Struct, frozen=True, kw_only=True):
    """``POST /imports``: `file` is 64 hexadecimal digits of an uploaded file."""

    file: str
    filename: str
    origin: str
    origin_root: str | None = None
    expired_for_s: int = 0


class ImportAccepted(Struct, frozen=True):
    """A job has begun; its result names the version."""

    job: str


class ImportedInfo(Struct, frozen=True):
    """From where a version came as a file."""

    origin: str
    root: str
    root_version: int
    file: str
    filename: str
    pushed_by: str
    imported_at: datetime
    expired_for_s: int


class OriginInfo(Struct, frozen=True):
    """Another server whose exported versions are believed."""

    name: str
    pinned: str
    root: str
    root_version: int
    created_at: datetime
    created_by: str
    imported_at: datetime
