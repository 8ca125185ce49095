"""Two servers of one installation: one works, one stands by, and they change places by kill -9."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from benchmarks.fleet.kills import check, is_completed, roll_out
from benchmarks.fleet.running import running_fleet, until

from e2e.fleet import Server, stopping
from edgectl.client import Client
from edgectl_server.clock import now
from edgectl_server.distribution.broker_config import write_broker_config
from edgectl_server.signing.authority import Authority
from server.distribution.own_mosquitto import OwnMosquitto, plan_for
from waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.postgresql]

DEVICES = 12
AT_ONCE = 4
BOUND_S = 300.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[OwnMosquitto]:
    """A Mosquitto of its own machine, that trusts the installation's authority."""
    pki = tmp_path / "data/pki"
    pki.parent.mkdir(mode=0o700)
    plan = plan_for(tmp_path / "broker")
    files = Path(plan.directory)
    write_broker_config(files, plan, Authority.open(pki, now()), pki, now(), force=False)
    mosquitto = OwnMosquitto(files, Path(plan.state), plan.port, plan.kick_port)
    yield mosquitto
    mosquitto.stop()


class History:
    """What `check` reads, of PostgreSQL."""

    def __init__(self, url: str) -> None:
        self._engine = sqlalchemy.create_engine(url)

    def rows(self, query: str, *values: str) -> list[Any]:
        with self._engine.connect() as connection:
            found = connection.exec_driver_sql(query.replace("?", "%s"), values).all()
        return [
            tuple(json.dumps(one) if isinstance(one, dict) else one for one in row) for row in found
        ]

    def close(self) -> None:
        self._engine.dispose()


def stand_by(server: Server) -> None:
    """Start it, and wait until it says that another one works."""
    since = server.log.stat().st_size if server.log.exists() else 0
    server.launch()
    said = server.wait_line("standing by", "standby", value=True, since=since)
    assert "works in" in said["other"]


def committed(client: Client, rollout: str) -> int:
    """Return how many devices have it."""
    return client.patiently(lambda: client.rollout(rollout)).counts.committed


def take_over(working: Server, standing_by: Server) -> float:
    """Kill who works; return the seconds until the other one serves."""
    since = standing_by.log.stat().st_size
    began = time.monotonic()
    working.kill()
    standing_by.wait_ready(since)
    return time.monotonic() - began


def test_they_change_places_in_the_middle_of_a_rollout(tmp_path, activity, postgresql_url, broker):
    settings = {
        "database_url": postgresql_url,
        "blobs_url": str(tmp_path / "blobs"),
        "broker_kick_port": str(broker.kick_port),
        "standby": "true",
    }
    (tmp_path / "blobs").mkdir(mode=0o700)
    address = f"mqtts://{broker.host}:{broker.port}"
    one, other = (Server(tmp_path / "data", broker=address, settings=settings) for _ in range(2))
    other.log = tmp_path / "other.log"
    history = History(postgresql_url)
    with contextlib.closing(history), stopping(one, other):
        one.start()
        job = one.push("har", activity["model"], precisions=["fp32"])
        assert job.state == "succeeded", job.error
        other.port = one.port
        stand_by(other)
        client = one.client  # its address and token are good for the other one too
        with running_fleet(client, tmp_path / "fleet", DEVICES, 500.0) as fleet:
            until("online", lambda: client.fleet().online >= DEVICES, BOUND_S)
            rollout = roll_out(client, DEVICES, "1", at_once=AT_ONCE)
            wait_for(lambda: committed(client, rollout) >= 1, "its beginning")
            took = [take_over(one, other)]
            stand_by(one)
            wait_for(lambda: committed(client, rollout) >= DEVICES // 3, "its middle")
            took.append(take_over(other, one))
            assert committed(client, rollout) < DEVICES
            until("its end", lambda: is_completed(client, rollout), BOUND_S)
            summary = fleet.end()
        names = [str(row[0]) for row in history.rows("SELECT id FROM device ORDER BY id")]
        assert len(names) == DEVICES
        assert check(history, [rollout], names) == []
    print(f"seconds until the other one serves: {', '.join(f'{one:.1f}' for one in took)}")
    assert summary["updates_ended"] == {"committed": DEVICES}


def test_who_stands_by_ends_in_order(tmp_path, start):
    working = start.server()
    waiting = Server(working.data, settings={"standby": "true"})
    waiting.log = tmp_path / "other.log"
    with stopping(waiting):
        stand_by(waiting)
        assert waiting.stop() == 0
    assert working.client.fleet().devices == 0
