"""Webhooks, and what must be sent to them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from edgectl_server.storage.tables.base import Base, Document

__all__ = ["Webhook", "WebhookDelivery"]


class Webhook(Base):
    """An address that is told of events."""

    __tablename__ = "webhook"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    url: Mapped[str] = mapped_column(Text)  # sealed: those of chat rooms are secrets by themselves
    secret: Mapped[str] = mapped_column(Text)  # sealed
    events: Mapped[list[Any]]
    format: Mapped[str] = mapped_column(String(16))  # edgectl, slack, teams
    enabled: Mapped[bool]
    note: Mapped[str] = mapped_column(String(256))  # why the server has switched it off
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))
    changed_at: Mapped[datetime]


class WebhookDelivery(Base):
    """One event on its way to one webhook, written with the change that it tells of."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        Index("ix_webhook_delivery_due_at", "due_at", "webhook"),
        Index("ix_webhook_delivery_webhook", "webhook", "created_at"),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)  # the same at every attempt
    webhook: Mapped[str] = mapped_column(ForeignKey("webhook.id", ondelete="CASCADE"))
    event: Mapped[str] = mapped_column(String(32))
    data: Mapped[Document]
    state: Mapped[str] = mapped_column(String(16))  # pending, delivered, failed
    attempts: Mapped[int]  # begun; also the fence of the newest
    due_at: Mapped[datetime | None]  # when it is tried (again); None: it has ended
    status: Mapped[int | None]  # of the newest answer
    error: Mapped[str] = mapped_column(String(256))
    created_at: Mapped[datetime]
    tried_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)
