"""``edgectl samples key`` and what opens sealed samples: keys stay on this machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cli.test_cli_samples import ID, POLICY, SAMPLE
from edgectl.sample_key_files import create_key
from edgectl_protocol.names import digest_of
from edgectl_protocol.samples import SampleNote, SampleTensor, encode_sample
from edgectl_protocol.sealed_samples import seal_sample
from edgectl_server import schemas
from edgectl_server.signing.sealing_key import SUITE

MOMENT = datetime(2026, 11, 1, 12, tzinfo=UTC)
NOTE = SampleNote(
    model="har", version="1", manifest=digest_of(b"m"), reason="random", taken_at=MOMENT
)
PLAIN = encode_sample(NOTE, [(SampleTensor("input.x", "U8", (4,)), b"\1\2\3\4")])


def sealed_for(public: bytes) -> bytes:
    recipient = X25519PublicKey.from_public_bytes(public)
    return seal_sample(
        PLAIN,
        device="pi-1",
        key=public,
        encrypt=lambda plain, info: SUITE.encrypt(plain, recipient, info),
    )


@pytest.fixture
def team(tmp_path: Path) -> Path:
    create_key(tmp_path / "team.pem", None)
    return tmp_path / "team.pem"


def public_of(key: Path) -> bytes:
    import base64

    return base64.b64decode(key.with_name(key.name + ".pub").read_text())


def test_a_key_is_made_once_and_for_its_owner(logged_in: Any, tmp_path: Path) -> None:
    path = tmp_path / "team.pem"
    got = logged_in("samples", "key", "create", str(path), "--json")
    assert got.code == 0, got.err
    made = json.loads(got.out)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "team.pem.pub").read_text().strip() == made["public"]
    again = logged_in("samples", "key", "create", str(path))
    assert (again.code, "error[samples.key_file]" in again.err) == (1, True)
    for name in ("team.pem", "team.pem.pub"):
        shown = logged_in("samples", "key", "show", str(tmp_path / name), "--json")
        assert json.loads(shown.out) == made, name


def test_a_sealed_sample_is_opened_with_its_key_and_no_other(
    logged_in: Any, fleet_server: Any, team: Path, tmp_path: Path
) -> None:
    fleet_server.routes["GET", f"/samples/{ID}"] = (200, sealed_for(public_of(team)))
    output = tmp_path / "one.safetensors"
    got = logged_in("samples", "get", ID, "--key", str(team), "--output", str(output))
    assert got.code == 0, got.err
    assert output.read_bytes() == PLAIN
    output.unlink()
    got = logged_in("samples", "get", ID, "--output", str(output))
    assert (got.code, "it is sealed" in got.err) == (0, True)
    assert output.read_bytes() != PLAIN
    output.unlink()
    create_key(tmp_path / "other.pem", None)
    got = logged_in("samples", "get", ID, "--key", str(tmp_path / "other.pem"), "-o", str(output))
    assert (got.code, "error[samples.sealed]" in got.err) == (1, True)
    assert not output.exists()
    altered = sealed_for(public_of(team))
    fleet_server.routes["GET", f"/samples/{ID}"] = (200, altered[:-1] + bytes([altered[-1] ^ 1]))
    got = logged_in("samples", "get", ID, "--key", str(team), "--output", str(output))
    assert (got.code, "error[samples.sealed]" in got.err) == (1, True)
    fleet_server.routes["GET", f"/samples/{ID}"] = (200, PLAIN)
    got = logged_in("samples", "get", ID, "--key", str(team), "--output", str(output))
    assert (got.code, output.read_bytes()) == (0, PLAIN), "one that is open needs no key"


def test_a_passphrase_opens_the_key_and_another_does_not(
    logged_in: Any, fleet_server: Any, tmp_path: Path
) -> None:
    secret, wrong = tmp_path / "secret", tmp_path / "wrong"
    secret.write_text("correct horse\n")
    wrong.write_text("battery\n")
    key = tmp_path / "team.pem"
    got = logged_in("samples", "key", "create", str(key), "--passphrase-file", str(secret))
    assert got.code == 0, got.err
    assert b"ENCRYPTED" in key.read_bytes()
    fleet_server.routes["GET", f"/samples/{ID}"] = (200, sealed_for(public_of(key)))
    output = tmp_path / "one.safetensors"
    get = ("samples", "get", ID, "--output", str(output), "--key", str(key))
    assert logged_in(*get, "--passphrase-file", str(secret)).code == 0
    for words in ((), ("--passphrase-file", str(wrong))):
        got = logged_in(*get, *words)
        assert (got.code, "error[samples.key_file]" in got.err) == (1, True), words


def test_files_that_are_no_keys_are_told_apart(logged_in: Any, team: Path, tmp_path: Path) -> None:
    other = tmp_path / "signing.pem"
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    other.write_bytes(pem)
    other.chmod(0o600)
    junk = tmp_path / "junk"
    junk.write_bytes(b"\xff" * 50)
    junk.chmod(0o600)
    open_to_others = tmp_path / "open.pem"
    open_to_others.write_bytes(team.read_bytes())
    open_to_others.chmod(0o644)
    for path in (other, junk, open_to_others, tmp_path / "missing"):
        got = logged_in("samples", "get", ID, "--key", str(path))
        assert (got.code, "error[samples.key_file]" in got.err) == (1, True), path


def test_a_policy_takes_a_public_key_and_never_a_private_one(
    logged_in: Any, fleet_server: Any, team: Path, tmp_path: Path
) -> None:
    path = "/models/har/samples"
    public = team.with_name("team.pem.pub").read_text().strip()
    shown = POLICY.model_copy(update={"seal": public})
    fleet_server.routes["GET", path] = (200, shown)
    fleet_server.routes["PUT", path] = (200, shown)
    for seal in (str(team) + ".pub", public, "server", "none"):
        got = logged_in("samples", "policy", "har", "--seal", seal)
        assert got.code == 0, got.err
    seals = [json.loads(one.body)["seal"] for one in fleet_server.requests("PUT", path)]
    assert seals == [public, public, "server", "none"]
    assert "which the server does not have" in logged_in("samples", "policy", "har").out
    for wrong in (str(team), str(tmp_path / "missing"), "AAAA"):
        got = logged_in("samples", "policy", "har", "--seal", wrong)
        assert (got.code, "error[samples.key_file]" in got.err) == (1, True), wrong
    assert len(fleet_server.requests("PUT", path)) == 4, "nothing of it has left this machine"


def test_keys_are_listed_and_changed(logged_in: Any, fleet_server: Any) -> None:
    key = schemas.SampleKeyInfo(
        id="0123456789abcdef",
        public="A" * 43 + "=",
        holder="server",
        current=True,
        created_at=MOMENT,
        created_by="server",
        samples=7,
    )
    fleet_server.routes["GET", "/sample-keys"] = (200, [key])
    fleet_server.routes["POST", "/sample-keys"] = (201, key)
    got = logged_in("samples", "key", "list")
    assert got.code == 0, got.err
    for text in ("0123456789abcdef", "the server", "now", "7"):
        assert text in got.out
    assert json.loads(logged_in("samples", "key", "list", "--json").out)[0]["samples"] == 7
    assert "0123456789abcdef" in logged_in("samples", "key", "rotate").out
    sealed = SAMPLE.model_copy(update={"sealed": True, "key": key.id, "tensors": []})
    fleet_server.routes["GET", "/samples"] = (200, schemas.Page(items=[sealed], total=1))
    assert "sealed to 0123456789abcdef" in logged_in("samples", "list").out
