"""Retrainings, the policies of loops, their runs and what happened in them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from edgectl_server.storage.tables.base import Base, Document

__all__ = ["LoopEventRow", "LoopPolicyRow", "LoopRunRow", "RetrainingRow"]


class RetrainingRow(Base):
    """What a training has led to; how far it is says its job, which has the same id."""

    __tablename__ = "retraining"
    __table_args__ = (Index("ix_retraining_model", "model", "created_at"),)
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    model: Mapped[str] = mapped_column(String(64))
    parent: Mapped[str] = mapped_column(String(64))  # version
    dataset: Mapped[str] = mapped_column(String(71))  # id; it may have been deleted since
    trainer: Mapped[str] = mapped_column(String(64))
    request: Mapped[Document]
    metrics: Mapped[Document | None]  # of the trainer
    accuracies: Mapped[Document | None]  # training.spec.Examined
    verdicts: Mapped[list[Any] | None]  # domain.champions.GateVerdict
    candidate: Mapped[str | None] = mapped_column(String(71))  # the model file, once it has passed
    calibration: Mapped[str | None] = mapped_column(String(71))  # it is pushed with
    evaluation: Mapped[str | None] = mapped_column(String(71))
    version: Mapped[str | None] = mapped_column(String(64))  # that was pushed
    log: Mapped[str] = mapped_column(Text)  # the last that a trainer has written
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))
    tracking: Mapped[Document | None]  # what a tracking server was told, see `tracking`
    track_at: Mapped[datetime | None] = mapped_column(index=True)  # it is to be told (again)


class LoopPolicyRow(Base):
    """When a model learns anew by itself, and how far it may go alone."""

    __tablename__ = "loop_policy"
    model: Mapped[str] = mapped_column(String(64), primary_key=True)
    document: Mapped[Document]
    revision: Mapped[int]  # grows with each change
    paused: Mapped[bool] = mapped_column(default=False)
    due_at: Mapped[datetime | None] = mapped_column(index=True)
    changed_at: Mapped[datetime]
    changed_by: Mapped[str] = mapped_column(String(128))


class LoopRunRow(Base):
    """One time round the loop: from what set it off to promoted, rolled back or rejected."""

    __tablename__ = "loop_run"
    __table_args__ = (Index("ix_loop_run_model", "model", "began_at"),)
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    model: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))  # domain.learning_loop.LoopState
    since: Mapped[datetime]  # in this state
    trigger: Mapped[Document]  # what has set it off
    facts: Mapped[Document]  # ids of what was made on the way, and figures
    note: Mapped[str] = mapped_column(String(1024))
    approved: Mapped[str] = mapped_column(String(16))  # state that a person has let pass
    began_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class LoopEventRow(Base):
    """A step of a run."""

    __tablename__ = "loop_event"
    __table_args__ = (Index("ix_loop_event_model", "model", "id"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    run: Mapped[str | None] = mapped_column(ForeignKey("loop_run.id"))
    model: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[Document]
