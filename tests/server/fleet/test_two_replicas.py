"""Two servers on one PostgreSQL at once: no order twice, no site without devices."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, text

from databases import open_migrated
from edgectl_server.ordering import Ordering
from edgectl_server.rollouts import Rollouts
from edgectl_server.schemas import PhaseSpec
from edgectl_server.signing.orders import OrderSigner
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import RolloutDevice, RolloutEvent
from server.fleet.fleet_by_hand import Fleet, U
from waiting import wait_for

pytestmark = pytest.mark.postgresql

DEVICES = [f"pi-{number:02}" for number in range(40)]
PHASES = [PhaseSpec(percent=percent) for percent in (5.0, 10.0, 25.0, 50.0, 100.0)]


class Replica:
    """A server of its own: connections, orders and ticks; keys and clock are the same."""

    def __init__(self, fleet: Fleet, url: str) -> None:
        self.database = Database(url)
        ordering = Ordering(
            database=self.database,
            signer=OrderSigner(fleet.keys),
            content_keys=fleet.content_keys,
            now=fleet.clock,
        )
        self.rollouts = Rollouts(database=self.database, ordering=ordering, now=fleet.clock)
        self.changed = 0

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.rollouts.touch(DEVICES)
            self.changed += self.rollouts.tick()


@pytest.fixture
def fleet(tmp_path: Path, postgresql_url: str) -> Iterator[Fleet]:
    database = open_migrated(postgresql_url)
    fleet = Fleet(tmp_path, database)
    fleet.version("1")
    fleet.add(*DEVICES)
    yield fleet
    database.close()


def test_five_phases_with_two_servers_ticking_at_once(fleet: Fleet, postgresql_url: str) -> None:
    rollout = fleet.start(phases=PHASES, max_in_progress=8)
    replicas = [Replica(fleet, postgresql_url) for _ in range(2)]
    stop = threading.Event()
    threads = ThreadPoolExecutor(len(replicas))
    running = [threads.submit(one.run, stop) for one in replicas]

    def done() -> bool:
        with fleet.database.read() as session:
            ordered = session.scalars(
                select(RolloutDevice.device).where(RolloutDevice.state == "in_progress")
            ).all()
        for name in ordered:
            fleet.report(name, U.COMMITTED)
        ended_early = any(one.done() for one in running)
        return ended_early or fleet.show(rollout).state == "completed"

    try:
        wait_for(done, "the end of the rollout")
    finally:
        stop.set()
        for work in running:
            work.result(60)
        threads.shutdown()
        for one in replicas:
            one.database.close()
    with fleet.database.read() as session:
        events = session.scalars(
            select(RolloutEvent)
            .where(RolloutEvent.rollout == rollout)
            .order_by(RolloutEvent.revision)
        ).all()
    assert [event.revision for event in events] == list(range(1, len(events) + 1))
    for kind in ("device_ordered", "device_committed"):
        seen = Counter(event.data["device"] for event in events if event.kind == kind)
        assert seen == dict.fromkeys(DEVICES, 1), kind
    assert [event.kind for event in events].count("phase_began") == len(PHASES) - 1
    assert all(one.changed for one in replicas), "both have had a part in it"


_WAITING = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")


def test_two_rollouts_do_not_take_the_same_last_device_of_a_site(
    fleet: Fleet, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has chosen and not committed when the other one looks at what the site can spare."""
    rollouts = [fleet.start(devices=[name], available_min=39) for name in DEVICES[:2]]
    slow, quick = (Replica(fleet, postgresql_url) for _ in range(2))
    chosen, go_on = threading.Event(), threading.Event()
    carry_out = slow.rollouts._carry_out

    def hesitate(*given: object) -> None:
        carry_out(*given)  # type: ignore[arg-type]
        chosen.set()
        assert go_on.wait(30)

    monkeypatch.setattr(slow.rollouts, "_carry_out", hesitate)

    def waits() -> bool:
        with fleet.database.read() as session:
            return other.done() or bool(session.scalar(_WAITING))

    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(slow.rollouts._tick_one)
        try:
            assert chosen.wait(30)
            other = threads.submit(quick.rollouts._tick_one)
            wait_for(waits, "the other one has ordered, or waits")
        finally:
            go_on.set()
        one.result(60)
        other.result(60)
    for replica in (slow, quick):
        replica.database.close()
    states = [state for rollout in rollouts for state in fleet.states(rollout).values()]
    assert sorted(states) == ["in_progress", "pending"]
