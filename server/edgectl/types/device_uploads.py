"""What devices upload."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

__all__ = ["DeviceUploadInfo", "LogFollowInfo", "LogFollowPage", "LogLineInfo", "LogsStart"]


class LogsStart(Struct, frozen=True):
    """How far back a device's logs are wanted; 0: all that it has."""

    since_s: int = 3600


class DeviceUploadInfo(Struct, frozen=True):
    """One content that a device has offered."""

    digest: str
    kind: str
    media_type: str
    length: int
    state: str
    chunks_done: int
    chunks_total: int
    job: str
    made_at: datetime
    created_at: datetime
    ended_at: datetime | None
    expires_at: datetime
    reason_code: str = ""
    reason: str = ""


class LogFollowInfo(Struct, frozen=True):
    """Somebody looks at the log lines of a device as they come."""

    id: str
    device: str
    started_by: str
    started_at: datetime
    ends_at: datetime
    missing: int
    ended_at: datetime | None
    reason: str


class LogLineInfo(Struct, frozen=True):
    """One line, by the device's clock."""

    time: datetime | None
    level: str
    logger: str
    text: str


class LogFollowPage(Struct, frozen=True):
    """What has come; `after` is what to ask with next."""

    follow: LogFollowInfo
    after: int
    lines: tuple[LogLineInfo, ...]
