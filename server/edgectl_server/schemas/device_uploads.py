"""What devices upload."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from edgectl_protocol.uploads import SINCE_S_MAX
from edgectl_server.schemas.base import Schema

__all__ = ["DeviceUploadInfo", "LogFollowInfo", "LogFollowPage", "LogLineInfo", "LogsStart"]


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


class LogFollowInfo(Schema):
    """Somebody looks at the log lines of a device as they come."""

    id: str
    device: str
    started_by: str
    """Who began; others who look at the same device see the same."""
    started_at: datetime
    ends_at: datetime
    """At the latest."""
    missing: int
    """Lines that the device has left out, or that got lost on the way."""
    ended_at: datetime | None
    reason: Literal["", "time", "unwatched", "offline", "enough"]
    """Why it has ended: its time was over, nobody looked, the device is away, it has sent as much
    as it sends at a time."""


class LogLineInfo(Schema):
    """One line, as the device says: a device may be anybody's by now."""

    time: datetime | None
    """By the device's clock."""
    level: str
    logger: str
    text: str


class LogFollowPage(Schema):
    """``GET /devices/{device}/logs/follow/{follow}``: what has come since."""

    follow: LogFollowInfo
    after: int
    """What to ask with next."""
    lines: list[LogLineInfo]
