"""Alerts, silences and routes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import UNSET, Struct, UnsetType, field

__all__ = [
    "AlertCounts",
    "AlertDetail",
    "AlertEvent",
    "AlertNoticeInfo",
    "AlertRouteChange",
    "AlertRouteInfo",
    "AlertRouteRequest",
    "RaisedAlert",
    "SilenceInfo",
    "SilenceRequest",
]


class RaisedAlert(Struct, frozen=True):
    """A condition from its beginning to its end."""

    id: str
    kind: str
    subject: str
    severity: str
    state: str
    summary: str
    hint: str
    model: str
    site: str
    device: str
    owner: str
    silenced_until: datetime | None
    opened_at: datetime
    seen_at: datetime
    absent_since: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str
    resolved_at: datetime | None
    resolved_by: str
    revision: int


class AlertEvent(Struct, frozen=True):
    """Something that has happened to an alert."""

    revision: int
    at: datetime
    actor: str
    kind: str
    data: dict[str, Any]


class AlertDetail(Struct, frozen=True):
    """An alert with what has happened to it, the newest first."""

    alert: RaisedAlert
    events: list[AlertEvent]


class AlertCounts(Struct, frozen=True):
    """How many there are."""

    open: int
    acknowledged: int
    critical: int
    warning: int
    info: int
    silences: int
    newest: datetime | None


class SilenceRequest(Struct, frozen=True, omit_defaults=True):
    """``POST /alert-silences``."""

    for_s: int
    reason: str
    kind: str = ""
    model: str = ""
    site: str = ""
    subject: str = ""


class SilenceInfo(Struct, frozen=True):
    """Alerts that nobody is told of for a while."""

    id: str
    kind: str
    model: str
    site: str
    subject: str
    until: datetime
    reason: str
    created_at: datetime
    created_by: str


class AlertRouteRequest(Struct, frozen=True):
    """``POST /alert-routes``."""

    name: str
    channel: str
    target: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    severity: str = "warning"
    model: str = ""
    site: str = ""
    repeat_s: int = 4 * 3600
    enabled: bool = True


class AlertRouteChange(Struct, frozen=True):
    """``PATCH /alert-routes/{id}``: what is not given stays."""

    name: str | UnsetType = UNSET
    target: list[str] | UnsetType = UNSET
    kinds: list[str] | UnsetType = UNSET
    severity: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    site: str | UnsetType = UNSET
    repeat_s: int | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class AlertNoticeInfo(Struct, frozen=True):
    """A message of a route, on its way or arrived."""

    id: str
    state: str
    attempts: int
    error: str
    began: int
    again: int
    ended: int
    created_at: datetime
    tried_at: datetime | None
    next_at: datetime | None


class AlertRouteInfo(Struct, frozen=True):
    """Which alerts are told to whom."""

    id: str
    name: str
    channel: str
    target: list[str]
    kinds: list[str]
    severity: str
    model: str
    site: str
    repeat_s: int
    enabled: bool
    last_at: datetime | None
    problem: str
    pending: int
    created_at: datetime
    created_by: str
