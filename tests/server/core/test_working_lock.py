"""One server works for an installation at a time, whatever happens to its connection."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy

from edgectl_server.errors import Unavailable
from edgectl_server.working_lock import WorkingLock
from waiting import wait_for


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def folder(parent: Path, name: str) -> Path:
    """A folder that another machine would have."""
    made = parent / name
    made.mkdir(exist_ok=True)
    return made


HOLDERS = (
    " FROM pg_locks AS held WHERE held.locktype = 'advisory' AND held.granted"
    " AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def holders(url: str, chosen: str = "held.pid") -> list[object]:
    """Return `chosen` of each connection that holds a lock."""
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        found = connection.scalars(sqlalchemy.text(f"SELECT {chosen}{HOLDERS}")).all()
    engine.dispose()
    return list(found)


def end_connection(url: str) -> None:
    """Let PostgreSQL end what holds the lock, as a restart of it would."""
    assert holders(url, "pg_terminate_backend(held.pid)") == [True]
    wait_for(lambda: not holders(url), "it is gone")


def test_one_works_in_a_folder(tmp_path, opened):
    first = opened.enter_context(WorkingLock(tmp_path, ""))
    second = opened.enter_context(WorkingLock(tmp_path, ""))
    assert first.take() is None
    assert first.take() is None, "it has it already"
    other = second.take()
    assert other == f"a server (process {os.getpid()}) works in {tmp_path} already"
    first.close()
    assert second.take() is None


def test_another_kind_of_database_has_no_lock(tmp_path, opened):
    for url in (f"sqlite:///{tmp_path / 'a.sqlite'}", "mysql://nobody@127.0.0.1/nothing"):
        lock = WorkingLock(tmp_path, url)
        assert lock.take() is None
        lock.close()


@pytest.mark.postgresql
def test_one_works_on_a_database_wherever_its_folder_is(tmp_path, postgresql_url, opened):
    first, second = (
        opened.enter_context(WorkingLock(folder(tmp_path, name), postgresql_url))
        for name in ("first", "second")
    )
    assert first.take() is None
    other = second.take()
    assert other is not None
    assert f"({os.getpid()}) works on this database already" in other
    first.close()
    assert second.take() is None


@pytest.mark.postgresql
def test_who_loses_the_connection_takes_the_lock_again(tmp_path, postgresql_url, opened):
    first, second = (
        opened.enter_context(WorkingLock(folder(tmp_path, name), postgresql_url))
        for name in ("first", "second")
    )
    replaced = threading.Event()
    assert first.take() is None
    first.watch(replaced.set)
    end_connection(postgresql_url)
    wait_for(lambda: holders(postgresql_url), "it holds the lock again")
    assert second.take() is not None
    assert not replaced.is_set()


@pytest.mark.postgresql
def test_who_comes_back_too_late_is_replaced(tmp_path, postgresql_url, opened):
    first, second = (
        opened.enter_context(WorkingLock(folder(tmp_path, name), postgresql_url))
        for name in ("first", "second")
    )
    replaced = threading.Event()
    assert first.take() is None
    end_connection(postgresql_url)
    assert second.take() is None
    first.watch(replaced.set)
    wait_for(replaced.is_set, "it learns that it was replaced")
    assert second.take() is None, "and takes nothing away"


@pytest.mark.postgresql
def test_a_database_that_does_not_answer_is_said(tmp_path, opened):
    url = "postgresql+psycopg://nobody@127.0.0.1:9/nothing"
    lock = opened.enter_context(WorkingLock(tmp_path, url))
    with pytest.raises(Unavailable) as caught:
        lock.take()
    assert caught.value.code == "database.unavailable"
