"""Accuracy without labels in both databases: from telemetry to what is shown and told."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select

from edgectl_protocol.histograms import CONFIDENCE_EDGES
from edgectl_protocol.messages import InferenceWindow, TelemetryBatch
from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import Feature, Reference
from edgectl_server import accuracy_watch
from edgectl_server.accuracy_views import AccuracyViews
from edgectl_server.accuracy_watch import AccuracyWatch
from edgectl_server.domain.accuracy import AccuracyLimits
from edgectl_server.drift_lists import DriftFilter, DriftLists
from edgectl_server.drift_watch import Stretch
from edgectl_server.errors import NotFound
from edgectl_server.references import References
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery
from edgectl_server.storage.tables import (
    AccuracyPointRow,
    AccuracyStateRow,
    Device,
    ReportedSlot,
    SampleRow,
)
from edgectl_server.telemetry import Telemetry
from server.fleet.fleet_helpers import Clock, new_device
from server.fleet.published import publish
from server.learning.store import upload_row

ALL = PageQuery("", "", 0, 100)
NOON = datetime(2031, 1, 1, 12, tzinfo=UTC)
SITES = {"pi-0": "porto", "pi-1": "porto", "pi-2": "faro", "pi-3": "faro"}
BINS = len(CONFIDENCE_EDGES) + 1


def at(places: dict[int, int]) -> tuple[int, ...]:
    return tuple(places.get(place, 0) for place in range(BINS))


def reference(*, labels: bool = True) -> Reference:
    """Half of the answers are sure and right, half unsure, of which half are right: 0.75."""
    return Reference(
        definition=1,
        source="evaluation",
        dataset=digest_of(b"data"),
        rows=2000,
        inputs=(),
        features=(Feature(name="x", edges=(0.0,), counts=(1000, 1000), low=-1, high=1),),
        classes=(1000, 1000),
        confidence=at({10: 1000, 19: 1000}) if labels else (),
        right=at({10: 500, 19: 1000}) if labels else (),
    )


@dataclass
class Place:
    """Everything from a device's batch to what is shown."""

    database: Database
    blobs: BlobStore
    telemetry: Telemetry
    watch: AccuracyWatch
    views: AccuracyViews
    events: DriftLists
    clock: Clock
    manifest: str = ""
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    seq: int = 0

    def send(self, device: str, end: datetime, **changes: object) -> None:
        self.seq += 1
        fields: dict[str, object] = {
            "slot": "har",
            "version": "1",
            "manifest": self.manifest,
            "start": end - timedelta(minutes=1),
            "end": end,
            "requests": 100,
            **changes,
        }
        batch = TelemetryBatch(
            device=device, boot=1, seq=self.seq, windows=(InferenceWindow(**fields),)
        )
        with self.database.write() as session:
            self.telemetry.take_batch(session, session.get_one(Device, device), batch)

    def hour(
        self, *, unsure: dict[str, float] | None = None, ones: dict[str, float] | None = None
    ) -> None:
        """All devices answer for an hour, and it is judged."""
        start = self.clock()
        for minute in range(5, 65, 5):
            end = start + timedelta(minutes=minute)
            self.clock.time = end
            for device in SITES:
                low = int(self.random.binomial(100, (unsure or {}).get(device, 0.5)))
                one = int(self.random.binomial(100, (ones or {}).get(device, 0.5)))
                self.send(
                    device,
                    end,
                    confidence=at({10: low, 19: 100 - low}),
                    classes=(100 - one, one),
                )
        self.clock.advance(minutes=3)
        self.watch.look()
        self.clock.time = start + timedelta(hours=1)

    def states(self) -> dict[tuple[str, str], str]:
        with self.database.read() as session:
            rows = session.scalars(select(AccuracyStateRow)).all()
            return {(row.level, row.group): row.state for row in rows}

    def count(self, table: type) -> int:
        with self.database.read() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0


@pytest.fixture
def place(database: Database, tmp_path: Path) -> Place:
    clock, blobs = Clock(NOON), BlobStore(str(tmp_path / "blobs"))
    manifest = publish(database, blobs, reference())[0]
    with database.write() as session:
        for name, site in SITES.items():
            session.add(new_device(name, NOON, labels={"site": site}))
            session.flush()
            session.add(ReportedSlot(device=name, slot="har", version="1", manifest=manifest))
    references, stretch = References(blobs), Stretch(3600)
    parts = {"database": database, "references": references, "stretch": stretch}
    limits = AccuracyLimits(false_alarms=0.001)
    return Place(
        database=database,
        blobs=blobs,
        telemetry=Telemetry(database=database, retention_days=30, now=clock),
        watch=AccuracyWatch(**parts, retention_days=30, now=clock, limits=limits),
        views=AccuracyViews(**parts),
        events=DriftLists(database),
        clock=clock,
        manifest=manifest,
    )


def test_a_quiet_fleet_is_as_good_as_at_push(place: Place) -> None:
    place.hour()
    assert set(place.states().values()) == {"good"}
    assert len(place.states()) == 1 + 2 + 4
    page = place.views.page(ALL, model="har", level="fleet", state=None)
    found = page.items[0].found
    assert page.items[0].rows == 4 * 12 * 100
    assert found.reference == pytest.approx(0.75)
    assert found.accuracy == pytest.approx(0.75, abs=0.01)
    assert found.low < 0.75 < found.high
    assert place.watch.look() == 0  # judged once
    assert place.events.events(ALL, DriftFilter()).total == 0


def test_a_site_that_is_less_sure_falls_and_recovers(place: Place) -> None:
    porto = {"pi-0": 0.9, "pi-1": 0.9}
    place.hour()
    place.hour(unsure=porto)
    assert place.states()["site", "porto"] == "suspected"
    place.hour(unsure=porto)
    states = place.states()
    assert states["site", "porto"] == states["device", "pi-0"] == "low"
    assert states["site", "faro"] == states["device", "pi-2"] == "good"
    place.hour()
    place.hour()
    assert place.states()["site", "porto"] == "good"
    told = [
        (one.kind, one.level, one.group)
        for one in reversed(place.events.events(ALL, DriftFilter(model="har")).items)
        if one.level == "site"
    ]
    assert told == [("accuracy.fell", "site", "porto"), ("accuracy.recovered", "site", "porto")]
    assert not any(one.replaced for one in place.events.events(ALL, DriftFilter()).items)
    fell = place.events.events(ALL, DriftFilter(model="har")).items[-1]
    assert fell.accuracy is not None
    assert fell.accuracy.cause == "confidence"


def test_a_fall_ends_with_the_bundle_that_has_fallen(place: Place) -> None:
    for _ in range(2):
        place.hour(unsure=dict.fromkeys(SITES, 0.9))
    assert set(place.states().values()) == {"low"}
    with place.database.write() as session:
        for name in ("pi-0", "pi-1"):
            session.get_one(ReportedSlot, (name, "har")).manifest = digest_of(b"the next one")
    place.watch.look()
    assert set(place.states().values()) == {"low"}, "its last stretch has just been judged"
    place.clock.advance(hours=2, minutes=3)
    for _ in range(2):
        place.watch.look()
    gone = {("site", "porto"), ("device", "pi-0"), ("device", "pi-1")}
    assert {name for name, state in place.states().items() if state == "unknown"} == gone
    told = place.events.events(ALL, DriftFilter()).items
    ended = [one for one in told if one.kind == "accuracy.recovered"]
    assert [one.replaced for one in ended] == [True] * 3, "nothing has recovered"
    shown = place.views.detail("har", manifest=None, site="porto", device=None)
    assert shown.group.found.accuracy is not None, "what was found of it stays"


def test_another_mix_of_answers_is_a_fall_of_sites_and_not_of_devices(place: Place) -> None:
    faro = {"pi-2": 0.9, "pi-3": 0.9}
    place.hour(ones=faro)
    place.hour(ones=faro)
    states = place.states()
    assert states["site", "faro"] == "low"
    assert states["device", "pi-2"] == "good"
    shown = place.views.detail("har", manifest=None, site="faro", device=None)
    assert shown.group.found.cause == "classes"
    assert shown.group.found.by_classes == pytest.approx(0.75 - 0.4, abs=0.03)
    assert shown.group.found.accuracy == pytest.approx(0.75, abs=0.02)


def test_it_is_shown_from_what_an_estimate_is_made(place: Place) -> None:
    place.hour()
    place.hour(unsure={"pi-0": 0.9, "pi-1": 0.9})
    place.hour(unsure={"pi-0": 0.9, "pi-1": 0.9})
    shown = place.views.detail("har", manifest=None, site=None, device=None)
    assert [(one.low, one.reference_rows, one.right, one.share) for one in shown.bins] == [
        (0.5, 1000, 500, 0.5),
        (0.95, 1000, 1000, 1.0),
    ]
    assert sum(one.rows for one in shown.bins) == shown.group.rows
    assert len(shown.points) == 3
    assert {(one.level, one.group) for one in shown.low} == {
        ("site", "porto"),
        ("device", "pi-0"),
        ("device", "pi-1"),
    }
    of_one = place.views.detail("har", manifest=place.manifest, site=None, device="pi-0")
    assert of_one.points == []
    with pytest.raises(NotFound, match="no accuracy of har"):
        place.views.detail("har", manifest=None, site="lisboa", device=None)


def label(place: Place, number: int, device: str, **changes: object) -> None:
    """A sample of a device, with its answer and what its labellers agree on."""
    fields: dict[str, object] = {
        "device": device,
        "model": "har",
        "version": "1",
        "manifest": place.manifest,
        "reason": "random",
        "taken_at": NOON + timedelta(minutes=30),
        "answer": 1,
        "label_state": "labelled",
        "label": "moving",
        "label_number": 1,
        **changes,
    }
    digest = digest_of(b"%d" % number)
    with place.database.write() as session:
        upload = upload_row(device, digest, 1, NOON)
        session.add(upload)
        session.flush()
        session.add(
            SampleRow(
                id=f"{number:016x}", upload=upload.id, digest=digest, received_at=NOON, length=1,
                tensors=[], confidence=0.9, **fields,
            )
        )  # fmt: skip


def test_labels_that_come_late_stand_beside_the_estimate(place: Place) -> None:
    place.hour()
    place.hour()
    for number in range(20):
        label(place, number, f"pi-{number % 4}", answer=int(number > 1))
    label(place, 50, "pi-0", answer=0, reason="uncertain")
    label(place, 51, "pi-0", label_state="conflict", label_number=-1)
    label(place, 52, "pi-0", answer=-1)
    label(place, 53, "pi-0", taken_at=NOON + timedelta(minutes=90))
    label(place, 54, "pi-0", manifest=digest_of(b"another"))
    fleet = place.views.detail("har", manifest=None, site=None, device=None)
    assert (fleet.true.rows, fleet.true.right) == (21, 19)
    assert (fleet.true.chosen, fleet.true.chosen_right) == (1, 0)
    assert fleet.true.low < 19 / 21 < fleet.true.high
    assert [one.true.rows for one in fleet.points] == [20, 1]
    assert [one.true.accuracy for one in fleet.points] == [0.9, 1.0]
    site = place.views.detail("har", manifest=None, site="faro", device=None)
    assert (site.true.rows, site.true.accuracy) == (10, 1.0)
    device = place.views.detail("har", manifest=None, site=None, device="pi-1")
    assert (device.true.rows, device.true.right) == (5, 4)


def test_without_labels_it_is_said_once(place: Place) -> None:
    place.manifest = publish(place.database, place.blobs, reference(labels=False), "other")[0]
    place.hour()
    assert place.states() == {("fleet", ""): "unknown"}
    shown = place.views.page(ALL, model="other", level=None, state="unknown").items[0].found
    assert (shown.unknown, shown.accuracy, shown.reference) == ("labels", None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"confidence": at({19: 2**50}), "classes": (1,)},
        {"confidence": at({0: 100}), "classes": (0, 0, 100)},
        {"confidence": at({0: 100}), "classes": (2**60, 2**60)},
        {"confidence": (), "classes": ()},
        {"confidence": at({0: 100}), "manifest": digest_of(b"another model")},
    ],
)
def test_counts_that_cannot_be_move_nothing(place: Place, changes: dict[str, object]) -> None:
    place.send("pi-0", NOON + timedelta(minutes=7), **changes)
    place.hour()
    found = place.views.detail("har", manifest=place.manifest, site=None, device="pi-0").group
    assert found.rows == 1200
    assert place.states()["device", "pi-0"] == "good"


def test_of_too_many_windows_some_are_read_of_each_device(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy_watch, "WINDOWS_MAX", 17)
    place.hour()
    rows = place.views.page(ALL, model="har", level="fleet", state=None).items[0].rows
    assert 0 < rows <= 17 * 100


def test_old_estimates_are_forgotten(place: Place) -> None:
    place.hour()
    place.clock.advance(days=29)
    place.watch.delete_old()
    assert place.count(AccuracyStateRow) == 7
    assert place.count(AccuracyPointRow) == 3
    place.clock.advance(days=2)
    place.watch.delete_old()
    assert place.count(AccuracyStateRow) == place.count(AccuracyPointRow) == 0
