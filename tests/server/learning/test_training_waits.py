"""Trainings that no worker can do: they say so, and are an alert after a while."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from edgectl_server.alerting.watch import AlertWatch
from edgectl_server.jobs import Jobs
from edgectl_server.retraining import RETRAIN
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import AlertRow, Job, Worker
from edgectl_server.training_waits import TrainingWaits
from edgectl_server.trial_sharing import Presence
from server.core.conftest import Clock

ALERT_AFTER = timedelta(minutes=5)


class World:
    """A server that leaves training to workers."""

    def __init__(self, database: Database, *, trains: bool = False) -> None:
        self.database, self.clock = database, Clock()
        self.jobs = Jobs(database, self.clock, worker="w", lease_s=30)
        self.waits = self.server(trains=trains)

    def server(self, *, trains: bool) -> TrainingWaits:
        return TrainingWaits(
            database=self.database, now=self.clock, trains=trains, alert_after=ALERT_AFTER
        )

    def ask(self, trainer: str = "head", model: str = "har") -> str:
        payload = {"subject": {"model": model, "trainer": trainer}, "role": "operator"}
        with self.database.write() as session:
            return self.jobs.create(session, RETRAIN, payload, "anna")

    def worker(self, name: str, *trainers: str) -> Presence:
        presence = Presence(self.database, self.clock, name, ("head", *trainers))
        presence.beat()
        return presence

    def look(self, after_s: float = 0, *present: Presence) -> list[tuple[str, str, str]]:
        """Let time pass while workers are there; return the alerts that last."""
        self.clock.pass_s(after_s)
        for one in present:
            one.beat()
        self.waits.look()
        AlertWatch(
            database=self.database, sources=[self.waits.source()], retention_days=1, now=self.clock
        ).look()
        lasting = select(AlertRow).where(AlertRow.state != "resolved").order_by(AlertRow.subject)
        with self.database.read() as session:
            rows = session.scalars(lasting).all()
        return [(row.kind, row.subject, row.summary) for row in rows]

    def says(self, job: str) -> str:
        with self.database.read() as session:
            progress = session.get_one(Job, job).progress
        return f"{progress.get('stage', '')}: {progress.get('message', '')}"


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def test_a_training_without_a_worker_says_so_and_is_an_alert_after_a_while(world: World) -> None:
    job = world.ask()
    assert world.look() == []
    assert world.says(job) == "wait: no worker has the trainer head: none is there"
    assert world.look(299) == []
    (alert,) = world.look(1)
    assert alert == (
        "training.waiting",
        "head",
        "1 training waits, of har: no worker has the trainer head: none is there",
    )
    one = world.worker("one")
    assert world.look(1, one) == []
    assert world.says(job) == ": ", "it waits for its turn"
    one.leave()
    assert world.look(299) == [], "from here on it is counted anew"
    assert [kind for kind, *_ in world.look(301)] == ["training.waiting"]
    world.jobs.cancel(job)
    assert world.look() == []


def test_what_counts_is_who_has_the_trainer(world: World) -> None:
    plain, own = world.ask(), world.ask("finetune")
    one = world.worker("one")
    assert world.look(0, one) == []
    assert world.says(plain) == ": "
    assert world.says(own) == "wait: no worker has the trainer finetune: 1 is there without it"
    able = world.worker("two", "finetune")
    assert world.look(1, one, able) == []
    assert world.says(own) == ": "
    able.leave()
    assert world.look(3600, one) == [], "however long it has waited for its turn"
    assert [subject for _, subject, _ in world.look(300, one)] == ["finetune"]
    with world.database.write() as session:
        session.add(Worker(name="old", seen_at=world.clock(), trainers=None))
    assert world.look(1, one) == [], "an older edgectl does not say what it has"


def test_many_trainings_are_one_alert_of_their_trainer(world: World) -> None:
    for number in range(8):
        world.ask(model=f"m{number}")
    world.ask(model="m0")
    world.look()
    (alert,) = world.look(300)
    assert alert[2].startswith("9 trainings wait, of m0, m1, m2, m3, m4 and 3 more: no worker")


def test_a_training_whose_worker_has_vanished_waits_too(world: World) -> None:
    job = world.ask()
    one = world.worker("one")
    with world.database.write() as session:
        row = session.get_one(Job, job)
        row.state, row.lease_until = "running", world.clock() + timedelta(seconds=30)
        row.progress = {"stage": "train", "message": "head"}
    assert world.look(29, one) == []
    assert world.says(job) == "train: head"
    assert world.look(20) == []
    assert world.says(job) == "wait: no worker has the trainer head: none is there"
    assert [subject for _, subject, _ in world.look(300)] == ["head"]


def test_a_server_that_trains_takes_the_words_back(world: World) -> None:
    job = world.ask()
    world.look()
    assert len(world.look(300)) == 1
    world.waits = world.server(trains=True)
    assert world.look(1) == []
    assert world.says(job) == ": "
