"""Who has a device's card, of a fleet with encrypted models; the key is on it, or elsewhere."""

from __future__ import annotations

import secrets
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from attacks.scene import PLAIN, POLICY, Site, files_of, is_let_in
from attacks.strangers import ask, csr_of
from e2e.fleet import SOCKETS, Agent
from edgectl_protocol.enrolment import request_text
from waiting import wait_for

pytestmark = pytest.mark.e2e
ATTACKER = "a stolen card"
SECRET = {**PLAIN, "encrypt": ["fp32"]}


def marks_of(model: Path) -> list[bytes]:
    """Return the beginnings of the model's weights, as they are in every file that holds it."""
    weights = onnx.load(model).graph.initializer
    return [raw[:48] for one in weights if len(raw := one.raw_data) >= 48]


@pytest.fixture(scope="module")
def site(open_site: Callable[..., Site], activity: dict[str, Any]) -> Site:
    """Version 3 is encrypted and runs: on pi-1 with its key elsewhere, on pi-2 with it inside."""
    site = open_site()
    site.start("pi-2")
    keys = site.folder / "stick"
    token = site.server.enrol_token()
    agent = Agent(site.server, "pi-1", site.folder / "pi-1", token, key_directory=str(keys))
    site.agents["pi-1"] = agent
    agent.start()
    assert site.server.push("secret", activity["model"], "3", **SECRET).state == "succeeded"
    for name in site.agents:
        wait_for(lambda name=name: site.client.device(name).online, f"{name} online")
    site.server.wait_rollout(site.server.roll_out("secret", "3", **POLICY))
    return site


def encryption_key_of(site: Site, device: str) -> str:
    """Return the key to which the server seals the content keys of a device."""
    database = sqlite3.connect(site.server.data / "edgectl.sqlite", timeout=60)
    found = database.execute("SELECT encryption_key FROM device WHERE id = ?", (device,)).fetchone()
    database.close()
    return str(found[0])


def steal(site: Site, device: str, folder: Path) -> Agent:
    """Return the thief's own device with a copy of the card in it."""
    shutil.copytree(site.agents[device].state, folder / device, ignore=SOCKETS)
    return Agent(site.server, device, folder / device)


def test_reading_the_model_from_the_card(
    site: Site, tmp_path: Path, activity: dict[str, Any]
) -> None:
    marks = marks_of(activity["model"])
    content = activity["model"].read_bytes()
    assert marks
    assert all(mark in content for mark in marks)
    for device in ("pi-1", "pi-2"):
        stolen = steal(site, device, tmp_path).state
        plain = 0
        for file in (one for one in (stolen / "blobs").rglob("*") if one.is_file()):
            plain += any(mark in file.read_bytes() for mark in marks)
        assert plain == (device == "pi-2")  # it has a version that is not encrypted, and is found


def test_serving_the_model_from_a_card_without_its_key(site: Site, tmp_path: Path) -> None:
    stolen = steal(site, "pi-1", tmp_path)
    stolen.settings["key_directory"] = str(tmp_path / "empty")
    try:
        stolen.start()
        assert stolen.served("secret") is None
    finally:
        stolen.stop()


@pytest.mark.admitted("what the device may say, until it is revoked; no content key is for it")
def test_speaking_as_the_device_from_a_card_without_its_key(site: Site, tmp_path: Path) -> None:
    stolen = steal(site, "pi-1", tmp_path)
    assert "encryption.pem" not in [file.name for file in stolen.state.rglob("*.pem")]
    assert is_let_in(site.server.broker_port, *files_of(stolen), "pi-1")


def test_naming_another_encryption_key_with_the_devices_own_key(site: Site, tmp_path: Path) -> None:
    """Who has the card's key but not the stick's would have content keys sealed to another."""
    key = load_pem_private_key(files_of(steal(site, "pi-1", tmp_path))[0][1].read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    nonce, csr = secrets.token_hex(16), csr_of(key, "pi-1", encryption_key=b"\7" * 32)
    text = request_text(nonce=nonce, device="pi-1", csr_pem=csr)
    body = {"device": "pi-1", "nonce": nonce, "csr_pem": csr}
    proof = key.sign(text, ec.ECDSA(hashes.SHA256())).hex()
    before = encryption_key_of(site, "pi-1")
    status, _ = ask(site, "POST", "enrol", {**body, "proof": proof})
    assert status == 200  # its certificate again, and nothing else
    assert encryption_key_of(site, "pi-1") == before


@pytest.mark.admitted("everything that the device may, and its models, until it is revoked")
def test_being_the_device_with_a_card_that_has_the_key(site: Site, tmp_path: Path) -> None:
    site.agents["pi-2"].stop()
    stolen = steal(site, "pi-2", tmp_path)
    try:
        stolen.start()
        wait_for(lambda: stolen.served("secret") == "3", "the model", bound_s=20)
        wait_for(lambda: site.client.device("pi-2").online, "it online", bound_s=20)
    finally:
        stolen.stop()


def test_coming_back_with_the_card_of_a_revoked_device(site: Site, tmp_path: Path) -> None:
    site.agents["pi-2"].stop()
    stolen = steal(site, "pi-2", tmp_path)
    files = files_of(stolen)
    assert is_let_in(site.server.broker_port, *files, "pi-2")
    site.client.revoke_device("pi-2")
    assert not is_let_in(site.server.broker_port, *files, "pi-2")
