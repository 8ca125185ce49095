"""A device whose clock is wrong installs nothing, goes on serving, and says so when it can.

The agent runs as it is, under Debian's faketime: the time of day is shifted for it and for the
processes that it starts, the clock that only goes forward is not.
"""

import shutil
import sqlite3
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgectl_protocol.messages import SecurityEvent, decode
from edgectl_server.clock import now
from waiting import wait_for

pytestmark = pytest.mark.e2e

HEAVY = {"precisions": ["fp32"]}


def faketime() -> str:
    """Where the library is; the program prints the environment that it would set."""
    if shutil.which("faketime") is None:
        pytest.skip("faketime is not installed; packaging/install_test_packages.py installs it")
    shown = subprocess.run(
        ["faketime", "-f", "+0", "env"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    (line,) = [one for one in shown.splitlines() if one.startswith("LD_PRELOAD=")]
    return line.removeprefix("LD_PRELOAD=").split(":")[-1]


def shifted(offset_s: int) -> dict[str, str]:
    """Return the environment of a process whose time of day is another one."""
    return {
        "LD_PRELOAD": faketime(),
        "FAKETIME": f"{offset_s:+d}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": str(Path(__file__).parent / "faked_time"),
    }


def set_clock(agent, offset_s: int | None) -> None:
    """Have the next start of the agent see another time; None for the right one."""
    for name in shifted(0):
        agent._environment.pop(name, None)
    if offset_s is not None:
        agent._environment |= shifted(offset_s)


def spooled(agent) -> list[SecurityEvent]:
    """What waits on the device to be told."""
    path = agent.state / "spool" / "spool.db"
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT payload FROM message WHERE kind = 'security'").fetchall()
    database.close()
    return [decode(SecurityEvent, payload) for (payload,) in rows]


def since_1970() -> int:
    return -int((now() - datetime(1970, 1, 2, tzinfo=UTC)).total_seconds())


@pytest.fixture
def world(start, pushed, activity):
    models = dict.fromkeys(("1", "2"), activity["model"])
    server = start.server(data=pushed("har", models, **HEAVY))
    agent = start.agent(server, "pi-1")
    server.wait_rollout(server.roll_out("har", "1", observe_s=0.2))
    agent.stop()
    agent.token = ""
    return server, agent


def serves_the_first(agent, activity) -> bool:
    return agent.infer("har", activity["windows"][:1])["model_version"] == "1"


def told(server, source="device"):
    events = server.client.security_events("pi-1", limit=100).items
    return {one.code: one for one in events if one.source == source}


@pytest.mark.parametrize("offset_s", [since_1970(), 10 * 365 * 86400], ids=["1970", "in ten years"])
def test_far_off_it_cannot_connect_and_tells_later(world, activity, offset_s):
    server, agent = world
    set_clock(agent, offset_s)
    agent.start()
    rollout = server.roll_out("har", "2", observe_s=0.2)
    events = wait_for(lambda: spooled(agent), "the event in the spool")
    wrong = now() + timedelta(seconds=offset_s)
    assert {one.reason.code for one in events} == {"connection.clock"}
    assert abs(events[0].at - wrong) < timedelta(hours=1)
    assert serves_the_first(agent, activity)
    assert server.client.rollout(rollout).counts.committed == 0
    assert told(server) == {}
    agent.stop()
    assert serves_nothing_new(agent)

    set_clock(agent, None)
    agent.start()
    wait_for(lambda: "connection.clock" in told(server), "the event, once it can be told")
    assert abs(told(server)["connection.clock"].at - wrong) < timedelta(hours=1)
    assert server.wait_rollout(rollout).counts.committed == 1
    assert spooled(agent) == [] or wait_for(lambda: not spooled(agent))


def serves_nothing_new(agent) -> bool:
    pointer = (agent.state / "slots.json").read_text()
    return '"version":"1"' in pointer and '"version":"2"' not in pointer


def test_weeks_off_it_refuses_the_order_and_tells_at_once(world, activity):
    server, agent = world
    set_clock(agent, 40 * 86400)
    agent.start()
    rollout = server.roll_out("har", "2", observe_s=0.2)
    wait_for(lambda: "order.expired" in told(server), "the refusal")
    event = told(server)["order.expired"]
    assert event.order == 2
    assert event.at > now() + timedelta(days=39)
    assert event.received_at < now() + timedelta(minutes=1)
    assert serves_the_first(agent, activity)
    assert agent.update("har").version == "1"
    assert server.client.rollout(rollout).counts.committed == 0
    agent.stop()
    set_clock(agent, None)
    agent.start()
    assert server.wait_rollout(rollout).counts.committed == 1
