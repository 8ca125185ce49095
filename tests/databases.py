"""Databases with the tables of today, copied from one that was migrated once a session.

Migrating is the same work for every test. It is a test's matter in test_storage_database.py, which
asks `Database.migrate` for it, as the servers do that tests start as processes.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import sqlalchemy

from edgectl_server.storage.database import Database

__all__ = ["open_migrated"]

_TEMPLATE = "edgectl_template"


def open_migrated(url: str) -> Database:
    """Open an empty database, SQLite or PostgreSQL, that has the tables of today."""
    address = sqlalchemy.make_url(url)
    assert address.database is not None
    if address.get_backend_name() == "sqlite":
        Path(address.database).write_bytes(_sqlite())
    else:
        _copy_postgresql(address)
    return Database(url)


@functools.cache
def _sqlite() -> bytes:
    with tempfile.TemporaryDirectory(prefix="edgectl-tables-") as folder:
        path = Path(folder) / "tables.sqlite"
        database = Database(f"sqlite:///{path}")
        database.migrate()
        database.close()
        assert [one.name for one in Path(folder).iterdir()] == [path.name], "all is in this file"
        return path.read_bytes()


def _copy_postgresql(address: sqlalchemy.URL) -> None:
    """Make the database anew, as a copy; it has only just been made, and nobody uses it."""
    maintenance = address.set(database="postgres")
    _migrate_template(maintenance)
    engine = sqlalchemy.create_engine(maintenance, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"DROP DATABASE {address.database}"))
        connection.execute(
            sqlalchemy.text(f"CREATE DATABASE {address.database} TEMPLATE {_TEMPLATE}")
        )
    engine.dispose()


@functools.cache
def _migrate_template(maintenance: sqlalchemy.URL) -> None:
    engine = sqlalchemy.create_engine(maintenance, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {_TEMPLATE}"))
    engine.dispose()
    database = Database(maintenance.set(database=_TEMPLATE).render_as_string(hide_password=False))
    database.migrate()
    database.close()
