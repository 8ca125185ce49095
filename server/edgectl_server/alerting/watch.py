"""The tick of alerts: asks the sources, and writes what has begun, changed and ended.

Rules: servers on one database look one after the other, by the lock of `AlertTurn`; whoever comes
second finds what the first has written and adds nothing. A row and its event are one transaction.
A source that fails keeps all of its alerts as they are.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from edgectl_server.alerting.rows import SERVER, held_name, write_event
from edgectl_server.alerting.sources import Source
from edgectl_server.domain.alerts import (
    OVERFLOW,
    Condition,
    Kept,
    Selector,
    bounded,
    next_step,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import AlertRow, AlertSilence, AlertTurn

__all__ = ["AlertWatch", "take_turn"]

logger = logging.getLogger(__name__)

_SEEN_EVERY = timedelta(minutes=1)
"""More exactly it is not written down: it would be a write of every alert at every look."""
_TEXT_CHARACTERS_MAX = 1024
_SUBJECT_CHARACTERS_MAX = 256


def take_turn(session: Session) -> None:
    """Wait until no other server looks at the alerts, for the rest of the transaction."""
    session.scalars(select(AlertTurn).where(AlertTurn.id == 1).with_for_update()).one()


class AlertWatch:
    """Looks. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        sources: Sequence[Source],
        retention_days: int,
        now: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._sources = sources
        self._retention = timedelta(days=retention_days)
        self._now = now

    def look(self) -> int:
        """Bring the alerts up to date; return how many have begun or ended."""
        now = self._now()
        conditions, failed = self._ask(now)
        with self._database.write() as session:
            take_turn(session)
            rows = session.scalars(
                select(AlertRow).where(AlertRow.held.is_not(None)).with_for_update()
            ).all()
            kept = {(row.kind, row.subject): row for row in rows}
            there = {one.name: one for one in bounded(conditions, kept)}
            new = [_new_row(one, now) for name, one in there.items() if name not in kept]
            session.add_all(new)
            session.flush()
            for row in new:
                write_event(
                    session, row, "opened", at=now, severity=row.severity, summary=row.summary
                )
            changed = len(new)
            for name, row in kept.items():
                if name in there:
                    changed += _take(session, row, there[name], now)
                elif not _belongs(row, failed, self._sources):
                    changed += _miss(session, row, now)
        return changed

    def delete_old(self) -> None:
        """Forget alerts that have ended long ago, and silences."""
        before = self._now() - self._retention
        with self._database.write() as session:
            old = (AlertRow.resolved_at < before) & AlertRow.held.is_(None)
            session.execute(delete(AlertRow).where(old))
            session.execute(delete(AlertSilence).where(AlertSilence.until < before))

    def _ask(self, now: datetime) -> tuple[list[Condition], list[Source]]:
        """Return what holds, and the sources that could not say."""
        conditions: list[Condition] = []
        failed: list[Source] = []
        for source in self._sources:
            try:
                with self._database.read() as session:
                    conditions += [_fitting(one) for one in source.read(session, now)]
            except Exception:  # the others must be heard all the same
                logger.exception("%s cannot be asked for alerts", source.name)
                failed.append(source)
        return conditions, failed


def _belongs(row: AlertRow, failed: Iterable[Source], sources: Sequence[Source]) -> bool:
    """Say whether an alert may be one of a source that has failed."""
    if row.kind == OVERFLOW:
        return bool(list(failed))
    for source in failed:
        of = source.kinds or tuple(kind for other in sources for kind in other.kinds)
        fits = Selector(kinds=of).fits(kind=row.kind, severity=row.severity)
        if fits == bool(source.kinds):
            return True
    return False


def _take(session: Session, row: AlertRow, condition: Condition, now: datetime) -> int:
    """Write that a condition holds still; return 1 if its alert opens again with it."""
    step = next_step(_kept(row), condition, now)
    row.absent_since = None
    if now - row.seen_at >= _SEEN_EVERY:
        row.seen_at = now
    row.summary, row.hint = condition.summary, condition.hint
    row.model, row.site, row.device = condition.model, condition.site, condition.device
    row.clear_after_s = int(condition.clear_after.total_seconds())
    if step != "escalate":
        return 0
    before, row.severity = row.severity, condition.severity
    row.state, row.resolved_at, row.resolved_by = "open", None, ""
    row.acknowledged_at, row.acknowledged_by = None, ""
    severity = {"from": before, "to": row.severity}
    write_event(session, row, "escalated", at=now, severity=severity, summary=row.summary)
    return 1


def _miss(session: Session, row: AlertRow, now: datetime) -> int:
    """Write that a condition is away; return 1 if its alert ends with it."""
    step = next_step(_kept(row), None, now)
    if step == "leave":
        row.absent_since = now
    elif step == "release":
        row.held = None
    elif step == "resolve":
        row.held, row.state = None, "resolved"
        row.resolved_at, row.resolved_by = now, SERVER
        write_event(session, row, "resolved", at=now)
        return 1
    return 0


def _kept(row: AlertRow) -> Kept:
    clear_after = timedelta(seconds=row.clear_after_s)
    return Kept(row.state, row.severity, row.absent_since, clear_after)  # type: ignore[arg-type]  # they were written from those


def _new_row(condition: Condition, now: datetime) -> AlertRow:
    return AlertRow(
        id=secrets.token_hex(8),
        held=held_name(condition.kind, condition.subject),
        kind=condition.kind,
        subject=condition.subject,
        severity=condition.severity,
        state="open",
        summary=condition.summary,
        hint=condition.hint,
        model=condition.model,
        site=condition.site,
        device=condition.device,
        clear_after_s=int(condition.clear_after.total_seconds()),
        owner="",
        opened_at=now,
        seen_at=now,
        absent_since=None,
        acknowledged_at=None,
        acknowledged_by="",
        resolved_at=None,
        resolved_by="",
        revision=0,
    )


def _fitting(condition: Condition) -> Condition:
    """Return a condition whose texts have a place in the table, whoever has written them."""
    return replace(
        condition,
        subject=condition.subject[:_SUBJECT_CHARACTERS_MAX],
        summary=condition.summary[:_TEXT_CHARACTERS_MAX],
        hint=condition.hint[:_TEXT_CHARACTERS_MAX],
    )
