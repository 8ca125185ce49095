"""``edgectl retrainings``: what is shown of one that waits, and of one that has ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from edgectl_server import schemas

MOMENT = datetime(2026, 11, 1, 12, tzinfo=UTC)
WHY = "no worker has the trainer head: none is there"


@pytest.mark.parametrize("state", ["queued", "succeeded"])
def test_what_a_training_waits_for_is_shown_until_it_has_ended(
    state: str, logged_in: Any, fleet_server: Any
) -> None:
    found = schemas.RetrainingDetail.model_validate(
        {
            "id": "0123456789abcdef",
            "model": "har",
            "parent": "1",
            "dataset": "sha256:" + "a" * 64,
            "trainer": "head",
            "state": state,
            "progress": {"stage": "wait", "message": WHY},
            "error": None,
            "version": None,
            "push_job": None,
            "created_at": MOMENT,
            "created_by": "anna",
            "finished_at": None if state == "queued" else MOMENT,
            "old": None,
            "new": None,
            "metrics": {},
            "verdicts": [],
            "log": "",
            "tracking": None,
        }
    )
    fleet_server.routes["GET", f"/retrainings/{found.id}"] = (200, found)
    shown = logged_in("retrainings", "show", found.id)
    assert shown.code == 0, shown.err
    assert (f"queued: {WHY}" in shown.out) == (state == "queued")
    assert (WHY in shown.out) == (state == "queued")
