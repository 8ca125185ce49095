"""Rows that may be there already, few and many, in both databases."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError, OperationalError, StatementError

from databases import open_migrated
from edgectl_server.storage.database import Database
from edgectl_server.storage.inserts import COPIED_MIN, insert_new
from edgectl_server.storage.tables import FeatureWindowRow

NOON = datetime(2031, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))


def row(seq: int, **changes: object) -> dict[str, object]:
    return {
        "device": "pi-1",
        "boot": 1,
        "seq": seq,
        "slot": 'a\ttab, a "quote", a \\ and \n a new line',
        "manifest": "m",
        "start": NOON,
        "end": NOON,
        "hour": NOON,
        "rows": 2**62,
        "skipped": 0,
        "clock_shift_s": -5,
        "counts": {"histograms": [[1, 2], [3]], "text": "ü\t\\N"},
        "rolled": seq % 2 == 0,
        "received_at": NOON,
        **changes,
    }


@pytest.mark.parametrize("count", [1, COPIED_MIN - 1, COPIED_MIN, 700])
def test_rows_come_once_and_as_they_were(database: Database, count: int) -> None:
    with database.write() as session:
        insert_new(session, FeatureWindowRow, [row(seq) for seq in range(count)])
    with database.write() as session:
        changed = [row(seq, skipped=9) for seq in range(count + 20)]
        insert_new(session, FeatureWindowRow, changed)
        insert_new(session, FeatureWindowRow, [row(1000 + seq) for seq in range(COPIED_MIN)])
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(FeatureWindowRow)) == (
            count + 20 + COPIED_MIN
        )
        old = session.get_one(FeatureWindowRow, ("pi-1", 1, 0))
        new = session.get_one(FeatureWindowRow, ("pi-1", 1, count))
    assert (old.skipped, new.skipped) == (0, 9)
    for name, value in row(0).items():
        assert getattr(old, name) == value, name
    assert old.start.tzinfo is UTC


def test_what_was_refused_leaves_nothing_behind(database: Database) -> None:
    rows = [row(seq) for seq in range(40)]
    wrong = {"start": datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))}
    for bad in (wrong, {"rows": None}):
        with (
            pytest.raises((DBAPIError, StatementError, OverflowError)),
            database.write() as session,
        ):
            insert_new(session, FeatureWindowRow, [*rows, row(99, **bad)])
    with database.write() as session:
        assert session.scalar(select(func.count()).select_from(FeatureWindowRow)) == 0
        insert_new(session, FeatureWindowRow, rows)
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(FeatureWindowRow)) == 40


@pytest.mark.postgresql
def test_a_database_that_goes_away_while_copying_is_told_from_wrong_data(
    postgresql_url: str,
) -> None:
    rows, database = [row(seq) for seq in range(40)], open_migrated(postgresql_url)

    def go_away() -> None:
        with database.write() as session:
            session.connection().connection.driver_connection.close()
            insert_new(session, FeatureWindowRow, rows)

    with pytest.raises(OperationalError):
        go_away()
    with database.write() as session:
        insert_new(session, FeatureWindowRow, rows)
    database.close()
