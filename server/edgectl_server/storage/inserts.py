"""Inserting what may be there already: the same on SQLite and on PostgreSQL.

On PostgreSQL many rows go by COPY into a temporary table of the session, and from there what is new
into the table: a quarter of the time and of this process's work of an INSERT for each row
(`make bench-intake`). Few rows are not worth the two statements more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from edgectl_server.storage.tables import Base

__all__ = ["COPIED_MIN", "insert_new"]

COPIED_MIN = 16
"""Fewer rows are inserted one by one."""


def insert_new(session: Session, table: type[Base], rows: Sequence[dict[str, Any]]) -> None:
    """Insert `rows`; those whose key is there already are left as they are.

    Args:
        session: of the database.
        table: whose rows they are.
        rows: all with the same columns.
    """
    if not rows:
        return
    if session.get_bind().dialect.name != "postgresql":
        session.execute(sqlite.insert(table).on_conflict_do_nothing(), rows)
    elif len(rows) < COPIED_MIN:
        session.execute(postgresql.insert(table).on_conflict_do_nothing(), rows)
    else:
        assert isinstance(table.__table__, Table)
        _copy(session, table.__table__, rows)


def _copy(session: Session, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    session.flush()
    connection = session.connection()
    dialect = connection.dialect
    names = list(rows[0])
    # What a value becomes on its way to the database: a time outside of all calendars is refused
    # there, and must not come past it.
    adapted = [table.c[name].type.dialect_impl(dialect).bind_processor(dialect) for name in names]
    columns = ", ".join(f'"{name}"' for name in names)
    arriving = f"arriving_{table.name}"
    statement = f"COPY {arriving} ({columns}) FROM STDIN"
    driver: Any = connection.connection.driver_connection
    failed = dialect.loaded_dbapi.Error
    try:
        with driver.cursor() as cursor:
            cursor.execute(
                f"CREATE TEMP TABLE IF NOT EXISTS {arriving} (LIKE {table.name})"
                " ON COMMIT DELETE ROWS"
            )
            with cursor.copy(statement) as copy:
                for row in rows:
                    copy.write_row(
                        [
                            row[name] if adapt is None else adapt(row[name])
                            for name, adapt in zip(names, adapted, strict=True)
                        ]
                    )
            cursor.execute(
                f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM {arriving}"  # noqa: S608
                " ON CONFLICT DO NOTHING"
            )
    except failed as error:
        # It came past SQLAlchemy, which tells a database that is away from data that is wrong.
        raise DBAPIError.instance(statement, None, error, failed, dialect=dialect) from error
