"""Alerts, silences, and routes by which alerts are told."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from edgectl_server.schemas.base import Schema

__all__ = [
    "AlertAsked",
    "AlertAssigned",
    "AlertChannel",
    "AlertCounts",
    "AlertDetail",
    "AlertEvent",
    "AlertKindStr",
    "AlertNoticeInfo",
    "AlertNoticeState",
    "AlertRouteChange",
    "AlertRouteInfo",
    "AlertRouteRequest",
    "AlertSeverity",
    "AlertStateName",
    "RaisedAlert",
    "SilenceInfo",
    "SilenceRequest",
]

AlertSeverity = Literal["info", "warning", "critical"]
AlertStateName = Literal["open", "acknowledged", "resolved"]
AlertChannel = Literal["webhook", "email", "mqtt"]
AlertNoticeState = Literal["pending", "delivered", "failed"]
AlertKindStr = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}(\.[a-z0-9_]{1,31})?$")]
"""A kind, or its beginning up to the dot."""
_Reason = Annotated[str, StringConstraints(max_length=1024)]
_ModelOrAny = Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9_-]{0,63})?$")]
_SiteOrAny = Annotated[str, Field(max_length=128)]


class RaisedAlert(Schema):
    """A condition from its beginning to its end."""

    id: str
    kind: str
    """Such as ``drift.site``; `docs/alerts.md` lists them."""
    subject: str
    """Which thing of its kind."""
    severity: AlertSeverity
    state: AlertStateName
    summary: str
    hint: str
    """What to do about it."""
    model: str
    site: str
    device: str
    owner: str
    """Who sees to it; empty: nobody."""
    silenced_until: datetime | None
    """Nobody is told of it until then."""
    opened_at: datetime
    seen_at: datetime
    """When its source last said so."""
    absent_since: datetime | None
    """Since then its condition is away, not yet for long enough to end it."""
    acknowledged_at: datetime | None
    acknowledged_by: str
    resolved_at: datetime | None
    resolved_by: str
    """``server``: its condition has ended."""
    revision: int


class AlertEvent(Schema):
    """Something that has happened to an alert."""

    revision: int
    at: datetime
    actor: str
    kind: Literal["opened", "escalated", "acknowledged", "assigned", "resolved", "told"]
    data: dict[str, Any]


class AlertDetail(Schema):
    """An alert with what has happened to it, the newest first."""

    alert: RaisedAlert
    events: list[AlertEvent]


class AlertCounts(Schema):
    """How many there are; also the SSE snapshot ``alerts``."""

    open: int
    acknowledged: int
    critical: int
    """Of those that are not resolved."""
    warning: int
    info: int
    silences: int
    """In force."""
    newest: datetime | None
    """When an alert last changed; null: there has been none."""


class AlertAsked(Schema):
    """``POST /alerts/{id}/acknowledge`` and ``…/resolve``."""

    reason: _Reason = ""


class AlertAssigned(Schema):
    """``POST /alerts/{id}/assign``."""

    owner: Annotated[str, Field(max_length=128)]
    """A user; empty: nobody."""


class SilenceRequest(Schema):
    """``POST /alert-silences``: at least one of kind, model, site and subject is given."""

    kind: AlertKindStr | Literal[""] = ""
    model: _ModelOrAny = ""
    site: _SiteOrAny = ""
    subject: Annotated[str, Field(max_length=256)] = ""
    for_s: Annotated[int, Field(ge=60, le=90 * 86400)]
    reason: Annotated[str, StringConstraints(min_length=1, max_length=1024, strip_whitespace=True)]


class SilenceInfo(Schema):
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


def _once(values: list[str]) -> list[str]:
    return list(dict.fromkeys(values))


_RouteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")]
_Kinds = Annotated[list[AlertKindStr], Field(max_length=32), AfterValidator(_once)]
_Targets = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=254)]],
    Field(max_length=16),
    AfterValidator(_once),
]
_Repeat = Annotated[int, Field(ge=0, le=30 * 86400)]


class AlertRouteRequest(Schema):
    """``POST /alert-routes``."""

    name: _RouteName
    channel: AlertChannel
    target: _Targets = Field(default=[])
    """The webhook's name or id; addresses; devices, none: the topic of all alerts."""
    kinds: _Kinds = Field(default=[])
    """Empty: all."""
    severity: AlertSeverity = "warning"
    """At least this."""
    model: _ModelOrAny = ""
    site: _SiteOrAny = ""
    repeat_s: _Repeat = 4 * 3600
    """How often it reminds of an alert that nobody has acknowledged; 0: never."""
    enabled: bool = True


class AlertRouteChange(Schema):
    """``PATCH /alert-routes/{id}``: what is not given stays."""

    name: _RouteName | None = None
    target: _Targets | None = None
    kinds: _Kinds | None = None
    severity: AlertSeverity | None = None
    model: _ModelOrAny | None = None
    site: _SiteOrAny | None = None
    repeat_s: _Repeat | None = None
    enabled: bool | None = None


class AlertNoticeInfo(Schema):
    """A message of a route, on its way or arrived."""

    id: str
    """The same at every attempt."""
    state: AlertNoticeState
    attempts: int
    error: str
    began: int
    """How many alerts it tells of."""
    again: int
    """Of how many it reminds."""
    ended: int
    """Of how many it tells the end."""
    created_at: datetime
    tried_at: datetime | None
    next_at: datetime | None
    """When it is tried again; null: it has ended."""


class AlertRouteInfo(Schema):
    """Which alerts are told to whom."""

    id: str
    name: str
    channel: AlertChannel
    target: list[str]
    kinds: list[str]
    severity: AlertSeverity
    model: str
    site: str
    repeat_s: int
    enabled: bool
    last_at: datetime | None
    """When it last made a message."""
    problem: str
    """Why it can tell nobody now; empty: it can."""
    pending: int
    """Messages by e-mail or MQTT that wait for an attempt; those by webhook are its deliveries."""
    created_at: datetime
    created_by: str
