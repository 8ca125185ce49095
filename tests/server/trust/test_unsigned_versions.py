"""A team signs its own models: what is pushed waits for them, and is ready when they have."""

from __future__ import annotations

from edgectl_server.clock import now
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
