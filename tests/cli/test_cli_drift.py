"""``edgectl drift``: what is asked of the server, and what is shown of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cli.answers import HOSTILE
from edgectl_server import schemas

MOMENT = datetime(2026, 11, 1, 12, tzinfo=UTC)
FLEET = schemas.DriftGroup(
    model="har",
    version="1",
    manifest="sha256:" + "a" * 64,
    level="fleet",
    group="",
    state="drifting",
    since=MOMENT,
    until=MOMENT,
    rows=900,
    findings=[],
    faults=[],
)


def test_bundles_are_listed_with_how_many_drift(logged_in: Any, fleet_server: Any) -> None:
    summary = schemas.DriftSummary(
        fleet=FLEET,
        sites=schemas.DriftCounts(quiet=2, drifting=1),
        devices=schemas.DriftCounts(quiet=20, drifting=3, recovering=4),
        faulty=5,
        false_alarms=0.003,
        distance=0.03,
        spread=0.15,
    )
    fleet_server.routes["GET", "/drift-summary"] = (200, schemas.Page(items=[summary], total=1))
    shown = logged_in("drift", "summary", "har")
    assert shown.code == 0, shown.err
    assert shown.out.split()[-4:] == ["ago", "1", "7", "5"]
    assert dict(fleet_server.requests("GET", "/drift-summary")[0].query)["model"] == "har"


def test_the_history_is_a_row_a_step_of_what_was_counted(logged_in: Any, fleet_server: Any) -> None:
    course = schemas.DriftCourse(
        feature=HOSTILE, distance=[None, 0.2, 0.3], spread=[None] * 3, p_value=[None, None, 0.001]
    )
    history = schemas.DriftHistory(
        **FLEET.model_dump(include={"model", "version", "manifest", "level", "group"}),
        step_s=3600,
        times=[MOMENT + timedelta(hours=hour) for hour in range(3)],
        rows=[0, 400, 500],
        devices=12,
        devices_read=4,
        features=[course],
    )
    fleet_server.routes["GET", "/models/har/drift/history"] = (200, history)
    asked = ("--site", "porto", "--since", "3d", "--feature", "x", "--feature", "classes")
    shown = logged_in("drift", "history", "har", *asked)
    assert shown.code == 0, shown.err
    assert "4 of 12 devices" in shown.out
    assert "0.300 1.0e-03" in shown.out
    assert "2026-11-01 12:00" not in shown.out, "nothing was counted then"
    assert "\x1b[2J" not in shown.out
    refused = logged_in("drift", "history", "har", "--site", "porto", "--device", "pi-1")
    assert refused.code == 2


def test_the_list_is_asked_for_by_every_filter(logged_in: Any, fleet_server: Any) -> None:
    fleet_server.routes["GET", "/drift"] = (200, schemas.Page(items=[FLEET], total=1))
    asked = ("--level", "device", "--state", "drifting", "--site", "porto", "--faulty")
    shown = logged_in("drift", "status", "har", *asked)
    assert shown.code == 0, shown.err
    (request,) = fleet_server.requests("GET", "/drift")
    assert {
        "model": "har",
        "level": "device",
        "state": "drifting",
        "site": "porto",
        "faulty": "true",
    }.items() <= dict(request.query).items()


def test_what_ended_with_its_version_is_not_said_to_be_better(
    logged_in: Any, fleet_server: Any
) -> None:
    about = FLEET.model_dump(include={"model", "version", "manifest", "level", "group"})
    event = schemas.DriftEventInfo(
        **about, id=1, at=MOMENT, kind="drift.ended", findings=[], faults=[], replaced=True
    )
    fleet_server.routes["GET", "/drift-events"] = (200, schemas.Page(items=[event], total=1))
    shown = logged_in("drift", "events")
    assert shown.code == 0, shown.err
    assert "no device of it runs the version any more" in " ".join(shown.out.split())
