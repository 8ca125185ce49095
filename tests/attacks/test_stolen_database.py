"""Who has the server's database: first to read, then to write, under the running server."""

from __future__ import annotations

import base64
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from argon2 import PasswordHasher
from cryptography.hazmat.primitives import serialization

from attacks.scene import Site, order_of
from attacks.strangers import ask, enrol_by_key, new_key, renew
from edgectl.client import Client as ApiClient
from edgectl.errors import ApiError
from signed import key_id, payload_of

pytestmark = pytest.mark.e2e
ATTACKER = "the database"


@pytest.fixture(scope="module")
def site(open_site: Callable[..., Site]) -> Site:
    site = open_site()
    site.start("pi-1")
    return site


def query(site: Site, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run one statement, as who has the file."""
    database = sqlite3.connect(
        site.server.data / "edgectl.sqlite", isolation_level=None, timeout=10
    )
    try:
        return database.execute(statement, values).fetchall()
    finally:
        database.close()


# ---------------------------------------------------------------- to read


def test_using_the_digest_of_a_token_as_the_token(site: Site) -> None:
    assert site.client.me().user == "admin"
    ((identifier, digest),) = query(site, "SELECT id, secret_sha256 FROM api_token LIMIT 1")
    short = base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=")
    for secret in (digest, digest[:43], short):
        token = f"edgectl_{identifier}_{secret}"
        assert ask(site, "GET", "me", token=token)[0] == 401


def test_using_the_hash_of_a_password_as_the_password(site: Site) -> None:
    ((stored,),) = query(site, "SELECT password_hash FROM user_account WHERE name = 'admin'")
    assert stored.startswith("$argon2id$")
    with ApiClient(site.server.url) as anonymous, pytest.raises(ApiError) as caught:
        anonymous.login("admin", stored, name="thief")
    assert caught.value.status == 401


def test_looking_for_the_keys_of_server_and_devices(site: Site) -> None:
    database = b"".join(file.read_bytes() for file in site.server.data.glob("edgectl.sqlite*"))
    assert b"har" in database
    assert b"PRIVATE KEY" not in database
    pems = [*(site.server.data / "keys").glob("*.pem"), *(site.server.data / "pki").glob("*.key")]
    assert len(pems) > 5
    for pem in pems:
        key = serialization.load_pem_private_key(pem.read_bytes(), None)
        numbers = getattr(key, "private_numbers", None)
        raw = numbers().private_value.to_bytes(32, "big") if numbers else key.private_bytes_raw()
        for form in (raw, raw.hex().encode(), base64.b64encode(raw)):
            assert form not in database, pem


@pytest.mark.admitted("a device, with each token that has uses left, until it expires")
def test_enrolling_with_what_is_kept_of_a_token(site: Site) -> None:
    site.server.enrol_token()
    ((identifier, stored),) = query(site, "SELECT id, key FROM enrol_token WHERE uses_left > 0")
    assert enrol_by_key(site, "stranger", identifier, bytes.fromhex(stored)) == 200
    assert enrol_by_key(site, "stranger-2", identifier, bytes.fromhex(stored)) == 401
    assert site.client.device("stranger").state == "enrolled"


def test_taking_over_a_name_with_what_is_kept_of_a_token(site: Site) -> None:
    site.server.enrol_token()
    ((identifier, stored),) = query(site, "SELECT id, key FROM enrol_token WHERE uses_left > 0")
    assert enrol_by_key(site, "pi-1", identifier, bytes.fromhex(stored)) == 409


# ---------------------------------------------------------------- to write


@pytest.mark.admitted("everything that an admin may: roll out what is signed, let devices in")
def test_making_oneself_an_admin(site: Site) -> None:
    query(
        site,
        "INSERT INTO user_account (name, password_hash, role, created_at) "
        "VALUES ('thief', ?, 'admin', '2026-01-01 00:00:00')",
        PasswordHasher().hash("not a secret"),
    )
    with ApiClient(site.server.url) as anonymous:
        token = anonymous.login("thief", "not a secret", name="thief").token
    with ApiClient(site.server.url, token) as thief:
        assert thief.me().role == "admin"


def test_writing_another_order_for_a_device(site: Site) -> None:
    ((stored,),) = query(site, "SELECT \"order\" FROM device WHERE id = 'pi-1'")
    envelope = json.loads(stored)
    order = json.loads(payload_of(stored.encode()))
    order |= {"counter": order["counter"] + 1, "slots": {}, "withdrawn": ["har"]}
    envelope["payload"] = base64.b64encode(json.dumps(order).encode()).decode()
    query(site, "UPDATE device SET \"order\" = ? WHERE id = 'pi-1'", json.dumps(envelope))
    query(
        site,
        "INSERT INTO outbox (key, kind, payload, created_at) VALUES "
        "('order/pi-1', 'order', '{\"device\": \"pi-1\"}', '2026-01-01 00:00:00')",
    )
    site.wait_told("pi-1", "order.signature")
    assert site.agents["pi-1"].served("har") == "1"
    assert order_of(stored.encode()).slots["har"].version == "1"


def test_pointing_a_version_at_other_content(site: Site) -> None:
    ((variant, manifest),) = query(
        site, "SELECT id, manifest FROM bundle_variant WHERE target LIKE 'models/har/2/%'"
    )
    change = "UPDATE bundle_variant SET manifest = ? WHERE id = ?"
    query(site, change, "sha256:" + "0" * 64, variant)
    rollout = site.order("2", "pi-1")
    site.wait_told("pi-1", "trust.mismatch")
    assert site.agents["pi-1"].served("har") == "1"
    assert site.server.wait_rollout(rollout).counts.committed == 0
    query(site, change, manifest, variant)


def test_pointing_a_version_at_a_target_that_nobody_signed_for(site: Site) -> None:
    ((variant, target),) = query(
        site, "SELECT id, target FROM bundle_variant WHERE target LIKE 'models/har/2/%'"
    )
    change = "UPDATE bundle_variant SET target = ? WHERE id = ?"
    query(site, change, "models/har/666/fp32", variant)
    rollout = site.order("2", "pi-1")
    site.wait_told("pi-1", "trust.target")
    assert site.agents["pi-1"].served("har") == "1"
    site.client.rollout_action(rollout, "abort", reason="attacked")
    query(site, change, target, variant)


def test_renewing_the_certificate_of_a_device_whose_key_was_replaced(site: Site) -> None:
    key = new_key()
    ((before,),) = query(site, "SELECT public_key_sha256 FROM device WHERE id = 'pi-1'")
    change = "UPDATE device SET public_key_sha256 = ? WHERE id = 'pi-1'"
    query(site, change, key_id(key))
    status = renew(site, "pi-1", key)[0]
    query(site, change, before)
    assert status == 401


def test_changing_what_the_audit_log_says(site: Site) -> None:
    site.client.create_token("noise", "viewer", 600)
    triggers = query(site, "SELECT name FROM sqlite_master WHERE type = 'trigger'")
    for (name,) in triggers:
        query(site, f"DROP TRIGGER {name}")
    query(site, "UPDATE audit_entry SET actor = 'nobody' WHERE action = 'create_token'")
    export = site.folder / "audit.jsonl"
    export.write_bytes(b"".join(site.client.audit_export()))
    command = [sys.executable, "-m", "edgectl", "audit", "verify", str(export)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout
    assert "audit." in done.stderr
