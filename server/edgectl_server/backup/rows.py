"""The tables as one SQLite file, whatever database they are in, and back.

A backup always holds SQLite. From SQLite it is copied page by page by SQLite's own backup, beside
writers; from PostgreSQL row by row in one transaction that sees one moment (``REPEATABLE READ``).
So a backup can be restored to either database: it is also the way from one to the other.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, func, insert, inspect, select, text

from edgectl_server.errors import Conflict, Refused
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Base

__all__ = ["check_empty", "load_rows", "revision_of", "save_rows"]

_ROWS = 500
_PAGES = 2048
_KEPT_BY_TRIGGER = "audit_entry"
"""A new database has none, and its triggers let none be deleted."""


def save_rows(database: Database, path: Path) -> None:
    """Write all tables, of one moment, to the SQLite file `path`, which is not there yet."""
    path.touch(mode=0o600, exist_ok=False)
    if database.dialect == "sqlite":
        with (
            database.engine.connect() as connection,
            contextlib.closing(sqlite3.connect(path)) as target,
        ):
            raw: Any = connection.connection.dbapi_connection
            raw.backup(target, pages=-1)
            target.execute("PRAGMA journal_mode=DELETE").close()
        return
    with contextlib.closing(Database(f"sqlite:///{path}")) as target_database:
        target_database.migrate()
        snapshot = database.engine.execution_options(isolation_level="REPEATABLE READ")
        with snapshot.connect() as source, target_database.engine.connect() as target_connection:
            _copy(source, target_connection)
        with target_database.engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            raw.execute("PRAGMA journal_mode=DELETE").close()


def load_rows(path: Path, database: Database) -> None:
    """Bring the SQLite file `path` into an empty PostgreSQL database, brought up to date."""
    with contextlib.closing(Database(f"sqlite:///{path}")) as source_database:
        source_database.migrate()
        database.migrate()
        with (
            source_database.engine.connect() as source,
            database.engine.connect() as target,
        ):
            _copy(source, target)


def check_empty(database: Database) -> None:
    """Raise `Conflict` ``backup.not_empty`` when a database holds any table."""
    with database.engine.connect() as connection:
        tables = inspect(connection).get_table_names()
    if tables:
        raise Conflict(
            "backup.not_empty",
            f"the database holds tables already, such as {tables[0]}",
            hint="restore into a new database: CREATE DATABASE edgectl",
        )


def revision_of(path: Path) -> str:
    """Return the revision of the tables in a SQLite file, checked for damage.

    Raises:
        Refused: ``backup.damaged``.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as found:
            problems = found.execute("PRAGMA quick_check(1)").fetchall()
            revisions = found.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.DatabaseError as error:
        raise _damaged(str(error)) from error
    if problems != [("ok",)] or len(revisions) != 1:
        raise _damaged(str(problems[0][0]))
    return str(revisions[0][0])


def _copy(source: Connection, target: Connection) -> None:
    tables = Base.metadata.sorted_tables
    with target.begin():
        if target.dialect.name == "sqlite":
            target.execute(text("PRAGMA defer_foreign_keys=ON"))
        for table in reversed(tables):
            if table.name != _KEPT_BY_TRIGGER:
                target.execute(table.delete())
        for table in tables:
            order = [table.c.created_at] if table.name == "api_token" else []  # refers to itself
            rows = source.execute(select(table).order_by(*order).execution_options(yield_per=_ROWS))
            for some in rows.mappings().partitions():
                target.execute(insert(table), [dict(row) for row in some])
        if target.dialect.name == "postgresql":
            for table in tables:
                _count_on(target, table)


def _count_on(target: Connection, table: Table) -> None:
    """Have PostgreSQL number new rows after those that are there."""
    column = table.autoincrement_column
    if column is None or not column.autoincrement:
        return
    name = f'"{table.name}"'
    sequence = target.scalar(select(func.pg_get_serial_sequence(name, column.name)))
    highest = target.scalar(select(func.max(column)))
    if sequence is not None and highest is not None:
        target.execute(select(func.setval(sequence, highest)))


def _damaged(problem: str) -> Refused:
    return Refused(
        "backup.damaged",
        f"the database in the backup is damaged: {problem}",
        hint="take an older backup",
    )
