"""Windows of features in both databases: taken once, added up, judged, shown, or refused."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sqlalchemy import func, select

from edgectl_protocol.messages import TelemetryBatch
from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import Feature, FeatureWindow, Reference, WatchPolicy
from edgectl_server import drift_history
from edgectl_server.domain.drift import Limits
from edgectl_server.drift_lists import DriftFilter, DriftLists
from edgectl_server.drift_views import Asked, DriftViews
from edgectl_server.drift_watch import DriftWatch, Stretch
from edgectl_server.errors import NotFound, Refused
from edgectl_server.features import Counts, Features
from edgectl_server.references import References
from edgectl_server.schemas import UsualDaysChange
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery
from edgectl_server.storage.tables import (
    Device,
    DriftEventRow,
    DriftStateRow,
    FeatureHourRow,
    FeatureWindowRow,
    ReportedSlot,
)
from edgectl_server.usual_days import UsualDaysBook
from server.fleet.fleet_helpers import Clock, new_device
from server.fleet.published import publish

EDGES = (-1.5, -0.5, 0.0, 0.5, 1.5)
ALL = PageQuery("", "", 0, 100)
NOON = datetime(2031, 1, 1, 12, tzinfo=UTC)
SITES = {"pi-0": "porto", "pi-1": "porto", "pi-2": "faro", "pi-3": "faro"}


def bins(values: np.ndarray) -> tuple[int, ...]:
    return tuple(np.bincount(np.searchsorted(EDGES, values, "right"), minlength=6).tolist())


def reference() -> Reference:
    """A reference of two normal features."""
    random = np.random.default_rng(0)
    features = tuple(
        Feature(name=name, edges=EDGES, counts=bins(random.normal(size=4000)), low=-3.5, high=3.5)
        for name in ("x.0", "x.1")
    )
    return Reference(
        definition=1,
        source="evaluation",
        dataset=digest_of(b"data"),
        rows=4000,
        inputs=(),
        features=features,
        classes=(2000, 2000),
    )


@dataclass
class Place:
    """Everything from a device's batch to what is shown."""

    database: Database
    features: Features
    watch: DriftWatch
    views: DriftViews
    lists: DriftLists
    clock: Clock
    manifest: str
    reference: str
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    seq: int = 0

    def window(self, end: datetime, *, moved: float = 0.0, **changes: object) -> FeatureWindow:
        values = self.random.normal(size=(2, 300))
        values[1] += moved
        ones = int(self.random.binomial(300, 0.5))
        whole = FeatureWindow(
            slot="har",
            version="1",
            manifest=self.manifest,
            reference=self.reference,
            start=end - timedelta(minutes=10),
            end=end,
            rows=300,
            skipped=5,
            histograms=tuple(bins(one) for one in values),
            classes=(300 - ones, ones),
        )
        return msgspec.structs.replace(whole, **changes)

    def send(self, device: str, window: FeatureWindow, *, seq: int | None = None) -> str:
        self.seq += 1
        batch = TelemetryBatch(device=device, boot=1, seq=seq or self.seq, features=window)
        with self.database.write() as session:
            return self.features.take(session, session.get_one(Device, device), batch)

    def hour(self, *, moved: dict[str, float] | None = None) -> None:
        """All devices send the windows of the hour that ends, and it is judged."""
        start = self.clock()
        for minute in range(10, 70, 10):
            end = start + timedelta(minutes=minute)
            self.clock.time = end
            for device in SITES:
                assert (
                    self.send(device, self.window(end, moved=(moved or {}).get(device, 0.0))) == ""
                )
        self.clock.advance(minutes=3)
        assert self.watch.look() == 1
        self.clock.time = start + timedelta(hours=1)

    def states(self) -> dict[tuple[str, str], str]:
        with self.database.read() as session:
            rows = session.scalars(select(DriftStateRow)).all()
            return {(row.level, row.group): row.state for row in rows}

    def count(self, table: type) -> int:
        with self.database.read() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0


@pytest.fixture
def place(database: Database, tmp_path: Path) -> Place:
    clock, blobs = Clock(NOON), BlobStore(str(tmp_path / "blobs"))
    manifest, digest = publish(database, blobs, reference())
    with database.write() as session:
        for name, site in SITES.items():
            session.add(new_device(name, NOON, labels={"site": site}))
            session.flush()
            session.add(ReportedSlot(device=name, slot="har", version="1", manifest=manifest))
    references, stretch = References(blobs), Stretch(3600)
    return Place(
        database=database,
        features=Features(
            database=database,
            references=references,
            retention_days=30,
            watch=WatchPolicy(),
            now=clock,
        ),
        watch=DriftWatch(
            database=database,
            references=references,
            stretch=stretch,
            retention_days=30,
            now=clock,
            limits=Limits(false_alarms=0.001),
        ),
        views=DriftViews(database=database, references=references, stretch=stretch),
        lists=DriftLists(database),
        clock=clock,
        manifest=manifest,
        reference=digest,
    )


def test_a_window_is_taken_once(place: Place) -> None:
    window = place.window(NOON)
    for _ in range(3):
        assert place.send("pi-0", window, seq=7) == ""
    assert place.send("pi-1", window, seq=7) == ""
    assert place.count(FeatureWindowRow) == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"end": NOON + timedelta(days=1)}, "in the future"),
        ({"manifest": digest_of(b"another model")}, "nothing is known"),
        ({"reference": digest_of(b"other edges")}, "it counts on"),
        ({"rows": 301}, "300 rows of 301"),
        ({"histograms": ((300, 0), (300, 0))}, "2 bins, expected 6"),
        ({"histograms": ((300, 0, 0, 0, 0, 0),)}, "1 histograms"),
        ({"classes": (100, 100, 100)}, "classes"),
        ({"missing": (1, 0)}, "301 rows of 300"),
        (
            {"rows": 2**40, "histograms": ((2**40, *(0,) * 5),) * 2, "classes": (2**40,)},
            "no device describes 360000",
        ),
    ],
)
def test_what_cannot_be_is_left_out_and_said(
    place: Place, changes: dict[str, object], says: str
) -> None:
    assert says in place.send("pi-0", msgspec.structs.replace(place.window(NOON), **changes))
    assert place.count(FeatureWindowRow) == 0


def test_drift_at_one_site_is_found_shown_and_ends(place: Place) -> None:
    place.hour()
    assert set(place.states().values()) == {"quiet"}
    place.hour(moved={"pi-2": 0.8, "pi-3": 0.8})
    assert place.states()["site", "faro"] == "suspected"
    assert place.count(DriftEventRow) == 0, "once is no drift yet"
    place.hour(moved={"pi-2": 0.8, "pi-3": 0.8})
    states = place.states()
    assert states["site", "faro"] == states["device", "pi-2"] == "drifting"
    assert states["site", "porto"] == states["device", "pi-0"] == "quiet"

    page = place.lists.page(ALL, DriftFilter(model="har", level="site", state="drifting"))
    (faro,) = page.items
    assert (faro.group, [one.feature for one in faro.findings]) == ("faro", ["x.1"])
    detail = place.views.detail(Asked("har", site="faro"))
    moved, *others = detail.features
    assert (moved.feature, moved.moved, moved.edges) == ("x.1", True, list(EDGES))
    assert sum(moved.counts) == 2 * 6 * 300
    assert not any(one.moved for one in others)
    assert [one.group for one in detail.devices] == ["pi-2", "pi-3"]
    whole = place.views.detail(Asked("har", place.manifest))
    assert [one.group for one in whole.sites] == ["faro"]
    assert {one.feature for one in whole.features} == {"x.0", "x.1", "classes"}
    answers = next(one for one in whole.features if one.feature == "classes")
    assert answers.labels == ["still", "moving"]
    one = place.views.detail(Asked("har", device="pi-3"))
    assert (one.windows, one.skipped, one.group.state) == (6, 30, "drifting")

    for _ in range(2):
        place.hour()
    events = place.lists.events(ALL, DriftFilter(model="har")).items
    of_faro = [event.kind for event in events if event.group == "faro"]
    assert of_faro == ["drift.ended", "drift.began"]


def test_numbers_of_a_bundle_are_those_of_the_lists_they_lead_to(place: Place) -> None:
    for _ in range(2):
        place.hour(moved={"pi-2": 0.8, "pi-3": 0.8})
    (one,) = place.lists.summary(ALL, model="har").items
    for level, counts in (("site", one.sites), ("device", one.devices)):
        for state, number in counts.model_dump().items():
            asked = DriftFilter(manifest=place.manifest, level=level, state=state)
            assert place.lists.page(ALL, asked).total == number, (level, state)
    assert (one.sites.drifting, one.devices.drifting, one.faulty) == (1, 2, 0)
    assert place.lists.page(ALL, DriftFilter(faulty=True)).total == 0
    of_faro = place.lists.page(ALL, DriftFilter(site="faro")).items
    assert [row.group for row in of_faro] == ["faro", "pi-2", "pi-3"]
    events = place.lists.events(ALL, DriftFilter(site="porto")).items
    assert events == []
    assert place.lists.events(ALL, DriftFilter(device="pi-3")).total == 1
    assert place.lists.summary(ALL, model="another").total == 0


@pytest.mark.parametrize("hours", [4, 20], ids=["of windows", "of hours"])
def test_the_history_tells_when_a_group_left_its_reference(place: Place, hours: int) -> None:
    moved = {"pi-2": 0.8, "pi-3": 0.8}
    for number in range(6):
        place.hour(moved=moved if number > 3 else {})
    assert place.features.roll_up() > 0, "some are in the sums of their hours, some not yet"
    course = place.views.history(Asked("har"), since_s=hours * 3600)
    assert (course.level, course.step_s, course.devices_read) == ("fleet", 3600, 4)
    assert len(course.times) == len(course.rows) == hours
    assert course.rows[-4:] == [4 * 6 * 300] * 4, "each row once"
    first = course.features[0]
    assert first.feature == "x.1"
    assert [one is not None and one > 0.1 for one in first.distance[-4:]] == [
        False, False, True, True,
    ]  # fmt: skip
    assert all(one is not None for one in first.p_value[-4:])
    if hours > 6:
        assert first.distance[0] is None, "nothing was sent then"
    (asked,) = place.views.history(
        Asked("har", site="porto"), since_s=hours * 3600, features=["x.1"]
    ).features
    assert max(one or 0 for one in asked.distance) < 0.1
    # Two devices do not tell by their hours how rows resemble one another.
    assert (set(asked.p_value) == {None}) is (hours > 6)


def test_of_a_large_group_the_history_reads_some_devices(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.hour()
    monkeypatch.setattr(drift_history, "ROWS_MAX", 12)
    course = place.views.history(Asked("har"), since_s=3600)
    assert (course.devices, course.devices_read, course.rows) == (4, 2, [2 * 6 * 300])


def test_a_stretch_is_judged_once(place: Place) -> None:
    place.hour()
    place.clock.advance(minutes=3)
    assert place.watch.look() == 0
    place.clock.advance(hours=1)
    assert place.watch.look() == 0, "nothing came"


def test_a_stuck_sensor_is_a_fault_of_the_data(place: Place) -> None:
    place.hour()
    start = place.clock()
    for minute in range(10, 70, 10):
        end = start + timedelta(minutes=minute)
        place.clock.time = end
        stuck = place.window(end)
        histograms = (stuck.histograms[0], (0, 0, 0, 0, 0, 300))
        place.send("pi-0", msgspec.structs.replace(stuck, histograms=histograms))
    place.clock.advance(minutes=3)
    place.watch.look()
    (event,) = place.lists.events(ALL, DriftFilter()).items
    assert (event.kind, event.group) == ("data.began", "pi-0")
    assert [(one.kind, one.feature) for one in event.faults] == [("constant", "x.1")]


def test_too_few_rows_do_not_end_a_fault(place: Place) -> None:
    def stuck(rows: int) -> None:
        start = place.clock()
        for minute in range(10, 70, 10):
            place.clock.time = start + timedelta(minutes=minute)
            window = place.window(place.clock())
            only = ((0,) * 5 + (rows,), (0,) * 5 + (rows,))
            place.send(
                "pi-0",
                msgspec.structs.replace(window, rows=rows, histograms=only, classes=(rows, 0)),
            )
        place.clock.advance(minutes=3)
        assert place.watch.look() == 1
        place.clock.time = start + timedelta(hours=1)

    def told() -> list[str]:
        return [one.kind for one in place.lists.events(ALL, DriftFilter(device="pi-0")).items]

    stuck(100)
    assert told() == ["data.began"]
    stuck(8)
    assert told() == ["data.began"], "48 rows say nothing"
    place.hour()
    assert told() == ["data.ended", "data.began"]


def test_nothing_is_told_of_what_was_not_judged(place: Place) -> None:
    for asked in (Asked("har", site="faro"), Asked("har", device="pi-9"), Asked("har")):
        with pytest.raises(NotFound, match="nothing was judged"):
            place.views.detail(asked)
        with pytest.raises(NotFound, match="nothing was judged"):
            place.views.history(asked, since_s=3600)
    assert place.lists.page(ALL, DriftFilter()).total == 0


def test_windows_are_added_up_by_hour_once_also_when_they_come_late(place: Place) -> None:
    early = [place.window(NOON + timedelta(minutes=minute)) for minute in (10, 20)]
    gone = ((0,) * 6, (300, *(0,) * 5))
    late = place.window(NOON + timedelta(minutes=30), missing=(300, 0), histograms=gone)
    place.clock.advance(minutes=30)
    for window in early:
        place.send("pi-0", window)
    assert place.features.roll_up() == 0, "the hour goes on"
    place.clock.advance(hours=4)
    assert place.features.roll_up() == 2
    place.send("pi-0", late)
    assert place.features.roll_up() == 1
    assert place.features.roll_up() == 0
    with place.database.read() as session:
        (hour,) = session.scalars(select(FeatureHourRow)).all()
    assert (hour.windows, hour.rows, hour.skipped) == (3, 900, 15)
    counts = msgspec.convert(hour.counts, Counts)
    expected = np.sum([one.histograms[0] for one in early], axis=0)
    assert list(counts.histograms[0]) == expected.tolist()
    assert counts.missing == (300, 0)
    assert sum(counts.classes) == 900

    place.clock.advance(days=4)
    place.features.delete_old()
    assert (place.count(FeatureWindowRow), place.count(FeatureHourRow)) == (0, 1)
    place.clock.advance(days=30)
    place.features.delete_old()
    assert place.count(FeatureHourRow) == 0


def test_a_device_that_has_left_is_judged_no_more(place: Place) -> None:
    place.hour()
    with place.database.write() as session:
        session.get_one(Device, "pi-3").state = "decommissioned"
    place.hour(moved={"pi-3": 3.0})
    place.hour(moved={"pi-3": 3.0})
    assert "drifting" not in place.states().values()
    place.clock.advance(days=40)
    place.watch.delete_old()
    assert place.states() == {}


def test_drift_ends_with_the_bundle_that_has_drifted(place: Place) -> None:
    for _ in range(2):
        place.hour(moved=dict.fromkeys(SITES, 0.8))
    stuck = [{"kind": "constant", "feature": "x.1", "share": 1.0}]
    with place.database.write() as session:
        for state in session.scalars(select(DriftStateRow).where(DriftStateRow.level == "device")):
            state.faults = stuck
        for name in ("pi-0", "pi-1", "pi-2"):
            session.get_one(ReportedSlot, (name, "har")).manifest = digest_of(b"the next one")
    before = place.states()
    assert set(before.values()) == {"drifting"}
    place.watch.look()
    assert place.states() == before, "its last stretch has just been judged"
    place.clock.advance(hours=2, minutes=3)
    place.watch.look()
    served = {("fleet", ""), ("site", "faro"), ("device", "pi-3")}
    assert {name for name, state in place.states().items() if state == "drifting"} == served
    ended = [one for one in place.lists.events(ALL, DriftFilter()).items if "ended" in one.kind]
    assert {(one.kind, one.group) for one in ended} == {
        ("drift.ended", "porto"),
        *((kind, f"pi-{n}") for kind in ("drift.ended", "data.ended") for n in range(3)),
    }
    assert all(one.replaced for one in ended), "nothing has become better"
    place.watch.look()
    assert place.lists.events(ALL, DriftFilter()).total == 7 + len(ended), "told once"


def day(place: Place, *, night: float = 0.0, more: dict[str, float] | None = None) -> None:
    """An hour at noon and one at midnight of the next day; by night all devices see otherwise."""
    place.hour(moved=dict.fromkeys(SITES, 0.0) | (more or {}))
    place.clock.advance(hours=11)
    place.hour(moved=dict.fromkeys(SITES, night) | (more or {}))
    place.clock.advance(hours=11)


def test_what_usual_days_have_seen_at_that_hour_is_no_drift(place: Place) -> None:
    book = UsualDaysBook(place.database, place.clock)
    with pytest.raises(NotFound):
        book.get("har")
    for _ in range(4):
        day(place, night=0.8)
    assert place.features.roll_up() > 0
    place.clock.advance(hours=3)
    while place.features.roll_up():
        pass
    place.clock.time = NOON + timedelta(days=4)
    for since, until in ((0, 2), (0, 5), (3, 2), (-100, 3)):
        with pytest.raises(Refused):
            book.put("har", days(since, until), "anna")
    with pytest.raises(NotFound):
        book.put("unknown", days(0, 4), "anna")
    assert book.put("har", days(0, 4), "anna").set_by == "anna"
    assert book.get("har").until == NOON + timedelta(days=4)

    day(place, night=0.8)
    day(place, night=0.8)
    assert set(place.states().values()) == {"quiet"}, "by night it was so on usual days too"
    day(place, night=0.8, more={"pi-2": 2.0})
    assert place.states()["device", "pi-2"] == "drifting"
    assert place.states()["device", "pi-0"] == "quiet"
    place.hour(moved=dict.fromkeys(SITES, 0.8))
    assert place.states()["fleet", ""] in {"suspected", "drifting"}, "by day it is not usual"

    place.clock.advance(days=40)
    while place.features.roll_up():
        pass
    place.features.delete_old()
    with place.database.read() as session:
        kept = session.scalars(select(FeatureHourRow.hour)).all()
    assert len(set(kept)) == 8, "of usual days alone"
    book.delete("har")
    with pytest.raises(NotFound):
        book.delete("har")
    place.features.delete_old()
    assert place.count(FeatureHourRow) == 0


def days(since: int, until: int) -> UsualDaysChange:
    return UsualDaysChange(since=NOON + timedelta(days=since), until=NOON + timedelta(days=until))
