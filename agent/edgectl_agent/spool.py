"""What the device has to say and the server has not yet acknowledged, on disk.

A queue in one SQLite file, keyed (boot, seq). SQLite rather than files of our own, because its
journal is what survives a kill or a power loss in the middle of a write, and acknowledgements may
come in any order.

* An event of either kind is on the disk before `put` returns. Telemetry is written in the same
  order without waiting for the disk: it survives a kill of the agent, a power loss may cost the
  last of it.
* Within the byte budget, the oldest telemetry goes first, then the oldest outcomes of requests and
  security events, of which there are never more than `OUTCOMES_MAX` and `SECURITY_MAX`, then offers
  of uploads, which are made again, then measurements, and only then the oldest events of updates.
* What waits is not signed yet: it is when it is sent.
* What an agent of another version has left, of a kind that this one does not know, is dropped when
  it is opened: nobody here could send it, and it would stand before all else.
* A damaged file is thrown away with a warning: the device must go on without its past.
* Where the disk is read-only or full to the last byte when it is opened, it is kept in memory: what
  is told then arrives unless the agent ends before. What waits in the file waits for another start.
* What is acknowledged on a full disk may have no room to be removed: it is not sent again, and is
  removed with what is put or acknowledged later.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Literal, get_args

from msgspec import Struct

from edgectl_agent.errors import AgentError
from edgectl_protocol.messages import (
    REPORT_BYTES_MAX,
    BenchmarkReport,
    DeviceEvent,
    SecurityEvent,
    TelemetryBatch,
    encode,
)
from edgectl_protocol.outcomes import OutcomeReport
from edgectl_protocol.uploads import UploadOffer

__all__ = ["Kind", "Spool", "SpoolFull", "Spooled"]

log = logging.getLogger(__name__)

Kind = Literal["event", "benchmark", "upload", "security", "outcome", "telemetry"]
Message = (
    DeviceEvent | SecurityEvent | BenchmarkReport | UploadOffer | OutcomeReport | TelemetryBatch
)

SECURITY_MAX = 256
"""Security events that wait; the oldest gives way."""

OUTCOMES_MAX = 1024
"""Outcomes of requests that wait; the oldest gives way."""
_KINDS: tuple[Kind, ...] = get_args(Kind)
_ROW_BYTES = 64
"""What a row costs beside its payload; part of the budget."""
_COUNTS_MAX: dict[Kind, int] = {"security": SECURITY_MAX, "outcome": OUTCOMES_MAX}
_PAGE_BYTES = 4096
_GROWTH_PAGES = 8
"""More than an insert of a small message adds; a larger one may fail, and is not kept then."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    boot INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (boot, seq)
);
CREATE INDEX IF NOT EXISTS message_by_kind ON message (kind, position);
CREATE TABLE IF NOT EXISTS counter (boot INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
"""


class SpoolFull(AgentError):
    """The message cannot be kept: larger than the budget, or the disk is full."""


class Spooled(Struct, frozen=True, kw_only=True):
    """One message that waits for its acknowledgement."""

    kind: Kind
    boot: int
    seq: int
    payload: bytes


class Spool:
    """A durable queue within a byte budget; safe to use from several threads.

    Attributes:
        dropped: messages that the budget has cost since the spool was opened.
    """

    def __init__(self, directory: Path, *, bytes_max: int, boot: int) -> None:
        """Open the spool in `directory`, which is made if need be.

        Args:
            directory: holds nothing else.
            bytes_max: budget of what waits, in bytes of payload and overhead.
            boot: number of this start of the agent; grows with each.

        Raises:
            OSError: the directory cannot be used.
        """
        self._path = directory / "spool.db"
        self._bytes_max = bytes_max
        self._boot = boot
        self._lock = threading.Lock()
        self.dropped = 0
        self._in_memory = False
        self._gone: set[tuple[int, int]] = set()
        """Need not be kept, and could not be removed yet."""
        self._database = self._open()
        (used,) = self._database.execute(
            "SELECT coalesce(sum(length(payload) + ?), 0) FROM message", (_ROW_BYTES,)
        ).fetchone()
        self._bytes: int = used
        self._drop_unknown()
        # Also of messages: a start counter that was damaged may come by a number once more.
        (last,) = self._database.execute(
            "SELECT max(seq) FROM (SELECT seq FROM counter WHERE boot = ?1 "
            "UNION ALL SELECT seq FROM message WHERE boot = ?1)",
            (boot,),
        ).fetchone()
        self._seq: int = last or 0

    def _open(self) -> sqlite3.Connection:
        """Open the file, another one in place of a damaged one, or one in memory."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                return _open(self._path)
            except sqlite3.DatabaseError as error:
                if _cannot_write(error):
                    raise
                log.warning("the spool is damaged and thrown away: %s", error)
                for suffix in ("", "-wal", "-shm"):
                    self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            return _open(self._path)
        except (OSError, sqlite3.DatabaseError) as error:
            if not _cannot_write(error):
                raise
            log.warning("what is told is kept in memory until the agent ends: %s", error)
            self._in_memory = True
            return _open(None)

    def put(self, kind: Kind, make: Callable[[int], Message]) -> int:
        """Keep the message that `make` makes of its number, and return the number.

        Args:
            kind: decides what is dropped first and how hard it is written.
            make: gets the next `seq`; called once, under the spool's lock.

        Raises:
            SpoolFull: ``spool.full``; nothing was kept and the number is not used.
        """
        with self._lock:
            seq = self._seq + 1
            payload = encode(make(seq))
            size = len(payload) + _ROW_BYTES
            if size > self._bytes_max or len(payload) > REPORT_BYTES_MAX:
                raise SpoolFull("spool.full", f"a message of {size} bytes does not fit the spool")
            self._remove(())
            try:
                most = _COUNTS_MAX.get(kind)
                if most is not None and self._count(kind) >= most:
                    self._drop_oldest(kind)
                self._make_room(size)
                self._insert(kind, seq, payload)
            except sqlite3.OperationalError as error:
                self._insert_on_full_disk(kind, seq, payload, error)
            self._seq = seq
            self._bytes += size
            return seq

    def pending(self, limit: int = 32, *, without: Collection[Kind] = ()) -> list[Spooled]:
        """Return the oldest messages that wait, at most `limit` of them, none of some kinds."""
        kinds = [kind for kind in _KINDS if kind not in without]
        with self._lock:
            rows = self._database.execute(
                "SELECT kind, boot, seq, payload FROM message "  # noqa: S608 - question marks
                f"WHERE kind IN ({_places(kinds)}) ORDER BY position LIMIT ?",
                (*kinds, limit + len(self._gone)),
            ).fetchall()
            waiting = [
                Spooled(kind=kind, boot=boot, seq=seq, payload=payload)
                for kind, boot, seq, payload in rows
                if (boot, seq) not in self._gone
            ]
        return waiting[:limit]

    def oldest(self) -> tuple[int, int] | None:
        """Return boot and number of the oldest message that waits; None where none does."""
        return next(((one.boot, one.seq) for one in self.pending(1)), None)

    def acknowledge(self, boot: int, seq: int) -> None:
        """Forget a message; nothing happens when it is not there."""
        with self._lock:
            self._remove([(boot, seq)])

    def forget(self, kind: Kind) -> None:
        """Forget all messages of a kind: they are said anew."""
        with self._lock:
            self._remove(
                self._database.execute(
                    "SELECT boot, seq FROM message WHERE kind = ?", (kind,)
                ).fetchall()
            )

    def close(self) -> None:
        """Close the file; the spool cannot be used afterwards."""
        with self._lock:
            self._database.close()

    def _insert(self, kind: Kind, seq: int, payload: bytes) -> None:
        self._reserve()
        # In WAL mode FULL waits for the disk at each commit, NORMAL only at checkpoints.
        self._database.execute(
            f"PRAGMA synchronous = {'NORMAL' if kind == 'telemetry' else 'FULL'}"
        )
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute(
                "INSERT INTO message (boot, seq, kind, payload) VALUES (?, ?, ?, ?)",
                (self._boot, seq, kind, payload),
            )
            self._database.execute("DELETE FROM counter WHERE boot <> ?", (self._boot,))
            self._database.execute(
                "INSERT INTO counter (boot, seq) VALUES (?1, ?2) "
                "ON CONFLICT (boot) DO UPDATE SET seq = ?2",
                (self._boot, seq),
            )

    def _reserve(self) -> None:
        """Have the disk promise the pages that the next insert may add.

        A page that was committed to the journal and then has no place in the file could never
        leave the journal again: nothing more would be kept, however much is dropped.
        """
        if self._in_memory:
            return
        (pages,) = self._database.execute("PRAGMA page_count").fetchone()
        wanted = (pages + max(0, _GROWTH_PAGES - self._free_pages())) * _PAGE_BYTES
        try:
            with self._path.open("r+b") as file:
                if file.seek(0, os.SEEK_END) < wanted:
                    os.posix_fallocate(file.fileno(), 0, wanted)
        except OSError as error:
            raise sqlite3.OperationalError(str(error)) from error

    def _free_pages(self) -> int:
        count: int = self._database.execute("PRAGMA freelist_count").fetchone()[0]
        return count

    def _make_room(self, size: int) -> None:
        while self._bytes + size > self._bytes_max and (
            self._drop_oldest("telemetry")
            or self._drop_oldest("outcome")
            or self._drop_oldest("security")
            or self._drop_oldest("upload")
            or self._drop_oldest("benchmark")
            or self._drop_oldest("event")
        ):
            pass

    def _insert_on_full_disk(
        self, kind: Kind, seq: int, payload: bytes, error: sqlite3.OperationalError
    ) -> None:
        """Keep an event in the room of old telemetry, which is worth less; else `SpoolFull`.

        Telemetry gives up at once: that leaves the room in the journal's file to events.
        """
        refused = SpoolFull("spool.full", f"cannot write the spool: {error}")
        if kind == "telemetry":
            raise refused from error
        try:
            # Begins the journal anew in the room that its file already has.
            self._database.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
            while self._free_pages() < _GROWTH_PAGES and self._drop_oldest("telemetry"):
                pass
            self._insert(kind, seq, payload)
        except sqlite3.OperationalError:
            raise refused from error

    def _count(self, kind: Kind) -> int:
        count: int = self._database.execute(
            "SELECT count(*) FROM message WHERE kind = ?", (kind,)
        ).fetchone()[0]
        return count

    def _drop_oldest(self, kind: Kind) -> bool:
        dropped = self._delete(
            "DELETE FROM message WHERE position = "
            "(SELECT min(position) FROM message WHERE kind = ?) RETURNING length(payload)",
            (kind,),
        )
        self.dropped += dropped
        return dropped > 0

    def _drop_unknown(self) -> None:
        keys = self._database.execute(
            f"SELECT boot, seq FROM message WHERE kind NOT IN ({_places(_KINDS)})",  # noqa: S608
            _KINDS,
        ).fetchall()
        if keys:
            log.warning("%d messages of another version of the agent are dropped", len(keys))
            self._remove(keys)
            self.dropped += len(keys)

    def _remove(self, keys: Iterable[tuple[int, int]]) -> None:
        """Remove messages, and those that could not be removed before, as far as the disk lets."""
        # Not waited for: after a power loss the message is sent again and known as a repeat.
        self._database.execute("PRAGMA synchronous = NORMAL")
        for key in [*keys, *self._gone]:
            try:
                self._delete(
                    "DELETE FROM message WHERE boot = ? AND seq = ? RETURNING length(payload)", key
                )
            except sqlite3.OperationalError as error:
                if key in self._gone:
                    return
                if not self._gone:
                    log.warning("what is acknowledged cannot be removed yet: %s", error)
                self._gone.add(key)
            else:
                self._gone.discard(key)

    def _delete(self, statement: str, arguments: tuple[object, ...]) -> int:
        """Delete messages and return how many there were."""
        lengths = self._database.execute(statement, arguments).fetchall()
        self._bytes -= sum(length + _ROW_BYTES for (length,) in lengths)
        return len(lengths)


def _places(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))


def _cannot_write(error: Exception) -> bool:
    """Say whether it is the disk that is read-only or full, and not the file that is damaged."""
    if isinstance(error, OSError):
        return error.errno in {errno.EROFS, errno.ENOSPC, errno.EDQUOT}
    code = getattr(error, "sqlite_errorcode", 0)
    if code in {sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMSIZE}:
        return True  # there is no room for the file that its readers share
    return code & 0xFF in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN}


def _open(path: Path | None) -> sqlite3.Connection:
    """Open the file, whole and of our schema, or raise `sqlite3.DatabaseError`.

    None is for one in memory.
    """
    database = sqlite3.connect(
        path or ":memory:", check_same_thread=False, isolation_level=None, timeout=5
    )
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA wal_autocheckpoint = 64")
        database.execute("PRAGMA journal_size_limit = 524288")
        _check(database)
        database.executescript(_SCHEMA)
    except BaseException:
        database.close()
        raise
    if path is not None:
        path.chmod(0o600)
    return database


def _check(database: sqlite3.Connection) -> None:
    (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(found)
