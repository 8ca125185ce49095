"""Alerts, whom they are told, and what of that is on its way."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from edgectl_server.storage.tables.base import Base, Document

__all__ = [
    "AlertEventRow",
    "AlertNotice",
    "AlertRoute",
    "AlertRow",
    "AlertSilence",
    "AlertTold",
    "AlertTurn",
]


class AlertRow(Base):
    """A condition from its beginning to its end."""

    __tablename__ = "alert"
    __table_args__ = (
        UniqueConstraint("held"),
        Index("ix_alert_state", "state", "severity"),
        Index("ix_alert_opened_at", "opened_at", "id"),
    )
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    # SHA-256 of kind and subject while the condition lasts, so that it has one alert; then null
    held: Mapped[str | None] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(256))
    severity: Mapped[str] = mapped_column(String(16))  # info, warning, critical
    state: Mapped[str] = mapped_column(String(16))  # open, acknowledged, resolved
    summary: Mapped[str] = mapped_column(String(1024))
    hint: Mapped[str] = mapped_column(String(1024))
    model: Mapped[str] = mapped_column(String(64))  # empty: none, as the two that follow
    site: Mapped[str] = mapped_column(String(128))
    device: Mapped[str] = mapped_column(String(64))
    clear_after_s: Mapped[int]
    owner: Mapped[str] = mapped_column(String(128))  # empty: nobody
    opened_at: Mapped[datetime]
    seen_at: Mapped[datetime]  # when the source last said so
    absent_since: Mapped[datetime | None]
    acknowledged_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str] = mapped_column(String(128))
    resolved_at: Mapped[datetime | None] = mapped_column(index=True)
    resolved_by: Mapped[str] = mapped_column(String(128))  # ``server``: its condition has ended
    revision: Mapped[int]  # number of the newest `AlertEventRow`


class AlertEventRow(Base):
    """What has happened to an alert, in order."""

    __tablename__ = "alert_event"
    alert: Mapped[str] = mapped_column(ForeignKey("alert.id", ondelete="CASCADE"), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[Document]


class AlertSilence(Base):
    """Alerts that nobody is told of for a while."""

    __tablename__ = "alert_silence"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    kind: Mapped[str] = mapped_column(String(64))  # empty: any, as the three that follow
    model: Mapped[str] = mapped_column(String(64))
    site: Mapped[str] = mapped_column(String(128))
    subject: Mapped[str] = mapped_column(String(256))
    until: Mapped[datetime] = mapped_column(index=True)
    reason: Mapped[str] = mapped_column(String(1024))
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))


class AlertTurn(Base):
    """The lock that makes servers look one after the other; there is one row, number 1."""

    __tablename__ = "alert_turn"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class AlertRoute(Base):
    """Which alerts are told to whom."""

    __tablename__ = "alert_route"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    kinds: Mapped[list[Any]]
    severity: Mapped[str] = mapped_column(String(16))  # at least
    model: Mapped[str] = mapped_column(String(64))
    site: Mapped[str] = mapped_column(String(128))
    channel: Mapped[str] = mapped_column(String(16))  # webhook, email, mqtt
    target: Mapped[list[Any]]  # the webhook's id, addresses, devices
    repeat_s: Mapped[int]  # 0: never
    enabled: Mapped[bool]
    last_at: Mapped[datetime | None]  # when it last made a message
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))


class AlertTold(Base):
    """That a route has told of an alert, and not yet of its end."""

    __tablename__ = "alert_told"
    route: Mapped[str] = mapped_column(
        ForeignKey("alert_route.id", ondelete="CASCADE"), primary_key=True
    )
    alert: Mapped[str] = mapped_column(
        ForeignKey("alert.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    at: Mapped[datetime]
    severity: Mapped[str] = mapped_column(String(16))


class AlertNotice(Base):
    """A message of a route on its way by e-mail or MQTT; those by webhook are its deliveries."""

    __tablename__ = "alert_notice"
    __table_args__ = (
        Index("ix_alert_notice_due_at", "due_at", "channel"),
        Index("ix_alert_notice_route", "route", "created_at"),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)  # the same at every attempt
    route: Mapped[str] = mapped_column(ForeignKey("alert_route.id", ondelete="CASCADE"))
    channel: Mapped[str] = mapped_column(String(16))
    target: Mapped[list[Any]]
    data: Mapped[Document]
    state: Mapped[str] = mapped_column(String(16))  # pending, delivered, failed
    attempts: Mapped[int]  # begun; also the fence of the newest
    due_at: Mapped[datetime | None]  # when it is tried (again); None: it has ended
    error: Mapped[str] = mapped_column(String(256))
    created_at: Mapped[datetime]
    tried_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)
