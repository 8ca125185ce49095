"""What rows of alerts have in common: their names, their events, how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_server.domain.alerts import Selector
from edgectl_server.schemas import RaisedAlert
from edgectl_server.storage.tables import AlertEventRow, AlertRow, AlertSilence

__all__ = [
    "SERVER",
    "Silences",
    "held_name",
    "read_silences",
    "shown",
    "silenced_until",
    "write_event",
]

SERVER = "server"
"""Who has done it, when nobody has."""
Silences = Sequence[tuple[Selector, datetime]]
"""Which alerts are not told, and until when."""


def held_name(kind: str, subject: str) -> str:
    """Return what a database keeps unique: the name of a condition in a fixed length."""
    return sha256(f"{kind}\0{subject}".encode()).hexdigest()


def write_event(
    session: Session, row: AlertRow, kind: str, *, at: datetime, actor: str = SERVER, **data: Any
) -> None:
    """Note what has happened to an alert, in the transaction in which it does.

    Args:
        session: that writes.
        row: the alert, locked.
        kind: one of `schemas.AlertEvent.kind`.
        at: when.
        actor: who has done it.
        data: more about it.
    """
    row.revision += 1
    session.add(
        AlertEventRow(alert=row.id, revision=row.revision, at=at, actor=actor, kind=kind, data=data)
    )


def read_silences(session: Session, now: datetime) -> Silences:
    """Return the silences in force."""
    rows = session.scalars(select(AlertSilence).where(AlertSilence.until > now))
    return [
        (
            Selector(
                kinds=(row.kind,) if row.kind else (),
                model=row.model,
                site=row.site,
                subject=row.subject,
            ),
            row.until,
        )
        for row in rows
    ]


def silenced_until(row: AlertRow, silences: Silences) -> datetime | None:
    """Return until when nobody is told of an alert; None: it is told."""
    ends = (
        until
        for selector, until in silences
        if selector.fits(
            kind=row.kind,
            severity=row.severity,
            model=row.model,
            site=row.site,
            subject=row.subject,
        )
    )
    return max(ends, default=None)


def shown(row: AlertRow, silences: Silences) -> RaisedAlert:
    """Return an alert as it is shown."""
    return RaisedAlert.model_validate(
        {
            "id": row.id,
            "kind": row.kind,
            "subject": row.subject,
            "severity": row.severity,
            "state": row.state,
            "summary": row.summary,
            "hint": row.hint,
            "model": row.model,
            "site": row.site,
            "device": row.device,
            "owner": row.owner,
            "silenced_until": silenced_until(row, silences),
            "opened_at": row.opened_at,
            "seen_at": row.seen_at,
            "absent_since": row.absent_since if row.state != "resolved" else None,
            "acknowledged_at": row.acknowledged_at,
            "acknowledged_by": row.acknowledged_by,
            "resolved_at": row.resolved_at,
            "resolved_by": row.resolved_by,
            "revision": row.revision,
        }
    )
