"""``edgectl loop``: what is asked of the server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from edgectl_server import schemas

MOMENT = datetime(2026, 11, 1, 12, tzinfo=UTC)
RUN = "3f9c0d5e8a7b6c1d"


def info() -> schemas.LoopInfo:
    run = schemas.LoopRunInfo(
        id=RUN, model="har", state="gated", since=MOMENT, trigger={"kind": "hand"}, note="",
        dataset=None, retraining=None, version="2", rollout=None, labels=0, began_at=MOMENT,
        ended_at=None,
    )  # fmt: skip
    return schemas.LoopInfo(
        model="har", policy=None, paused=False, state="gated", why="", trouble="",
        approval="rollout", run=run, revision=0, changed_at=None, changed_by="",
    )  # fmt: skip


def test_an_approval_is_of_the_stage_that_is_named(logged_in: Any, fleet_server: Any) -> None:
    fleet_server.routes["GET", "/models/har/loop"] = (200, info())
    fleet_server.routes["POST", "/models/har/loop/actions/approve"] = (200, info())
    assert logged_in("loop", "approve", "har").code == 2
    assert logged_in("loop", "approve", "har", "training", "--reason", "seen").code == 0
    assert logged_in("loop", "approve", "har", "rollout", "--run", "0" * 16).code == 0
    sent = [one.json() for one in fleet_server.requests("POST", "/models/har/loop")]
    assert sent == [
        {"reason": "seen", "run": RUN, "approval": "training"},
        {"run": "0" * 16, "approval": "rollout"},
    ]


def test_no_loops_say_how_one_begins(logged_in: Any, fleet_server: Any) -> None:
    fleet_server.routes["GET", "/loops"] = (200, {"items": [], "total": 0})
    shown = logged_in("loop", "status")
    assert (shown.code, shown.out) == (0, "")
    assert "edgectl loop set MODEL" in shown.err
