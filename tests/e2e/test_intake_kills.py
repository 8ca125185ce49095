"""The benchmark of the intake in short: nothing is lost or doubled, and what would be is found."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from benchmarks.watching import kills, speed
from sqlalchemy import select
from sqlalchemy.orm import Session

from databases import open_migrated
from edgectl_protocol.names import digest_of
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import AnsweredHour, MessageReceiptRow, TelemetryWindow

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.mark.e2e
def test_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    found = kills.run(kills=2, devices=3, folder=tmp_path)
    assert found["wrong"] == []
    assert found["killed"] == {"server": 2}
    assert found["messages"] > 30


def test_messages_that_come_twice_are_stored_once(tmp_path: Path) -> None:
    found = speed.measured(
        f"sqlite:///{tmp_path / 'db.sqlite'}", devices=5, messages=300, repeated=0.3
    )
    assert found.stored == found.expected == 600


def fill(database: Database) -> None:
    """Two messages of two windows, of one request each."""
    digest = digest_of(b"m")
    with database.write() as session:
        for seq in (1, 2):
            for number, slot in enumerate(("har", "anomaly")):
                session.add(
                    TelemetryWindow(
                        device="pi-1", boot=1, seq=seq, number=number, slot=slot, version="1",
                        manifest=digest, start=AT, end=AT, requests=1, errors=0, non_finite=0,
                        refused=0, latency=[], confidence=[], classes=[], received_at=AT,
                    )
                )  # fmt: skip
        session.add(
            AnsweredHour(
                manifest=digest, hour=AT, device="pi-1", slot="har", version="1", first=AT,
                last=AT, requests=4, errors=0,
            )
        )  # fmt: skip
        session.add(
            MessageReceiptRow(
                device="pi-1", boot=1, last=2, received=2, duplicates=0, forgotten=0, gaps=[],
                first_at=AT, last_at=AT,
            )
        )  # fmt: skip


ONE = ("pi-1", 1, 2, 0)
DAMAGES = {
    "": lambda _: None,
    "1 not whole": lambda session: session.delete(session.get_one(TelemetryWindow, ONE)),
    "5 and 4": lambda session: setattr(session.get_one(TelemetryWindow, ONE), "requests", 2),
    "4 and 8 requests of 4": lambda session: setattr(the(session, AnsweredHour), "requests", 8),
    "receipt": lambda session: setattr(the(session, MessageReceiptRow), "gaps", [[1, 1, "x"]]),
    "pi-2: nobody has": lambda session: setattr(
        session.get_one(TelemetryWindow, ONE), "device", "pi-2"
    ),
}


def the(session: Session, table: type[AnsweredHour | MessageReceiptRow]) -> object:
    return session.scalars(select(table)).one()


@pytest.mark.parametrize(("says", "damage"), DAMAGES.items(), ids=lambda one: str(one)[:9])
def test_what_is_wrong_is_found(
    tmp_path: Path, says: str, damage: Callable[[Session], None]
) -> None:
    url = f"sqlite:///{tmp_path / 'db.sqlite'}"
    database = open_migrated(url)
    fill(database)
    with database.write() as session:
        damage(session)
    database.close()
    wrong = kills.check(url, {"pi-1": (2, 4)})["wrong"]
    assert says in " ".join(wrong)
    assert bool(wrong) == bool(says)
