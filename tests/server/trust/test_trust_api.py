"""The routes of trust: who may, what is bounded, and what a stranger's signature is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import select
from tuf.api.metadata import Metadata

from edgectl_protocol.metadata import METADATA_BYTES_MAX
from edgectl_server.alerts import ends_in_file
from edgectl_server.storage.tables import AuditEntryRow
from server.signing.devices import Person
from server.trust.conftest import Desk

VERA, EVE = Person("vera"), Person("eve")


@pytest.fixture
def waiting(desk: Desk) -> Desk:
    """A server where the first document of a family waits."""
    file = desk.settings.data_path.parent / "vera.pub"
    file.write_text(json.dumps({"keyid": VERA.key.keyid, **VERA.key.to_dict()}))
    desk.keys("delegate", "vision", "--pattern", "vision-*", "--key", str(file))
    desk.services.trust.refresh()
    return desk


def test_everything_is_shown_to_a_viewer(waiting: Desk) -> None:
    found = waiting.get("/trust", role="viewer")
    roles = {one["name"]: one for one in found["roles"]}
    assert set(roles) == {"root", "targets", "models", "snapshot", "timestamp", "orders"}
    assert roles["root"]["keys"][0]["online"] is True
    assert roles["orders"]["version"] is None
    staged = {one["role"]: one for one in found["staged"]}
    assert set(staged) == {"targets", "vision"}
    assert staged["vision"]["unsigned"][0]["name"] == "vera"
    assert (staged["vision"]["missing"], staged["vision"]["threshold"]) == (1, 1)
    assert [one["code"] for one in found["alerts"]] == ["trust.unsigned", "trust.waiting"]


def test_documents_are_given_as_they_are_signed(waiting: Desk) -> None:
    content = waiting.staged("targets")
    assert content == waiting.services.repository.staged("targets")
    answer = waiting.call("GET", "/trust/published/root", role="viewer")
    assert answer.content == waiting.services.repository.current("root")
    for path in ("staged/root", "published/nobody", "staged/nobody"):
        answer = waiting.call("GET", f"/trust/{path}", role="viewer")
        assert answer.status_code == 404, path
        assert answer.json()["code"] in {"tuf.nothing_staged", "tuf.unknown_role"}
    for path in ("staged/..%2f..%2fkeys", "published/Root", "staged/" + "a" * 65):
        assert waiting.call("GET", f"/trust/{path}", role="viewer").status_code in {404, 422}, path


@pytest.mark.parametrize("role", ["", "viewer"])
def test_who_may_not_brings_no_signature(waiting: Desk, role: str) -> None:
    document = VERA.sign(waiting.staged("vision"))
    path = "/trust/staged/vision"
    answer = waiting.call("POST", path, role=role, content=document)
    assert answer.status_code == (403 if role else 401)
    assert "vision" in waiting.waiting()


def test_a_token_needs_the_scope(waiting: Desk) -> None:
    body = {"name": "ci", "role": "operator", "scopes": ["read", "models:write"]}
    made = waiting.call("POST", "/tokens", json=body)
    waiting.tokens["ci"] = made.json()["token"]
    document = VERA.sign(waiting.staged("vision"))
    assert waiting.submit("vision", document, by="ci").json()["code"] == "auth.scope"
    body["scopes"] = ["read", "trust:write"]
    waiting.tokens["ci"] = waiting.call("POST", "/tokens", json=body).json()["token"]
    assert waiting.submit("vision", document, by="ci").status_code == 200


def test_only_good_signatures_of_the_right_keys_count(waiting: Desk) -> None:
    """An administrator, too, has nothing but what the keys have signed."""
    document = waiting.staged("vision")
    stranger = EVE.sign(document)
    other = Metadata.from_bytes(document)
    other.signed.version += 1
    changed = VERA.sign(other.to_bytes())
    forged = Metadata.from_bytes(VERA.sign(document))
    for signature in forged.signatures.values():
        begin = "11" if signature.signature.startswith("00") else "00"
        signature.signature = begin + signature.signature[2:]
    for content, code in (
        (document, "tuf.signature"),
        (stranger, "tuf.unknown_key"),
        (changed, "tuf.changed"),
        (forged.to_bytes(), "tuf.signature"),
        (b"", "tuf.malformed"),
        (b"[]", "tuf.malformed"),
        (b"{" * 50_000, "tuf.malformed"),
        (waiting.staged("targets"), "tuf.changed"),
    ):
        answer = waiting.submit("vision", content, by="admin")
        assert (answer.status_code, answer.json()["code"]) == (422, code), content[:60]
    assert set(waiting.waiting()) == {"targets", "vision"}
    assert waiting.submit("root", document).json()["code"] == "tuf.nothing_staged"


def test_the_certificate_of_the_broker_is_seen_on_the_connection(desk: Desk) -> None:
    """So that one on another machine, which nobody here renews, is watched over too."""
    file = desk.settings.data_path / "pki/broker.pem"
    assert desk.services.link.wait_connected(10)
    assert desk.services.link.broker_certificate_ends_at == ends_in_file(file)()


def test_a_document_is_bounded(waiting: Desk) -> None:
    answer = waiting.submit("vision", b"{" + b" " * METADATA_BYTES_MAX)
    assert (answer.status_code, answer.json()["code"]) == (413, "tuf.document")
    assert waiting.submit("vision", b" " * (2 * 1024**2)).status_code == 413


def test_a_signature_is_in_the_audit_log(waiting: Desk, tmp_path: Path) -> None:
    refused = waiting.submit("vision", EVE.sign(waiting.staged("vision")))
    assert refused.status_code == 422
    taken = waiting.submit("vision", VERA.sign(waiting.staged("vision")))
    assert "vision" in taken.json()["published"]
    with waiting.services.database.read() as session:
        rows = session.scalars(
            select(AuditEntryRow)
            .where(AuditEntryRow.action == "submit_staged")
            .order_by(AuditEntryRow.number)
        ).all()
    assert [(row.object, row.outcome) for row in rows] == [
        ("vision", "refused"),
        ("vision", "done"),
    ]
    details = json.loads(rows[-1].details)
    assert details["by"] == [VERA.key.keyid[:12]]
    assert {"targets", "vision"} <= set(details["published"])


def test_nothing_of_the_api_changes_who_signs(waiting: Desk) -> None:
    """Rotation is not here: not for an administrator either."""
    operations = waiting.get("/openapi.json")["paths"]
    writes = {
        (method, path)
        for path, item in operations.items()
        for method in item
        if "/trust" in path and method != "get"
    }
    assert writes == {("post", "/api/v1/trust/staged/{role}")}
