"""Which devices have answered with which digest, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy
from sqlalchemy import func, insert, select

from edgectl_protocol.messages import InferenceWindow, TelemetryBatch
from edgectl_server.answers import WINDOW_REQUESTS_MAX, Answers
from edgectl_server.errors import Refused
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery
from edgectl_server.storage.tables import AnsweredHour, Device
from edgectl_server.telemetry import Telemetry
from server.fleet.fleet_helpers import Clock, new_device

PAGE = PageQuery(q="", sort="device", offset=0, limit=200)
BAD, GOOD = ("sha256:" + letter * 64 for letter in "ab")
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
NOTHING = dict.fromkeys(("digest", "model", "version", "device", "since", "until"))


class World:
    """Telemetry that comes in, and questions."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = Clock()
        self.clock.advance(seconds=(NOON + timedelta(days=2) - self.clock()).total_seconds())
        self.telemetry = Telemetry(database=database, retention_days=30, now=self.clock)
        self.answers = Answers(database=database, now=self.clock)
        self.seq = 0
        with database.write() as session:
            session.add_all(new_device(name, NOON) for name in ("a", "b"))

    def send(
        self, device: str, digest: str, minutes: float, requests: int = 10, *, seq: int = 0
    ) -> None:
        """Let a window of a minute end so long after noon."""
        self.seq += 1
        end = NOON + timedelta(minutes=minutes)
        window = InferenceWindow(
            slot="har",
            version="2" if digest == BAD else "1",
            manifest=digest,
            start=end - timedelta(minutes=1),
            end=end,
            requests=requests,
            errors=requests // 10,
        )
        batch = TelemetryBatch(device=device, boot=1, seq=seq or self.seq, windows=(window,))
        with self.database.write() as session:
            row = session.get_one(Device, device, with_for_update=True)
            self.telemetry.take_batch(session, row, batch)

    def ask(self, since: float | None = None, until: float | None = None, **asked: str) -> list:
        def at(minutes: float | None) -> datetime | None:
            return None if minutes is None else NOON + timedelta(minutes=minutes)

        given = {**NOTHING, **asked, "since": at(since), "until": at(until)}
        return [
            (one.device, one.version, one.requests)
            for one in self.answers.page(PAGE, **given).items
        ]


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    return World(database)


def test_devices_that_answered_between_two_times(world: World) -> None:
    world.send("a", BAD, 1)
    world.send("a", BAD, 30)
    world.send("a", GOOD, 61)
    world.send("b", BAD, 125, requests=5)
    world.send("b", BAD, 126, requests=0)
    assert world.ask(digest=BAD) == [("a", "2", 20), ("b", "2", 5)]
    assert world.ask(model="har", version="2") == [("a", "2", 20), ("b", "2", 5)]
    assert world.ask(model="har", version="1") == [("a", "1", 10)]
    assert world.ask(digest=BAD, since=31) == [("b", "2", 5)]
    assert world.ask(digest=BAD, since=29, until=100) == [("a", "2", 20)]  # of the whole hour
    assert world.ask(digest=BAD, until=-5) == []
    assert world.ask(device="a") == [("a", "2", 20), ("a", "1", 10)]
    (found, _) = world.answers.page(PAGE, **{**NOTHING, "digest": BAD}).items
    assert (found.first, found.last) == (NOON, NOON + timedelta(minutes=30))
    assert (found.errors, found.digest, found.model) == (2, BAD, "har")


def test_a_window_belongs_to_the_hour_in_which_it_began_too(world: World) -> None:
    world.send("a", BAD, 60.5)
    assert world.ask(digest=BAD, since=50, until=59.8) == [("a", "2", 10)]
    assert world.ask(digest=BAD, since=50, until=59.4) == []


def test_a_batch_that_comes_again_counts_once(world: World) -> None:
    for _ in range(3):
        world.send("a", BAD, 1, seq=7)
    assert world.ask(digest=BAD) == [("a", "2", 10)]


def test_a_device_that_claims_the_most_does_not_spoil_the_answer_for_others(world: World) -> None:
    for minutes in (1, 2, 61, 121):
        world.send("a", BAD, minutes, requests=2**63 - 1)
    world.send("b", BAD, 1)
    assert world.ask(digest=BAD) == [("a", "2", 4 * WINDOW_REQUESTS_MAX), ("b", "2", 10)]


def test_a_clock_that_is_ahead_says_nothing_of_the_future(world: World) -> None:
    world.send("a", BAD, 60 * 24 * 365 * 10)
    (found,) = world.answers.page(PAGE, **{**NOTHING, "digest": BAD}).items
    assert found.last == world.clock()


def test_it_is_forgotten_with_the_telemetry(world: World) -> None:
    world.send("a", BAD, 1)
    world.clock.advance(seconds=31 * 86_400)
    world.telemetry.delete_old()
    assert world.ask(digest=BAD) == []


@pytest.mark.parametrize("asked", [{}, {"version": "2"}, {"digest": BAD, "since": 5, "until": 4}])
def test_a_question_without_a_subject_is_refused(world: World, asked: dict) -> None:
    with pytest.raises(Refused):
        world.ask(**asked)


def test_the_database_finds_it_by_an_index(world: World) -> None:
    """However many hours of other digests there are; what it would do with few is no matter."""
    rows = [
        {
            "manifest": f"sha256:{digest:064x}",
            "hour": NOON + timedelta(hours=hour),
            "device": f"pi-{device}",
            "slot": "har",
            "version": "1",
            "requests": 1,
            "errors": 0,
            **dict.fromkeys(("first", "last"), NOON + timedelta(hours=hour)),
        }
        for digest in range(20)
        for hour in range(24)
        for device in range(20)
    ]
    with world.database.write() as session:
        session.execute(insert(AnsweredHour), rows)
    wanted = select(AnsweredHour.device, func.sum(AnsweredHour.requests)).where(
        AnsweredHour.manifest == rows[0]["manifest"], AnsweredHour.hour >= NOON
    )
    by_device = wanted.group_by(AnsweredHour.device)
    dialect = world.database.engine.dialect
    text = str(by_device.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    explain = "EXPLAIN QUERY PLAN " if dialect.name == "sqlite" else "EXPLAIN "
    with world.database.engine.connect() as connection:
        if dialect.name == "postgresql":
            connection.execute(sqlalchemy.text("ANALYZE answered_hour"))
        plan = " ".join(str(row) for row in connection.execute(sqlalchemy.text(explain + text)))
    index = "sqlite_autoindex" if dialect.name == "sqlite" else "pk_answered_hour"
    assert index in plan, plan
