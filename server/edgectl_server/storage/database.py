"""The database: SQLite or PostgreSQL behind two doors, `read` and `write`.

Rules: everything happens inside one of the two. `write` takes SQLite's write lock when it begins
(``BEGIN IMMEDIATE``): a transaction that reads first and locks later fails with "database is
locked" under load, however long it is told to wait. On PostgreSQL, whoever reads a row in order to
change it says ``with_for_update()``; SQLite ignores that. Objects stay readable after the end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from edgectl_server.errors import Unavailable

__all__ = ["Database", "not_answering"]

_BUSY_MS = 15_000
_MIGRATION_LOCK = 0x6564676563746C  # any number that all servers on one PostgreSQL agree on
_MIGRATIONS = Path(__file__).with_name("migrations")
_WRITES = "edgectl_writes"


class Database:
    """One database; safe to use from many threads."""

    def __init__(self, url: str) -> None:
        """Prepare to connect to `url` (``sqlite:///…`` or ``postgresql+psycopg://…``)."""
        address = sqlalchemy.make_url(url)
        self.dialect = address.get_backend_name()
        if self.dialect == "sqlite":
            self._engine = _sqlite(address)
        elif self.dialect == "postgresql":
            self._engine = sqlalchemy.create_engine(
                address,
                pool_pre_ping=True,
                pool_size=10,
                max_overflow=20,
                connect_args={
                    "client_encoding": "utf8",  # or a database of SQL_ASCII answers with bytes
                    "options": f"-c timezone=utc -c lock_timeout={_BUSY_MS}",
                },
            )
        else:
            raise Unavailable(
                "database.unsupported",
                f"{self.dialect} is not supported",
                hint="use sqlite:///… or postgresql+psycopg://…",
            )
        self._writer = self._engine.execution_options(**{_WRITES: True})
        self.before_commit: Callable[[Session], Callable[[], None] | None] | None = None
        """Called at the end of each `write`, still inside; what it returns, after the commit."""

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Give a session that sees one state of the database; what it changes is forgotten."""
        with Session(self._engine, expire_on_commit=False, autoflush=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Give a session whose changes are committed at the end, or rolled back on any error."""
        committed = None
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session
            if self.before_commit is not None:
                committed = self.before_commit(session)
        if committed is not None:
            committed()

    def migrate(self) -> None:
        """Bring the tables up to date; safe when several servers start at once.

        Raises:
            Unavailable: ``database.unavailable``, or ``database.newer``: a newer edgectl was here.
        """
        try:
            if not self._is_up_to_date():
                self._migrate()
        except OperationalError as error:
            raise not_answering() from error

    def check_current(self) -> None:
        """Raise unless there are tables, and those of this edgectl; change nothing.

        Raises:
            Unavailable: ``database.empty``, ``database.older``, ``database.newer``, or
                ``database.unavailable``.
        """
        address = self._engine.url
        # SQLite would make a file of whatever it looks for.
        is_missing = self.dialect == "sqlite" and not Path(address.database or "").exists()
        try:
            there, newest = (None, "") if is_missing else self.revisions()
        except OperationalError as error:
            raise not_answering() from error
        if there is None:
            raise Unavailable(
                "database.empty",
                f"{address.render_as_string(hide_password=True)} holds no tables of a server",
                hint="name the server's own settings: --config, --data, --database-url",
            )
        if there < newest:
            raise Unavailable(
                "database.older",
                f"the tables are of an older edgectl ({there}; this one's are {newest})",
                hint="do it with the edgectl that has worked on them; this one would have to "
                "change them first",
            )
        if there > newest:
            raise Unavailable(
                "database.newer",
                f"the tables are of a newer edgectl ({there}; this one's are {newest})",
                hint="install that edgectl",
            )

    def revisions(self) -> tuple[str | None, str]:
        """Return the revision of the tables, None where there are none, and the newest known."""
        # Revisions are called like their files, which are numbered.
        newest = max(path.stem for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))
        with self._engine.connect() as connection:
            if not sqlalchemy.inspect(connection).has_table("alembic_version"):
                return None, newest
            there = connection.scalars(text("SELECT version_num FROM alembic_version")).all()
        return (there[0] if len(there) == 1 else None), newest

    def encoding(self) -> str:
        """Return how text is encoded there, by PostgreSQL's name for it."""
        if self.dialect == "sqlite":
            return "UTF8"  # of every file that this program makes
        with self._engine.connect() as connection:
            return str(connection.scalar(text("SHOW server_encoding")))

    def _is_up_to_date(self) -> bool:
        # Nearly every start finds it so, and is spared Alembic, which is slow to import.
        there, newest = self.revisions()
        return there == newest

    def _migrate(self) -> None:
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        upgrade = partial(command.upgrade, config, "head")
        try:
            with self._writer.connect() as connection:
                config.attributes["connection"] = connection
                if self.dialect == "sqlite":
                    self._migrate_sqlite(connection, upgrade)
                else:
                    self._migrate_postgresql(connection, upgrade)
        except CommandError as error:
            raise Unavailable(
                "database.newer",
                f"the database cannot be brought up to date: {error}",
                hint="it was made by a newer edgectl: install that, or use another database",
            ) from error

    def probe(self) -> None:
        """Raise an error of SQLAlchemy when the database does not answer."""
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @property
    def engine(self) -> Engine:
        """For migrations and bulk loading; everything else uses `read` and `write`."""
        return self._engine

    @staticmethod
    def _migrate_sqlite(connection: Connection, upgrade: Callable[[], None]) -> None:
        # Rebuilding a table with foreign keys on would delete the rows that refer to it, and the
        # pragma does nothing inside a transaction.
        raw: Any = connection.connection.dbapi_connection
        raw.execute("PRAGMA auto_vacuum=INCREMENTAL")  # kept in the file, before its first table
        raw.execute("PRAGMA journal_mode=WAL")  # kept in the file
        raw.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                upgrade()
                broken = connection.execute(text("PRAGMA foreign_key_check")).all()
                assert not broken, f"the migration leaves rows that refer to nothing: {broken[:5]}"
        finally:
            raw.execute("PRAGMA foreign_keys=ON")

    @staticmethod
    def _migrate_postgresql(connection: Connection, upgrade: Callable[[], None]) -> None:
        with connection.begin():
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK}
            )
            upgrade()


def not_answering() -> Unavailable:
    """Return what an operator is told whose server starts without its database."""
    return Unavailable(
        "database.unavailable",
        "the database does not answer",
        hint="check database_url, and that the database is running",
    )


def _sqlite(address: sqlalchemy.URL) -> Engine:
    engine = sqlalchemy.create_engine(
        address,
        connect_args={"timeout": _BUSY_MS / 1000, "check_same_thread": False},
        pool_size=10,
        max_overflow=20,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in (
            f"busy_timeout={_BUSY_MS}",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
