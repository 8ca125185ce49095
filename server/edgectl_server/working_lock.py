"""One server works for an installation at a time; another one stands by to take its place.

Rules:

1. Who works holds two locks: of the data folder, and on PostgreSQL one of the database too. Both go
   with the process, however it ends. That of the database also goes with a machine that vanishes,
   when PostgreSQL has heard nothing of its connection for `VANISHED_S`.
2. Who loses the connection that holds the database's lock takes it again. When another server has
   it by then, this one has been replaced, and ends. For the seconds until it knows, two may act:
   they do the same from the same rows, each in transactions.
3. A server that stands still keeps both locks: the manager of services ends it, by its watchdog.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import sqlalchemy
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from edgectl_server.storage.database import not_answering

__all__ = ["LOCK_FILE", "VANISHED_S", "WorkingLock"]

LOCK_FILE = "lock"
_KEEPALIVE_S = 5
_KEEPALIVES = 3
VANISHED_S = _KEEPALIVE_S * (_KEEPALIVES + 1)
_WATCH_S = 2.0
_DATABASE_LOCK = 0x65646765_6374776B  # any number that all servers on one PostgreSQL agree on
_HOLDER = text(
    "SELECT activity.application_name FROM pg_locks AS held"
    " JOIN pg_stat_activity AS activity ON activity.pid = held.pid"
    " WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 1"
    " AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND (held.classid::bigint << 32) + held.objid::bigint = :lock"
)

logger = logging.getLogger(__name__)


class WorkingLock:
    """What one server of an installation holds. Used by one thread, but for its own watch."""

    def __init__(self, data: Path, database_url: str) -> None:
        """Prepare.

        Args:
            data: the folder, which exists.
            database_url: of PostgreSQL, ``postgresql+psycopg://…``; with another, or an empty one,
                the folder's lock is the only one.
        """
        self._data = data
        self._folder: int | None = None
        is_shared = database_url.startswith("postgresql")
        self._database = _DatabaseLock(database_url) if is_shared else None
        self._closing = threading.Event()
        self._watch: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of both. Idempotent."""
        self._closing.set()
        if self._watch is not None:
            self._watch.join()
        if self._database is not None:
            self._database.close()
        folder, self._folder = self._folder, None
        if folder is not None:
            os.close(folder)  # the lock goes with it

    def take(self) -> str | None:
        """Try to take what is not held yet.

        Returns:
            None when this server is the one that works; who else is it, for people, when not.

        Raises:
            Unavailable: ``database.unavailable``.
        """
        return self._take_folder() or self._take_database()

    def watch(self, replaced: Callable[[], None]) -> None:
        """Hold on to the database's lock from now on.

        Args:
            replaced: called once, from another thread, when another server has it.
        """
        if self._database is None:
            return
        self._watch = threading.Thread(
            target=self._look, args=(self._database, replaced), name="working-lock", daemon=True
        )
        self._watch.start()

    def _take_folder(self) -> str | None:
        if self._folder is not None:
            return None
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._data / LOCK_FILE, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            return f"a server (process {other or 'unknown'}) works in {self._data} already"
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._folder = descriptor
        return None

    def _take_database(self) -> str | None:
        if self._database is None:
            return None
        try:
            holder = self._database.take()
        except DBAPIError as error:
            raise not_answering() from error
        return None if holder is None else f"{holder} works on this database already"

    def _look(self, database: _DatabaseLock, replaced: Callable[[], None]) -> None:
        was_there = True
        while not self._closing.wait(_WATCH_S):
            try:
                holder = database.take()
            except DBAPIError:
                if was_there:
                    logger.warning("the connection that holds the database's lock is lost")
                was_there = False
                continue
            if holder is not None:
                logger.error("%s has taken the place of this server", holder)
                replaced()
                return
            if not was_there:
                logger.info("the database's lock is held again")
            was_there = True


class _DatabaseLock:
    """An advisory lock of PostgreSQL, and the connection that it lasts as long as."""

    def __init__(self, url: str) -> None:
        watched = f"-c tcp_keepalives_idle={_KEEPALIVE_S} -c tcp_keepalives_interval={_KEEPALIVE_S}"
        self._engine = sqlalchemy.create_engine(
            url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={
                "application_name": f"a server on {socket.gethostname()[:32]} ({os.getpid()})",
                "connect_timeout": 10,
                "keepalives_idle": _KEEPALIVE_S,
                "keepalives_interval": _KEEPALIVE_S,
                "keepalives_count": _KEEPALIVES,
                "tcp_user_timeout": VANISHED_S * 1000,
                "options": f"{watched} -c tcp_keepalives_count={_KEEPALIVES}",
            },
        )
        self._connection: Connection | None = None

    def take(self) -> str | None:
        """Take the lock, or see that it is still held; return None, or who else has it.

        Raises:
            DBAPIError: the database does not answer, or a connection has ended; the next call
                connects again.
        """
        try:
            if self._connection is not None:
                self._connection.execute(text("SELECT 1"))
                return None
            return self._connect()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of it. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(DBAPIError):
                connection.close()

    def _connect(self) -> str | None:
        self._connection = self._engine.connect()
        lock = {"lock": _DATABASE_LOCK}
        if self._connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), lock):
            return None
        holder = self._connection.scalar(_HOLDER, lock)
        self.close()
        return str(holder or "another server")
