"""A team signs its own models: what is pushed waits for them, and is ready when they have."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from edgectl_server.clock import now
from edgectl_server.storage.tables import AuditEntryRow
from server.signing.devices import ClientDevice, Person, Published
from server.trust.conftest import Desk

VERA, VITO = Person("vera"), Person("vito")


def test_a_version_waits_for_its_team_and_becomes_ready(desk: Desk) -> None:
    """Over the API, with the real pipeline, and a device that asks before and after."""
    desk.delegate(VERA, VITO, threshold=2)
    assert desk.push("har", "1")["state"] == "ready", "other models are the server's"
    version = desk.push("vision-door", "1")
    assert version["state"] == "unsigned"
    assert version["waits_for"] == {"role": "vision", "version": 2, "missing": 2, "threshold": 2}
    (variant,) = version["variants"]
    device = ClientDevice(
        desk.settings.data_path.parent / "device", desk.services.repository.first_root
    )

    def finds() -> bool:
        published = Published(desk.services.repository.metadata())
        return device.look_up(published, variant["target"], now()) is not None

    assert not finds()
    rollout = {"model": "vision-door", "version": "1", "selector": {"all": True}}
    refused = desk.call("POST", "/rollouts", role="operator", json=rollout)
    assert refused.status_code == 409
    assert refused.json()["code"] == "rollout.unsigned"

    half = desk.submit("vision", VERA.sign(desk.staged("vision"))).json()
    assert half["published"] == []
    assert desk.version("vision-door", "1")["waits_for"]["missing"] == 1
    desk.restart()
    assert desk.version("vision-door", "1")["state"] == "unsigned"
    whole = desk.submit("vision", VITO.sign(desk.staged("vision"))).json()
    assert "vision" in whole["published"]
    assert whole["staged"] == []
    ready = desk.version("vision-door", "1")
    assert (ready["state"], ready["waits_for"]) == ("ready", None)
    assert finds()


def test_a_signature_on_the_data_folder_counts_too(desk: Desk, tmp_path: Path) -> None:
    """As ``edgectl keys import`` does beside the running server; two versions wait together."""
    desk.delegate(VERA)
    assert desk.push("vision-door", "1")["state"] == "unsigned"
    first = desk.staged("vision")
    assert desk.push("vision-door", "2")["state"] == "unsigned"
    assert desk.submit("vision", VERA.sign(first)).json()["code"] == "tuf.changed"
    file = tmp_path / "vision.json"
    file.write_bytes(VERA.sign(desk.staged("vision")))
    desk.keys("import", str(file))
    desk.becomes("vision-door", "1", "ready")
    desk.becomes("vision-door", "2", "ready")
    # The same push again is what is there.
    assert desk.push("vision-door", "2")["state"] == "ready"
    with desk.services.database.read() as session:
        rows = session.scalars(
            select(AuditEntryRow).where(AuditEntryRow.action == "settle_version")
        ).all()
    assert {(row.actor, row.object) for row in rows} == {
        ("server", "vision-door@1"),
        ("server", "vision-door@2"),
    }


def test_a_signature_that_came_while_no_server_ran(desk: Desk, tmp_path: Path) -> None:
    desk.delegate(VERA)
    desk.push("vision-door", "1")
    file = tmp_path / "vision.json"
    file.write_bytes(VERA.sign(desk.staged("vision")))
    desk.services.close()
    desk.keys("import", str(file))
    desk.restart()
    desk.becomes("vision-door", "1", "ready")


def test_what_nobody_can_sign_any_more_has_failed(desk: Desk) -> None:
    desk.delegate(VERA)
    desk.push("vision-door", "1")
    desk.keys("undelegate", "vision")
    failed = desk.becomes("vision-door", "1", "failed")
    assert failed["error"]["code"] == "version.not_signed"
    assert failed["variants"] == []
    assert desk.push("vision-door", "1")["state"] == "ready", "now it is the server's"
    assert desk.version("vision-door", "1")["error"] is None


def test_what_is_discarded_has_failed_and_can_be_asked_for_again(desk: Desk) -> None:
    desk.delegate(VERA)
    desk.push("vision-door", "1")
    desk.keys("discard", "vision")
    desk.becomes("vision-door", "1", "failed")
    assert desk.push("vision-door", "1")["state"] == "unsigned"
    assert desk.submit("vision", VERA.sign(desk.staged("vision"))).status_code == 200
    desk.becomes("vision-door", "1", "ready")


def test_a_ready_version_whose_signature_was_taken_back(desk: Desk) -> None:
    """Without --keep-targets, what the family had signed for is nobody's."""
    desk.delegate(VERA)
    desk.push("vision-door", "1")
    desk.submit("vision", VERA.sign(desk.staged("vision")))
    assert desk.push("har", "1")["state"] == "ready"
    desk.becomes("vision-door", "1", "ready")
    desk.keys("undelegate", "vision")
    desk.becomes("vision-door", "1", "failed")
    assert desk.version("har", "1")["state"] == "ready"


def test_listeners_hear_of_the_signature(desk: Desk) -> None:
    desk.delegate(VERA)
    desk.push("vision-door", "1")
    registry, trust = desk.services.registry, desk.services.trust
    seen = registry.snapshot("vision-door@1")
    assert seen is not None
    assert (seen.state, seen.waits_for.missing) == ("unsigned", 1)
    assert trust.summary().staged == 1
    assert [one.code for one in trust.summary().alerts] == ["trust.unsigned"]
    desk.submit("vision", VERA.sign(desk.staged("vision")))
    seen = registry.snapshot("vision-door@1")
    assert seen is not None
    assert (seen.state, seen.waits_for) == ("ready", None)
    assert (trust.summary().staged, trust.summary().alerts) == (0, [])
    assert registry.snapshot("vision-door@9") is None
    assert registry.snapshot("nonsense") is None
    assert desk.services.hub.check(["trust", "version:vision-door@1"])
