"""What the fleet's pages count, list and do, on both databases."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs
from sqlalchemy import select

from edgectl_protocol.histograms import LATENCY_EDGES_US
from edgectl_protocol.messages import Installed, ReportedState, SlotReport, SystemSample
from edgectl_protocol.update import UpdateState
from edgectl_server.device_actions import DeviceActions
from edgectl_server.device_filter import (
    DeviceFilter,
    Moment,
    conditions_of,
    is_overdue,
    overdue_since,
    site_column,
)
from edgectl_server.device_selection import compile_selector, read_selector
from edgectl_server.domain.selectors import MOMENTARY
from edgectl_server.errors import Conflict, NotFound, Refused
from edgectl_server.fleet_counts import count_fleet, list_sites
from edgectl_server.labels import Labels
from edgectl_server.schemas import LabelRequest, SiteInfo
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    Device,
    ReportedSlot,
    SecurityEventRow,
    SystemSampleRow,
    TelemetryWindow,
)
from edgectl_server.telemetry_series import read_series
from server.fleet.fleet_by_hand import PAGE, Fleet
from server.fleet.fleet_helpers import Clock, new_device

CLOCK = Clock()
NOW = CLOCK()
BEFORE = NOW - timedelta(hours=1)
LONG_AGO = NOW - timedelta(days=2)
PORTO = {"site": "porto", "lat": "41.15", "lon": "-8.61"}
FLEET: dict[str, dict[str, Any]] = {
    "p1": {"online": True, "labels": PORTO, "last_seen_at": LONG_AGO},
    "p2": {"labels": {**PORTO, "lat": "north"}, "last_seen_at": NOW},
    "p3": {"labels": PORTO, "last_seen_at": LONG_AGO},
    "g1": {"group": "gdansk", "labels": {"lat": "91", "lon": "18"}, "enrolled_at": LONG_AGO},
    "g2": {"group": "gdansk", "labels": {"lat": "nan", "lon": "18"}, "held_at": NOW},
    "x1": {},
    "gone": {"state": "revoked", "labels": PORTO, "held_at": NOW, "last_seen_at": LONG_AGO},
}
SLOTS = [
    ("p1", "2", UpdateState.COMMITTED),
    ("p2", "1", UpdateState.ROLLED_BACK),
    ("p3", "1", UpdateState.DOWNLOADING),
    ("g1", "2", None),
    ("gone", "1", UpdateState.FAILED),
]


@pytest.fixture
def filled(database: Database) -> Database:
    with database.write() as session:
        session.add_all(new_device(name, NOW, **fields) for name, fields in FLEET.items())
        session.flush()
        session.add_all(
            ReportedSlot(
                device=name, slot="har", version=version, manifest=None,
                update_state=None if state is None else state.value,
            )
            for name, version, state in SLOTS
        )  # fmt: skip
        session.add_all(
            SecurityEventRow(
                device=name, key="1", source="server", at=NOW, until=NOW, received_at=at,
                code="report.signature", detail="", count=1, order=None,
            )
            for name, at in (("p1", NOW), ("x1", LONG_AGO), ("gone", NOW))
        )  # fmt: skip
    return database


def listed(database: Database, **asked: Any) -> str:
    """Return the devices that a filter lists."""
    conditions = conditions_of(DeviceFilter(**asked), Moment(NOW, BEFORE))
    with database.read() as session:
        found = select(Device.id).where(*conditions).order_by(Device.id)
        return " ".join(session.scalars(found))


def sites(database: Database, **asked: Any) -> list[SiteInfo]:
    paging = PAGE._replace(**asked)
    with database.read() as session:
        return list_sites(session, paging, overdue_before=BEFORE, now=NOW).items


def test_every_number_of_the_fleet_is_that_of_the_list_it_leads_to(filled: Database) -> None:
    with filled.read() as session:
        found = count_fleet(session, overdue_before=BEFORE, now=NOW)
    lists = {
        "devices": listed(filled),
        "online": listed(filled, online=True),
        "offline": listed(filled, online=False),
        "overdue": listed(filled, overdue=True),
        "updating": listed(filled, updating=True),
        "failing": listed(filled, failing=True),
        "held": listed(filled, held=True),
        "security": listed(filled, security=True),
    }
    assert lists == {
        "devices": "g1 g2 p1 p2 p3 x1",
        "online": "p1",
        "offline": "g1 g2 p2 p3 x1",
        "overdue": "g1 p3",  # who is online may be silent; who never came counts from its enrolment
        "updating": "p3",
        "failing": "p2",
        "held": "g2",
        "security": "p1",
    }
    assert {name: getattr(found, name) for name in lists} == {
        name: len(names.split()) for name, names in lists.items()
    }
    shares = [(one.model, one.version, one.devices) for one in found.versions]
    assert shares == [("har", "1", 2), ("har", "2", 2)]
    for model, version, devices in shares:
        assert len(listed(filled, model=model, version=version).split()) == devices


def test_overdue_is_the_same_in_a_row_and_in_a_statement(filled: Database) -> None:
    with filled.read() as session:
        rows = session.scalars(select(Device).where(Device.state == "enrolled")).all()
        said = {row.id for row in rows if is_overdue(row, BEFORE)}
        wanted = select(Device.id).where(Device.state == "enrolled", overdue_since(BEFORE))
        assert said == set(session.scalars(wanted))
        assert not is_overdue(session.get_one(Device, "gone"), BEFORE), "nobody waits for it"


def selected(database: Database, site: str, asked: dict[str, bool]) -> str:
    """Return the devices of a site that a selector means which says the same as a filter."""
    text = " and ".join(f"{name}={str(value).lower()}" for name, value in asked.items())
    with database.read() as session:
        meant = compile_selector(read_selector(session, text or "device=*"), Moment(NOW, BEFORE))
        wanted = select(Device.id).where(Device.state == "enrolled", site_column() == site, meant)
        return " ".join(session.scalars(wanted.order_by(Device.id)))


@pytest.mark.parametrize("name", sorted(MOMENTARY))
def test_a_selector_lists_what_the_filter_does_and_its_opposite(
    filled: Database, name: str
) -> None:
    for site in ("porto", "gdansk", ""):
        yes, no = ({name: value} for value in (True, False))
        assert selected(filled, site, yes) == listed(filled, site=site, **yes)
        assert selected(filled, site, no) == listed(filled, site=site, **no)
        both = (selected(filled, site, yes) + " " + selected(filled, site, no)).split()
        assert sorted(both) == listed(filled, site=site).split()


def test_every_number_of_a_site_is_that_of_its_list(filled: Database) -> None:
    found = {one.site: one for one in sites(filled)}
    assert list(found) == ["porto", "gdansk", ""], "the largest first"
    assert listed(filled, site="") == "x1"
    for site, one in found.items():
        for name, asked in {
            "devices": {},
            "online": {"online": True},
            "overdue": {"overdue": True},
            "failing": {"failing": True},
            "security": {"security": True},
        }.items():
            names = listed(filled, site=site, **asked)
            assert getattr(one, name) == len(names.split()), (site, name, names)
            assert selected(filled, site, asked) == names
        for share in one.versions:
            names = listed(filled, site=site, model=share.model, version=share.version)
            assert share.devices == len(names.split())
    porto = found["porto"]
    assert (porto.latitude, porto.longitude) == (41.15, -8.61), "where most of them say"
    assert [(one.version, one.devices) for one in porto.versions] == [("1", 2), ("2", 1)]
    assert (found["gdansk"].latitude, found[""].longitude) == (None, None), "91 and nan are nowhere"


def test_sites_are_searched_sorted_and_paged(filled: Database) -> None:
    assert [one.site for one in sites(filled, q="PORT")] == ["porto"]
    assert [one.site for one in sites(filled, q="%")] == []
    assert [one.site for one in sites(filled, sort="site")] == ["", "gdansk", "porto"]
    assert [one.site for one in sites(filled, sort="-overdue", limit=1, offset=1)] == ["gdansk"]
    with pytest.raises(Refused) as caught:
        sites(filled, sort="latitude")
    assert caught.value.code == "request.sort"


def test_labels_are_given_to_as_many_as_was_said_or_to_none(filled: Database) -> None:
    labels = Labels(database=filled, now=CLOCK)
    with pytest.raises(Conflict) as caught:
        labels.change(LabelRequest(where="site=porto", set={"hw": "rpi4"}, expected=4))
    assert (caught.value.code, caught.value.data) == ("labels.expected", {"devices": 3})
    with filled.read() as session:
        assert "hw" not in session.get_one(Device, "p1").labels
    done = labels.change(LabelRequest(where="site=porto", set={"hw": "rpi4"}, expected=3))
    assert (done.matched, done.changed) == (3, 3)


# ---------------------------------------------------------------- hold, release, roll back


@pytest.fixture
def fleet(tmp_path: Path, database: Database) -> Fleet:
    fleet = Fleet(tmp_path, database)
    fleet.version("1")
    fleet.version("2")
    fleet.add("a", "b")
    return fleet


@pytest.fixture
def actions(fleet: Fleet) -> DeviceActions:
    return DeviceActions(database=fleet.database, ordering=fleet.ordering, now=fleet.clock)


def test_no_rollout_begins_on_a_held_device(fleet: Fleet, actions: DeviceActions) -> None:
    actions.hold("a", "anna", "on the bench")
    rollout = fleet.start("1")
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"a": "pending", "b": "in_progress"}
    fleet.report("b", UpdateState.COMMITTED)
    fleet.rollouts.tick()
    assert fleet.show(rollout).state == "running"
    assert "1 held device" in fleet.show(rollout).note
    actions.release("a")
    fleet.clock.advance(seconds=60)
    fleet.rollouts.tick()
    assert fleet.states(rollout)["a"] == "in_progress"


def test_a_hold_lets_an_abort_reach_the_device(fleet: Fleet, actions: DeviceActions) -> None:
    rollout = fleet.start("1", ["a"])
    fleet.rollouts.tick()
    assert fleet.order("a").slots["har"].version == "1"
    actions.hold("a", "anna", "")
    fleet.rollouts.abort(rollout, "anna", "bad")
    fleet.rollouts.tick()
    assert "har" not in fleet.order("a").slots, "a hold must not keep a bad model in place"


def ran_before(fleet: Fleet, name: str, version: str) -> str:
    """Have a device say what it ran before; return the manifest."""
    manifest = next(iter(fleet.manifests[version].values()))
    before = Installed(version=version, variant="int8", manifest=manifest, since=fleet.clock())
    with fleet.database.write() as session:
        device = session.get_one(Device, name)
        state = msgspec.convert(device.reported, ReportedState)
        slots = {"har": SlotReport(previous=before)}
        device.reported = msgspec.to_builtins(structs.replace(state, slots=slots))
    return manifest


def test_a_device_goes_back_to_the_very_manifest_from_before(
    fleet: Fleet, actions: DeviceActions
) -> None:
    manifest = ran_before(fleet, "a", "1")
    actions.roll_back("a", "har", "1")
    slot = fleet.order("a").slots["har"]
    assert (slot.version, [one.manifest for one in slot.candidates]) == ("1", [manifest])
    assert slot.rollout is None


def refusal(act: Any) -> str:
    with pytest.raises((Conflict, NotFound)) as caught:
        act()
    return caught.value.code


def test_what_cannot_be_rolled_back_is_refused(fleet: Fleet, actions: DeviceActions) -> None:
    assert refusal(lambda: actions.roll_back("nobody", "har", None)) == "device.unknown"
    assert refusal(lambda: actions.roll_back("a", "har", None)) == "device.no_previous"
    ran_before(fleet, "a", "1")
    assert refusal(lambda: actions.roll_back("a", "kws", None)) == "device.no_previous"
    assert refusal(lambda: actions.roll_back("a", "har", "2")) == "device.other_previous"
    rollout = fleet.start("2", ["a"])
    assert refusal(lambda: actions.roll_back("a", "har", "1")) == "rollout.conflict"
    fleet.rollouts.abort(rollout, "anna", "")
    for _ in range(3):
        fleet.clock.advance(seconds=60)
        fleet.rollouts.tick()
    with fleet.database.write() as session:
        session.get_one(Device, "a").state = "revoked"
    assert refusal(lambda: actions.roll_back("a", "har", "1")) == "device.not_enrolled"
    assert refusal(lambda: actions.hold("a", "anna", "")) == "device.not_enrolled"
    assert fleet.order("b") is None


# ---------------------------------------------------------------- telemetry over time


def window(device: str, minutes: int, *, seq: int, latency: list[int], **fields: Any) -> Any:
    at = NOW - timedelta(minutes=minutes)
    values: dict[str, Any] = {
        "device": device, "boot": 1, "seq": seq, "number": 0, "slot": "har", "version": "1",
        "manifest": "sha256:" + "0" * 64, "start": at, "end": at, "received_at": at,
        "requests": sum(latency), "errors": 1, "non_finite": 0, "refused": 0,
        "latency": latency, "confidence": [], "classes": [],
    }  # fmt: skip
    return TelemetryWindow(**{**values, **fields})


def sample(device: str, minutes: int, seq: int, temperature: float | None) -> Any:
    at = NOW - timedelta(minutes=minutes)
    content = msgspec.to_builtins(SystemSample(at=at, temperature_c=temperature, load_1min=0.5))
    return SystemSampleRow(device=device, boot=1, seq=seq, at=at, received_at=at, sample=content)


def test_a_series_adds_up_what_came_in_each_step(database: Database) -> None:
    low, high = [0] * 42, [0] * 42
    low[10], high[20] = 10, 10
    with database.write() as session:
        session.add_all(
            [
                window("p1", 55, seq=1, latency=low),
                window("p1", 54, seq=2, latency=high),
                window("p1", 5, seq=3, latency=low),
                window("p1", 90, seq=4, latency=low),  # before it begins
                window("p2", 5, seq=1, latency=high),  # of another device
                sample("p1", 55, 1, 40.0),
                sample("p1", 54, 2, 50.0),
                sample("p1", 5, 3, None),
            ]
        )
    with database.read() as session:
        found = read_series(session, "p1", since_s=3600, points=6, now=NOW)
        nothing = read_series(session, "nobody", since_s=3600, points=6, now=NOW)
    assert (found.step_s, len(found.times), found.times[-1]) == (600.0, 6, NOW)
    (slot,) = found.slots
    assert slot.requests == [20, 0, 0, 0, 0, 10]
    assert slot.errors == [2, 0, 0, 0, 0, 1]
    silent = [None] * 4
    assert slot.latency_p50_us == [LATENCY_EDGES_US[10], *silent, LATENCY_EDGES_US[10]]
    assert slot.latency_p95_us == [LATENCY_EDGES_US[20], *silent, LATENCY_EDGES_US[10]]
    assert found.health["temperature_c"] == [45.0, None, None, None, None, None]
    assert found.health["load_1min"] == [0.5, *silent, 0.5]
    assert (nothing.slots, nothing.health) == ([], {})
