"""The broker's state on disk: retained messages, persistent sessions, what is on its way to them.

One SQLite file, written by one thread. Changes gather while a commit runs and go into the next one
(group commit): nobody waits longer than two commits, and there is no timer. Guarantee: a callback
given to `when_durable` runs after every change made before it is committed with
``synchronous=FULL``; PUBACK and SUBACK are sent from such callbacks, so what a client was told is
there after a kill -9 or a power loss. Acknowledgements *from* clients are written without anybody
waiting: after a crash, some publications come a second time, which QoS 1 allows.

A change that is undone before it was written is never written: a delivery that is acknowledged
while the commit before it runs costs nothing. A message for many sessions is stored once. When a
commit fails (disk full), it is tried again until it works, and acknowledgements wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from edgectl_broker.errors import StateUnusable
from edgectl_broker.messages import Delivery, Message, SessionKey
from edgectl_broker.records import DeliveryRecord, SessionRecord, decode, encode

__all__ = ["StateStore"]

_logger = logging.getLogger(__name__)

_VERSION = 1
_RETRY_S = 1.0
_FREE_PAGES_KEPT = 64  # of 16 KiB
_FREE_PAGES_STEP = 1024
_SCHEMA = """
CREATE TABLE retained (key TEXT PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE session (key TEXT PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE message (key INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE delivery (key INTEGER PRIMARY KEY, content BLOB NOT NULL);
"""

Table = Literal["retained", "session", "message", "delivery"]
Record = SessionRecord | DeliveryRecord | Message
Change = tuple[Table, str | int]


class _Batch(NamedTuple):
    changes: dict[Change, Record | None]
    callbacks: list[Callable[[], None]]
    size: int


class StateStore:
    """State on disk. All methods are called from the event loop's thread."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "broker.sqlite3"
        self._condition = threading.Condition()
        self._changes: dict[Change, Record | None] = {}
        self._callbacks: list[Callable[[], None]] = []
        self._outstanding = 0
        self._unseen: set[Change] = set()
        self._changes_size = 0
        self._writing_size = 0
        self._writing = False
        self._closing = False
        self._uses: Counter[int] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connection = self._open(folder)
        self.last_number = 0

    def _open(self, folder: Path) -> sqlite3.Connection:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, timeout=1
            )
        except (OSError, sqlite3.Error) as error:
            raise StateUnusable(
                f"the broker's state {self._path} cannot be opened; check that it may be written"
            ) from error
        try:
            self._prepare(connection)
        except sqlite3.Error as error:
            connection.close()
            raise StateUnusable(
                f"the broker's state {self._path} cannot be used; stop any other broker on it, or "
                "move it away: the server publishes again what devices need"
            ) from error
        except StateUnusable:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA page_size=16384")
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # a second broker must not share it
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN EXCLUSIVE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in {0, _VERSION}:
            raise StateUnusable(
                f"{self._path} is of version {version}, this broker writes {_VERSION}; "
                "start the release that wrote it, or move the file away"
            )
        if version == 0:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={_VERSION}")
        connection.execute("COMMIT")

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start writing; callbacks run on `loop`. Everything was loaded before."""
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name="broker-state", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is pending and close the file."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()
        self._connection.close()

    @property
    def backlog_bytes(self) -> int:
        """Bytes that wait for the disk."""
        return self._changes_size + self._writing_size

    # --- loading ---------------------------------------------------------------------------------

    def load_retained(self) -> Iterator[Message]:
        """Yield the retained messages."""
        for _, message in self._rows("retained", Message):
            assert isinstance(message, Message)
            self.last_number = max(self.last_number, message.number)
            yield message

    def load_sessions(self) -> Iterator[SessionRecord]:
        """Yield the persistent sessions."""
        for _, record in self._rows("session", SessionRecord):
            assert isinstance(record, SessionRecord)
            yield record

    def load_deliveries(self) -> Iterator[tuple[SessionKey, Delivery]]:
        """Yield what is on its way, in order; messages that nobody waits for are forgotten."""
        messages: dict[int, Message] = {}
        for number, message in self._rows("message", Message):
            assert isinstance(message, Message)
            messages[int(number)] = message
        self.last_number = max([self.last_number, *messages])
        for sequence, record in self._rows("delivery", DeliveryRecord):
            assert isinstance(record, DeliveryRecord)
            self.last_number = max(self.last_number, int(sequence))
            if record.message is None:
                yield record.key, record.restored(int(sequence), None)
            elif record.message in messages:
                self._uses[record.message] += 1
                yield record.key, record.restored(int(sequence), messages[record.message])
        for number in messages.keys() - self._uses.keys():
            self._change(("message", number), None, 0)

    def _rows(
        self, table: Table, kind: type[msgspec.Struct]
    ) -> Iterator[tuple[str | int, msgspec.Struct]]:
        try:
            query = f"SELECT key, content FROM {table} ORDER BY key"  # noqa: S608 - our own constant
            for key, content in self._connection.execute(query):
                yield key, decode(content, kind)
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            raise StateUnusable(
                f"the table {table} of {self._path} is damaged; move the file away: the server "
                "publishes again what devices need"
            ) from error

    # --- changes ---------------------------------------------------------------------------------

    def put_retained(self, message: Message) -> None:
        """Store a retained message."""
        self._change(("retained", message.topic), message, message.size)

    def drop_retained(self, topic: str) -> None:
        """Forget a retained message."""
        self._change(("retained", topic), None, 0)

    def put_session(self, record: SessionRecord) -> None:
        """Store a session."""
        size = 200 + sum(200 + len(pattern) for pattern in record.subscriptions)
        self._change(("session", "\0".join(record.key)), record, size)

    def drop_session(self, key: SessionKey) -> None:
        """Forget a session; its deliveries are dropped one by one."""
        self._change(("session", "\0".join(key)), None, 0)

    def put_delivery(self, key: SessionKey, delivery: Delivery) -> None:
        """Store a delivery, or that it now has its packet identifier."""
        record = DeliveryRecord.of(key, delivery)
        first = not delivery.stored
        if first:
            delivery.stored = True
            if record.message is not None:
                assert delivery.message is not None
                self._uses[record.message] += 1
                if self._uses[record.message] == 1:
                    size = delivery.message.size
                    self._change(("message", record.message), delivery.message, size, first=True)
        self._change(("delivery", delivery.sequence), record, 100, first=first)

    def drop_delivery(self, delivery: Delivery) -> None:
        """Forget a delivery, and its message with the last one of it."""
        if not delivery.stored:
            return
        delivery.stored = False
        self._undo(("delivery", delivery.sequence))
        if delivery.from_retained or delivery.message is None:
            return
        number = delivery.message.number
        self._uses[number] -= 1
        if self._uses[number] <= 0:
            del self._uses[number]
            self._undo(("message", number))

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Call `callback` when every change made so far is on disk; now, if it is already."""
        with self._condition:
            # Also while earlier callbacks are on their way to the loop: none may overtake them.
            if self._changes or self._writing or self._outstanding:
                self._callbacks.append(callback)
                self._outstanding += 1
                self._condition.notify()
                return
        callback()

    def _undo(self, change: Change) -> None:
        """Delete a row; when no commit has seen it yet, it just vanishes."""
        with self._condition:
            if change in self._unseen:
                self._unseen.discard(change)
                del self._changes[change]
                return
        self._change(change, None, 0)

    def _change(
        self, change: Change, record: Record | None, size: int, *, first: bool = False
    ) -> None:
        with self._condition:
            if first and change not in self._changes:
                self._unseen.add(change)
            self._changes[change] = record
            self._changes_size += size + 50
            self._condition.notify()

    # --- the writer's thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            while not self._commit(batch.changes):
                with self._condition:
                    self._condition.wait(_RETRY_S)
                    if self._closing:
                        return
            self._finish(batch)
            self._give_back()

    def _next_batch(self) -> _Batch | None:
        with self._condition:
            self._writing = False
            while not self._changes and not self._callbacks:
                if self._closing:
                    return None
                self._condition.wait()
            batch = _Batch(self._changes, self._callbacks, self._changes_size)
            self._changes, self._callbacks, self._changes_size = {}, [], 0
            self._unseen.clear()
            self._writing, self._writing_size = True, batch.size
            return batch

    def _commit(self, changes: dict[Change, Record | None]) -> bool:
        connection = self._connection
        if not changes:
            return True
        try:
            connection.execute("BEGIN IMMEDIATE")
            for (table, key), record in changes.items():
                if record is None:
                    connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,))  # noqa: S608
                else:
                    statement = f"INSERT OR REPLACE INTO {table} VALUES (?, ?)"  # noqa: S608
                    connection.execute(statement, (key, encode(record)))
            connection.execute("COMMIT")
        except sqlite3.Error:
            _logger.exception("the broker's state cannot be written, acknowledgements wait")
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            return False
        return True

    def _give_back(self) -> None:
        """Give pages that are free back to the file system, some at a time."""
        with contextlib.suppress(sqlite3.Error):  # next time
            (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
            if free > _FREE_PAGES_KEPT:
                # as a script, because `execute` stops after the first page
                self._connection.executescript(f"PRAGMA incremental_vacuum({_FREE_PAGES_STEP})")

    def _finish(self, batch: _Batch) -> None:
        assert self._loop is not None
        self._writing_size = 0
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._call_all, batch.callbacks)

    def _call_all(self, callbacks: list[Callable[[], None]]) -> None:
        self._outstanding -= len(callbacks)
        for callback in callbacks:
            callback()
