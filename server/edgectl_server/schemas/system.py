"""The server itself."""

from __future__ import annotations

from typing import Literal

from edgectl_server.schemas.base import Schema

__all__ = ["ReadyInfo", "UploadLimits", "VersionInfo"]


class VersionInfo(Schema):
    """``GET /version`` (no login)."""

    version: str
    api: Literal["v1"] = "v1"
    ui: bool


class ReadyInfo(Schema):
    """``GET /health/ready`` (no login)."""

    ready: bool
    checks: dict[str, str]
    """``ok`` or what is wrong: ``database``, ``blobs``, ``broker``, ``signing``."""


class UploadLimits(Schema):
    """``GET /uploads``."""

    file_bytes_max: int
    room_bytes: int
    """What the server's disk has room for now."""
