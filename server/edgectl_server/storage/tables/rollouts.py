"""Rollouts, and what must be published because of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ForeignKey,
    String,
)
from sqlalchemy.orm import Mapped, mapped_column

from edgectl_server.storage.tables.base import Base, Document

__all__ = [
    "Outbox",
    "Retained",
    "Rollout",
    "RolloutDevice",
    "RolloutEvent",
]


class Rollout(Base):
    """A version on its way to devices."""

    __tablename__ = "rollout"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    model: Mapped[str] = mapped_column(String(64))
    version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    state: Mapped[str] = mapped_column(
        String(16), index=True
    )  # running, paused, completed, aborted
    selector: Mapped[Document]
    policy: Mapped[Document]
    revision: Mapped[int]  # number of the newest `RolloutEvent`
    failures_acknowledged: Mapped[int]  # by the newest resume; these do not pause it again
    note: Mapped[str] = mapped_column(String(1024))  # why it is paused, or what it waits for
    due_at: Mapped[datetime | None]  # when the planner looks at it again; None when ended
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))
    finished_at: Mapped[datetime | None]
    # where it stands in its phases: edgectl_server.domain.rollout_facts.Standing
    phase: Mapped[int] = mapped_column(default=0)
    phase_since: Mapped[datetime | None]
    settled_at: Mapped[datetime | None]
    approved_phase: Mapped[int] = mapped_column(default=-1)
    verdicts: Mapped[list[Any]] = mapped_column(default=list)
    tested_until: Mapped[datetime | None]  # what arrived until then is in `tested_*` of its devices
    revert: Mapped[bool] = mapped_column(default=False)  # what has committed goes back too
    priority: Mapped[int] = mapped_column(default=0)  # a higher one comes first on a device


class RolloutDevice(Base):
    """One device of a rollout."""

    __tablename__ = "rollout_device"
    rollout: Mapped[str] = mapped_column(
        ForeignKey("rollout.id", ondelete="CASCADE"), primary_key=True
    )
    device: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    state: Mapped[str] = mapped_column(String(16))  # see edgectl_server.domain.rollouts
    previous_version_id: Mapped[int | None]
    order_counter: Mapped[int | None]
    refused_since: Mapped[datetime | None]  # it says that it does not obey its order
    from_phase: Mapped[int] = mapped_column(default=0)  # the first phase that is for it
    tested_requests: Mapped[int] = mapped_column(default=0)  # in the experiment
    tested_wrong: Mapped[int] = mapped_column(default=0)  # of them, what is counted
    reason: Mapped[Document | None]
    manifest: Mapped[str | None] = mapped_column(String(71))  # with which it has committed
    whole_bytes: Mapped[int | None]  # of the bundle that it is ordered, or has fetched
    predicted_bytes: Mapped[int | None]  # what that was expected to cost its link
    fetched_bytes: Mapped[int | None]  # what it has cost, as the device says
    updated_at: Mapped[datetime]


class RolloutEvent(Base):
    """What has happened to a rollout, in order."""

    __tablename__ = "rollout_event"
    rollout: Mapped[str] = mapped_column(
        ForeignKey("rollout.id", ondelete="CASCADE"), primary_key=True
    )
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[Document]


class Retained(Base):
    """What the broker is made to hold; written before it is published, so none is forgotten."""

    __tablename__ = "retained"
    key: Mapped[str] = mapped_column(String(128), primary_key=True)  # digest, or role/version
    kind: Mapped[str] = mapped_column(String(16))  # blob, metadata
    size: Mapped[int]  # bytes
    complete: Mapped[bool]  # all of it was published
    until: Mapped[datetime | None]  # for a late device, after which it may be cleared
    created_at: Mapped[datetime]


class Outbox(Base):
    """A message that must be published, written with the change that causes it."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    key: Mapped[str] = mapped_column(
        String(128), unique=True
    )  # such as order/<device>: newest wins
    kind: Mapped[str] = mapped_column(String(32))
    payload: Mapped[Document]
    created_at: Mapped[datetime]
