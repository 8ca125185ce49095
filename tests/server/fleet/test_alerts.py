"""Alerts over real brokers, and from the rows that real parts write."""

import json
from datetime import timedelta

import pytest
from sqlalchemy import select

from edgectl_protocol import topics
from edgectl_server.alerting.book import AlertFilter
from edgectl_server.alerting.parts import Alerting
from edgectl_server.alerting.sources import Limits, database_sources
from edgectl_server.clock import now
from edgectl_server.schemas import AlertRouteRequest
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery
from edgectl_server.storage.tables import (
    AccuracyStateRow,
    Device,
    DriftStateRow,
    ModelVersion,
    ReportedSlot,
    Rollout,
)
from server.fleet.conftest import Site
from server.fleet.fleet_helpers import Clock, new_device
from waiting import wait_for

PAGE = PageQuery("", "", 0, 100)


@pytest.fixture
def alerting(site: Site):
    opened = Alerting(site.settings, site.database, now)
    opened.connect(site.plane.link, list)
    yield opened
    opened.close()


def test_a_device_that_a_route_names_is_told_and_others_read_nothing(site: Site, alerting) -> None:
    lamp, other = site.pi("lamp-1"), site.pi("pi-2")
    own, everything = topics.device_alert("lamp-1"), topics.alerts()
    lamp.subscribe(own)
    other.subscribe(own, everything)
    route = alerting.routes.create(
        AlertRouteRequest(name="lamp", channel="mqtt", target=["lamp-1"]), "anna"
    )
    tried = alerting.routes.test(route.id)
    assert (tried.state, tried.error) == ("delivered", "")
    wait_for(lambda: lamp.got.get(own), "the lamp is told")
    said = json.loads(lamp.got[own][0])
    assert (said["id"], said["type"], said["data"]["route"]) == (tried.id, "alert.test", "lamp")
    # To all clients: the broker takes it, and no device is given it. What comes after it is.
    to_all = alerting.routes.create(AlertRouteRequest(name="all", channel="mqtt"), "anna")
    assert alerting.routes.test(to_all.id).state == "delivered"
    site.plane.link.publish(topics.ack("pi-2"), b"marker")
    wait_for(lambda: b"marker" in other.got.get(topics.ack("pi-2"), []), "the marker")
    assert own not in other.got
    assert everything not in other.got


def test_devices_cannot_raise_alerts(site: Site, alerting) -> None:
    lamp, evil = site.pi("lamp-1"), site.pi("evil")
    own = topics.device_alert("lamp-1")
    lamp.subscribe(own)
    for topic in (own, topics.device_alert("evil"), topics.alerts()):
        evil.publish(topic, b'{"type": "alert.began"}')
    seq = evil.report().seq  # it comes after those, on the same connection

    def has_come() -> bool:
        with site.database.read() as session:
            return session.get_one(Device, "evil").seq >= seq

    wait_for(has_come, "the report")
    route = alerting.routes.create(
        AlertRouteRequest(name="lamp", channel="mqtt", target=["lamp-1"]), "anna"
    )
    alerting.routes.test(route.id)
    wait_for(lambda: lamp.got.get(own), "the lamp is told")
    assert [json.loads(one)["type"] for one in lamp.got[own]] == ["alert.test"]


def test_without_a_broker_it_waits_and_is_told_later(site: Site, alerting) -> None:
    site.pi("lamp-1", connect=False)
    route = alerting.routes.create(
        AlertRouteRequest(name="lamp", channel="mqtt", target=["lamp-1"]), "anna"
    )
    site.plane.broker.stop()
    wait_for(lambda: not site.plane.link.connected, "the link is down")
    tried = alerting.routes.test(route.id)
    assert (tried.state, tried.error) == ("failed", "the server is not connected to the broker")


# ---------------------------------------------------------------- sources

LIMITS = Limits(
    overdue_after=timedelta(hours=1), gap_after=timedelta(minutes=15), period=timedelta(hours=1)
)


def read(database: Database, clock: Clock) -> dict[tuple[str, str], object]:
    with database.read() as session:
        found = [
            one for source in database_sources(LIMITS) for one in source.read(session, clock())
        ]
    return {one.name: one for one in found}


def test_silent_devices_are_one_condition_of_their_site(database: Database) -> None:
    clock = Clock()
    ago = {hours: clock() - timedelta(hours=hours) for hours in (0, 2)}
    with database.write() as session:
        for number in range(30):
            labels = {"site": "porto" if number < 20 else "faro"}
            late = number not in {0, 29}
            session.add(
                new_device(
                    f"pi-{number}", ago[2], labels=labels, last_seen_at=ago[2 if late else 0]
                )
            )
        session.add(new_device("gone", ago[2], state="revoked", last_seen_at=ago[2]))
        session.add(new_device("mute", ago[2], online=True, last_seen_at=ago[2]))
        session.add(new_device("idle", ago[2], online=True, last_seen_at=ago[2]))
        session.add(new_device("fine", ago[2], online=True, last_seen_at=ago[0]))
        session.flush()
        for name in ("mute", "fine"):
            session.add(ReportedSlot(device=name, slot="har", version="1", manifest="x"))
    found = read(database, clock)
    assert set(found) == {
        ("devices.overdue", "porto"),
        ("devices.overdue", "faro"),
        ("telemetry.gap", ""),
    }
    assert found["devices.overdue", "porto"].summary == (
        "19 devices at porto offline for long: pi-1 and 18 more"
    )
    assert "mute" in found["telemetry.gap", ""].summary


def drift_row(clock: Clock, level: str, group: str, **more: object) -> DriftStateRow:
    given = {
        "manifest": "sha256:" + "0" * 64,
        "model": "har",
        "version": "1",
        "state": "drifting",
        "since": clock(),
        "until": clock(),
        "rows": 100,
        "findings": [{"feature": "accel_x", "distance": 0.4}],
        "faults": [],
    }
    return DriftStateRow(level=level, group=group, **(given | more))


def test_an_estimate_of_the_accuracy_that_fell(database: Database) -> None:
    clock = Clock()
    states = (("fleet", "", "low"), ("site", "porto", "recovering"), ("site", "faro", "suspected"))
    with database.write() as session:
        for level, group, state in (*states, ("device", "pi-1", "low")):
            session.add(
                AccuracyStateRow(
                    manifest="sha256:" + "0" * 64, level=level, group=group, model="har",
                    version="1", state=state, since=clock(), until=clock(), rows=100, found={},
                )
            )  # fmt: skip
    found = read(database, clock)
    assert set(found) == {("accuracy.fleet", "har@1"), ("accuracy.site", "har@1 porto")}
    assert found["accuracy.site", "har@1 porto"].site == "porto"


def test_drift_and_faults_and_rollouts(database: Database) -> None:
    clock = Clock()
    faults = [{"kind": "constant", "feature": "x"}, {"kind": "clock", "feature": ""}]
    with database.write() as session:
        session.add(new_device("pi-1", clock(), group="porto", last_seen_at=clock(), online=True))
        session.add(new_device("gone", clock(), state="decommissioned"))
        session.add(drift_row(clock, "fleet", ""))
        session.add(drift_row(clock, "site", "porto", state="recovering"))
        session.add(drift_row(clock, "site", "faro", state="suspected"))
        session.add(drift_row(clock, "device", "pi-1", state="quiet", faults=faults))
        session.add(drift_row(clock, "device", "gone", faults=faults))
    found = read(database, clock)
    assert {name: one.severity for name, one in found.items()} == {
        ("drift.fleet", "har@1"): "critical",
        ("drift.site", "har@1 porto"): "critical",
        ("data.constant", "har pi-1"): "warning",
        ("data.clock", "har pi-1"): "warning",
    }
    assert (
        found["drift.site", "har@1 porto"].summary == "har@1 sees other data on site porto: accel_x"
    )
    assert found["data.constant", "har pi-1"].site == "porto"


def test_a_rollout_that_paused_by_itself_is_worse_than_one_that_somebody_paused(
    site: Site, alerting
) -> None:
    site.version()
    with site.database.write() as session:
        version = session.scalars(select(ModelVersion.id)).one()
        for number, note in enumerate(["paused by itself: 3 failed", "paused by anna: lunch"]):
            session.add(
                Rollout(
                    id=f"{number}" * 16, model="har", version_id=version, state="paused",
                    selector={}, policy={}, revision=1, failures_acknowledged=0, note=note,
                    due_at=None, created_at=now(), created_by="anna", finished_at=None,
                    phase_since=None, settled_at=None, tested_until=None,
                )
            )  # fmt: skip
    alerting._look()
    items = {one.kind: one for one in alerting.book.page(PAGE, AlertFilter()).items}
    assert items["rollout.stopped"].severity == "critical"
    assert items["rollout.paused"].severity == "info"
    assert "3 failed" in items["rollout.stopped"].summary
