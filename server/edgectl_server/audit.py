"""The audit log: who did what, written in the transaction that does it.

Rules: an `Act` goes along with each request or command (`acting`); whatever it does in the
database, its row is written in the first transaction that commits, or that transaction is not
committed. What happens without a request is noted by `note`, in its own transaction too. Rows are
chained as `edgectl_protocol.audit` says, one writer after the other: the head's row is the lock,
and it is the last that a transaction takes, so that two never wait for one another.
Refusals are kept too, but not without end: what an attacker can repeat is counted, not repeated.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from edgectl_protocol.audit import AuditEntry, canonical, entry_hash
from edgectl_server.audit_spool import spooled_acts
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery, fetch_page, match, order
from edgectl_server.storage.tables import AuditEntryRow, AuditHeadRow

__all__ = [
    "Act",
    "AuditFilter",
    "AuditLog",
    "acting",
    "current_act",
    "describe",
    "entry_of",
    "note",
]

Outcome = Literal["done", "refused", "failed"]

DETAILS_BYTES_MAX = 4096
_TEXT_CHARACTERS_MAX = 512
_ITEMS_MAX = 64
_DEPTH_MAX = 4
_WHOLE_NUMBER_MAX = 2**53 - 1
REFUSALS_BURST = 60
"""Of one actor, or of all strangers together; after that, `REFUSALS_PER_S`."""
REFUSALS_PER_S = 0.1
_ACTORS_MAX = 1024
_PENDING = "audit"
_SORT = {"number": AuditEntryRow.number}


@dataclass(kw_only=True)
class Act:
    """Who is doing what, by one request or one command."""

    address: str = ""
    actor: str = ""
    """Empty until it is known who it is."""
    via: str = ""
    action: str = ""
    object: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    changes: bool = False
    """Whether it is meant to change anything; only then is it written when it is done."""
    asked: Callable[[], dict[str, Any]] = dict
    """What of the request may be kept."""
    recorded: bool = False


class AuditFilter(NamedTuple):
    """What is asked of rows; empty and None: nothing."""

    actor: str = ""
    action: str = ""
    object: str = ""
    """Part of it."""
    outcome: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class _Note:
    actor: str
    via: str
    address: str
    action: str
    object: str
    outcome: Outcome
    details: dict[str, Any]


_current: ContextVar[Act | None] = ContextVar("act", default=None)


@contextmanager
def acting(act: Act) -> Iterator[Act]:
    """Let everything inside, also in threads that it is handed to, be done by `act`."""
    token = _current.set(act)
    try:
        yield act
    finally:
        _current.reset(token)


def current_act() -> Act | None:
    """Return the act that is going on; None in what the server does by itself."""
    return _current.get()


def describe(  # noqa: D417 - details are whatever belongs to the action
    *,
    actor: str | None = None,
    via: str | None = None,
    object: str | None = None,  # noqa: A002 - the log's own word
    changes: bool = False,
    **details: Any,
) -> None:
    """Add to the act that is going on what only the one who does it knows.

    Args:
        actor: who it has turned out to be, such as after a login.
        via: by what they came in.
        object: what it is done to, such as the name of what has just been made.
        changes: it changes something, although its method does not say so.
    """
    act = _current.get()
    if act is None:
        return
    act.actor = act.actor if actor is None else actor
    act.via = act.via if via is None else via
    act.object = act.object if object is None else object
    act.changes = act.changes or changes
    act.details.update(details)


def note(
    session: Session,
    action: str,
    object: str,  # noqa: A002 - the log's own word
    details: dict[str, Any],
    *,
    actor: str = "server",
) -> None:
    """Have a row written when `session` is committed: for what the server does by itself."""
    _pending(session).append(
        _Note(
            actor=actor,
            via="server",
            address="",
            action=action,
            object=object,
            outcome="done",
            details=details,
        )
    )


class AuditLog:
    """Writes and reads the rows of one database. Its methods may be called from any thread."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        """Have every transaction of `database` write what belongs to it."""
        self._database = database
        self._now = now
        self._refusals = _Refusals()
        database.before_commit = self._before_commit

    def end(self, act: Act, outcome: Outcome, **details: Any) -> None:
        """Write how an act has ended, unless that is written already.

        A refusal or a failure is written even after a row that says "done": something was done
        before it.
        """
        if outcome == "done" and act.recorded:
            return
        missed = 0
        if outcome == "refused":
            allowed, missed = self._refusals.take(act.actor, time.monotonic())
            if not allowed:
                return
        if missed:
            details["more_before"] = missed
        act.recorded = True
        with self._database.write() as session:
            _pending(session).append(_note_of(act, outcome, details))

    def take_in(self, directory: Path) -> int:
        """Write what commands have left in `directory`; return how many rows."""
        taken = 0
        for path, act in spooled_acts(directory):
            with self._database.write() as session:
                _pending(session).append(
                    _Note(
                        actor="" if act is None else act.actor,
                        via="command",
                        address="",
                        action="unreadable" if act is None else act.action,
                        object="" if act is None else act.object,
                        outcome="failed" if act is None else "done",
                        details={"id": path.stem}
                        | ({} if act is None else {**act.details, "done_at": act.at}),
                    )
                )
            path.unlink(missing_ok=True)
            taken += 1
        return taken

    def head(self) -> tuple[int, str]:
        """Return number and hash of the newest row."""
        with self._database.read() as session:
            row = session.get_one(AuditHeadRow, 1)
            return row.number, row.hash

    def hash_of(self, number: int) -> str | None:
        """Return the hash that row `number` has now; None if there is no such row."""
        with self._database.read() as session:
            row = session.get(AuditEntryRow, number)
            return None if row is None else row.hash

    def page(
        self, paging: PageQuery, asked: AuditFilter | None = None
    ) -> tuple[Sequence[AuditEntryRow], int]:
        """Return a page of the rows that match, the newest first, and the number of all of them."""
        wanted = select(AuditEntryRow).order_by(
            *order(paging.sort, _SORT, default="-number", last=AuditEntryRow.number)
        )
        if paging.q:
            columns = (
                AuditEntryRow.actor,
                AuditEntryRow.action,
                AuditEntryRow.object,
                AuditEntryRow.outcome,
                AuditEntryRow.address,
            )
            wanted = wanted.where(match(paging.q, columns))
        wanted = wanted.where(*_conditions(asked or AuditFilter()))
        with self._database.read() as session:
            return fetch_page(session, wanted, paging)

    def rows(self, after: int, limit: int) -> Sequence[AuditEntryRow]:
        """Return the rows after number `after` in order, at most `limit`."""
        wanted = select(AuditEntryRow).where(AuditEntryRow.number > after)
        with self._database.read() as session:
            return session.scalars(wanted.order_by(AuditEntryRow.number).limit(limit)).all()

    def _before_commit(self, session: Session) -> Callable[[], None] | None:
        """Write what belongs to the transaction; return what to do once it is committed."""
        notes: list[_Note] = session.info.pop(_PENDING, [])
        act = _current.get()
        confirm = None
        if act is not None and act.changes and act.actor and not act.recorded:
            notes.insert(0, _note_of(act, "done", {}))

            def confirm() -> None:
                act.recorded = True

        if notes:
            self._append(session, notes)
        return confirm

    def _append(self, session: Session, notes: Sequence[_Note]) -> None:
        session.flush()  # its own locks first, the head's last
        head = session.scalars(
            select(AuditHeadRow).with_for_update().execution_options(populate_existing=True)
        ).one()
        at = _written(self._now())
        for one in notes:
            details = _clean_details(one.details)
            unsealed = AuditEntry(
                number=head.number + 1,
                at=at,
                actor=_clean(one.actor, 128),
                via=_clean(one.via, 64),
                address=_clean(one.address, 64),
                action=_clean(one.action, 64),
                object=_clean(one.object, 256),
                outcome=one.outcome,
                details=details,
                previous=head.hash,
                hash="",
            )
            entry = msgspec.structs.replace(unsealed, hash=entry_hash(unsealed))
            fields = msgspec.structs.asdict(entry)
            session.add(AuditEntryRow(**{**fields, "details": canonical(details).decode()}))
            head.number, head.hash = entry.number, entry.hash


class _Refusals:
    """A bucket for each actor, in memory; what does not fit is counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float, int]] = OrderedDict()

    def take(self, actor: str, elapsed_s: float) -> tuple[bool, int]:
        """Return whether to write it, and how many were not written before it."""
        with self._lock:
            left, at, missed = self._buckets.pop(actor, (float(REFUSALS_BURST), elapsed_s, 0))
            left = min(REFUSALS_BURST, left + (elapsed_s - at) * REFUSALS_PER_S)
            allowed = left >= 1
            self._buckets[actor] = (
                (left - 1, elapsed_s, 0) if allowed else (left, elapsed_s, missed + 1)
            )
            if len(self._buckets) > _ACTORS_MAX:
                self._buckets.popitem(last=False)
            return allowed, missed


def entry_of(row: AuditEntryRow) -> AuditEntry:
    """Return a row as it goes out, whatever somebody may have made of it in the database."""
    try:
        details = msgspec.json.decode(row.details, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        details = {"unreadable": row.details[:_TEXT_CHARACTERS_MAX]}
    fields = {name: getattr(row, name) for name in AuditEntry.__struct_fields__}
    return AuditEntry(**{**fields, "details": details})


def _written(moment: datetime) -> str:
    """Return a time as rows hold it: such texts sort as the times do."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _conditions(asked: AuditFilter) -> list[ColumnElement[bool]]:
    same = (
        (AuditEntryRow.actor, asked.actor),
        (AuditEntryRow.action, asked.action),
        (AuditEntryRow.outcome, asked.outcome),
    )
    found: list[ColumnElement[bool]] = [column == value for column, value in same if value]
    if asked.object:
        found.append(match(asked.object, (AuditEntryRow.object,)))
    if asked.since is not None:
        found.append(AuditEntryRow.at >= _written(asked.since))
    if asked.until is not None:
        found.append(AuditEntryRow.at < _written(asked.until))
    return found


def _pending(session: Session) -> list[_Note]:
    found: list[_Note] = session.info.setdefault(_PENDING, [])
    return found


def _note_of(act: Act, outcome: Outcome, details: dict[str, Any]) -> _Note:
    return _Note(
        actor=act.actor,
        via=act.via,
        address=act.address,
        action=act.action,
        object=act.object,
        outcome=outcome,
        details={**act.asked(), **act.details, **details},
    )


def _clean(text: str, characters_max: int) -> str:
    shown = "".join(one if one.isprintable() else "\ufffd" for one in text[:characters_max])
    return shown if len(text) <= characters_max else shown[:-1] + "…"


def _clean_details(details: dict[str, Any]) -> dict[str, Any]:
    cleaned: dict[str, Any] = _clean_value(details, _DEPTH_MAX)
    content = canonical(cleaned)
    if len(content) > DETAILS_BYTES_MAX:
        return {"bytes": len(content), "sha256": sha256(content).hexdigest(), "too_long": True}
    return cleaned


def _clean_value(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= _WHOLE_NUMBER_MAX:
        return value
    if depth and isinstance(value, dict):
        some = list(value.items())[:_ITEMS_MAX]
        return {_clean(str(key), 64): _clean_value(one, depth - 1) for key, one in some}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_clean_value(one, depth - 1) for one in list(value)[:_ITEMS_MAX]]
    return _clean(str(value), _TEXT_CHARACTERS_MAX)
