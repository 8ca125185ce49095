"""What devices upload."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from edgectl_protocol.uploads import SINCE_S_MAX
from edgectl_server.schemas.base import Schema

__all__ = ["DeviceUploadInfo", "LogsStart"]


class LogsStart(Schema):
    """``POST /devices/{device}/logs``."""

    since_s: int = Field(default=3600, ge=0, le=SINCE_S_MAX)
    """How far back, by the device's clock; 0: all that it has."""


class DeviceUploadInfo(Schema):
    """One content that a device has offered and the server has taken, or tried to."""

    digest: str
    kind: Literal["logs"]
    media_type: str
    """As the device says; what is downloaded is served as bytes whatever it is."""
    length: int
    state: Literal["waiting", "receiving", "received", "complete", "failed"]
    chunks_done: int
    chunks_total: int
    job: str
    """That it answers."""
    made_at: datetime
    """By the device's clock."""
    created_at: datetime
    ended_at: datetime | None
    expires_at: datetime
    reason_code: str = ""
    """Why it has failed."""
    reason: str = ""
