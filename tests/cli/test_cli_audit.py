"""``edgectl audit`` against the real server, and against exports that somebody has changed."""

import json
import sqlite3
import subprocess
import sys

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from e2e.fleet import Server
from edgectl_protocol.audit import AuditEntry, AuditHead, decode_line, entry_hash, head_message
from waiting import wait_for

pytestmark = pytest.mark.e2e


@pytest.fixture
def real_server(tmp_path):
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def admin(real_server, edgectl):
    password = (real_server.data / "admin-password").read_text()
    arguments = ("login", real_server.url, "--username", "admin", "--password-stdin")
    assert edgectl(*arguments, stdin="wrong password\n").code == 1
    assert edgectl(*arguments, stdin=password).code == 0
    return edgectl


def server_user(server, *arguments):
    command = [sys.executable, "-m", "edgectl", "server", "user", *arguments]
    return subprocess.run(  # noqa: PLW1510  # the exit code is looked at
        [*command, "--data", server.data], capture_output=True, text=True, timeout=60
    )


def test_who_did_what(admin, real_server, tmp_path, edgectl):
    admin("tokens", "create", "ci", "--scope", "models:write", "--expires", "90d")
    assert server_user(real_server, "bob", "--role", "operator").returncode == 0
    assert server_user(real_server, "bob", "--delete").returncode == 0
    assert server_user(real_server, "nobody", "--delete").returncode == 1
    rows = json.loads(admin("audit", "list", "--json").out)
    seen = [(row["action"], row["actor"], row["object"], row["outcome"]) for row in rows]
    account = seen[0][1]
    assert account.startswith("local/")
    token = rows[3]["object"]
    assert seen[:4] == [
        ("delete_user", account, "nobody", "refused"),
        ("delete_user", account, "bob", "done"),
        ("set_user", account, "bob", "done"),
        ("create_token", "admin", token, "done"),
    ]
    assert rows[2]["details"] == {"role": "operator"}
    assert rows[3]["details"]["scopes"] == ["read", "models:write"]
    assert seen[4][:2] == ("login_token", "admin")
    assert seen[5] == ("login_token", "", "admin", "refused")
    shown = admin("audit", "list", "--search", "refused")
    assert "delete_user" in shown.out
    assert "create_token" not in shown.out

    whole = admin("audit", "verify")
    assert whole.code == 0, whole.err
    assert "nothing was changed" in whole.out
    file = tmp_path / "audit.jsonl"
    assert admin("audit", "export", "--output", file).code == 0
    assert admin("audit", "export", "--output", file).code == 1  # never over another
    admin("logout")
    real_server.stop()
    offline = edgectl("audit", "verify", file, "--json")
    assert offline.code == 0, offline.err
    assert json.loads(offline.out)["rows"] == rows[0]["number"]  # reading leaves no row


def test_what_is_done_to_keys_on_the_data_folder(admin, real_server):
    command = [sys.executable, "-m", "edgectl", "keys", "rotate", "timestamp"]
    subprocess.run([*command, "--data", real_server.data], check=True, timeout=60)

    def look():
        rows = json.loads(admin("audit", "list", "--search", "keys_rotate", "--json").out)
        return rows[0] if rows else None

    row = wait_for(look, "the row of the rotation")
    assert (row["object"], row["via"], row["outcome"]) == ("timestamp", "command", "done")
    assert row["actor"].startswith("local/")
    assert "timestamp" in row["details"]["published"]
    assert admin("audit", "verify").code == 0


def test_only_an_admin_reads_it(admin, real_server, edgectl, monkeypatch):
    made = json.loads(
        admin("tokens", "create", "x", "--scope", "read", "--role", "admin", "--json").out
    )
    monkeypatch.setenv("EDGECTL_URL", real_server.url)
    monkeypatch.setenv("EDGECTL_TOKEN", made["token"])
    for command in ("list", "verify"):
        got = edgectl("audit", command)
        assert (got.code, got.err.split("]")[0]) == (1, "error[auth.scope")


def test_whoever_can_write_the_database_is_found(admin, real_server, edgectl):
    for name in ("a", "b", "c"):
        admin("tokens", "create", name)
    real_server.stop()  # at the end, the newest row is signed
    heads = sorted((real_server.data / "audit" / "heads").glob("*.jsonl"))
    number = json.loads(heads[-1].read_text().splitlines()[-1])["number"]
    database = sqlite3.connect(real_server.data / "edgectl.sqlite", isolation_level=None)
    database.execute("DROP TRIGGER audit_entry_update")
    database.execute("DROP TRIGGER audit_entry_delete")
    database.execute("UPDATE audit_entry SET actor = 'eve' WHERE number = 2")
    database.close()
    real_server.start()
    found = edgectl("audit", "verify", "--json")
    assert found.code == 1
    finding = json.loads(found.out)["finding"]
    assert (finding["number"], finding["fault"]) == (2, "changed")

    database = sqlite3.connect(real_server.data / "edgectl.sqlite", isolation_level=None)
    database.execute("DELETE FROM audit_entry WHERE number >= 2")
    (last,) = database.execute("SELECT hash FROM audit_entry WHERE number = 1").fetchone()
    database.execute("UPDATE audit_head SET number = 1, hash = ?", (last,))
    database.close()
    found = edgectl("audit", "verify")
    assert found.code == 1
    assert found.out.startswith("row 2, truncated: ")
    assert f"to {number} are missing at the end" in found.out
    real_server.stop()
    real_server.start()
    real_server.stop()
    assert "somebody has changed it" in real_server.log.read_text()


# ---------------------------------------------------------------- exports, without a server


KEY = Ed25519PrivateKey.generate()


def entry(number: int, previous: str) -> AuditEntry:
    made = AuditEntry(
        number=number,
        at="2026-11-23T03:48:00.000000Z",
        actor="ana",
        via="token/x",
        address="",
        action="push_version",
        object="har",
        outcome="done",
        details={},
        previous=previous,
        hash="",
    )
    return msgspec.structs.replace(made, hash=entry_hash(made))


def head(of: AuditEntry, key: Ed25519PrivateKey = KEY) -> AuditHead:
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    made = AuditHead(number=of.number, hash=of.hash, at=of.at, key=public, signature="")
    return msgspec.structs.replace(made, signature=key.sign(head_message(made)).hex())


def written(path, entries, heads=(), *, header=True):
    lines = [{"export": {"format": "edgectl-audit-1", "exported_at": "now"}}] if header else []
    lines += [{"head": one} for one in heads] + [{"entry": one} for one in entries]
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in lines))
    return path


@pytest.fixture
def rows():
    made = [entry(1, "0" * 64)]
    while len(made) < 5:
        made.append(entry(len(made) + 1, made[-1].hash))
    return made


def test_an_export_is_checked_without_a_server(edgectl, tmp_path, rows):
    file = written(tmp_path / "a", rows, [head(rows[3])])
    got = edgectl("audit", "verify", file, "--key", head(rows[3]).key.upper())
    assert got.code == 0, got.err
    assert "5 rows" in got.out
    assert "up to 4" in got.out
    alone = edgectl("audit", "verify", written(tmp_path / "b", rows))
    assert alone.code == 0
    assert "no signed head" in alone.out
    for changed, number in (
        ([*rows[:2], *rows[3:]], 3),
        ([*rows[:2], msgspec.structs.replace(rows[2], actor="eve"), *rows[3:]], 3),
        ([rows[1], rows[0], *rows[2:]], 1),
        (rows[:3], 4),
    ):
        broken = edgectl("audit", "verify", written(tmp_path / "c", changed, [head(rows[3])]))
        assert (broken.code, broken.out.split(",")[0]) == (1, f"row {number}")


def test_heads_that_were_kept_elsewhere_count(edgectl, tmp_path, rows):
    (tmp_path / "heads.jsonl").write_bytes(msgspec.json.encode(head(rows[4])) + b"\n")
    file = written(tmp_path / "a", rows[:4])
    assert edgectl("audit", "verify", file).code == 0
    assert edgectl("audit", "verify", file, "--heads", tmp_path / "heads.jsonl").code == 1


def test_signatures_of_somebody_else(edgectl, tmp_path, rows):
    other = Ed25519PrivateKey.generate()
    forged = msgspec.structs.replace(head(rows[3]), number=2)
    for file, arguments in (
        (written(tmp_path / "a", rows, [head(rows[3], other)]), ("--key", head(rows[3]).key)),
        (written(tmp_path / "b", rows, [forged]), ()),
        (written(tmp_path / "c", rows, [msgspec.structs.replace(forged, key="zz")]), ()),
    ):
        got = edgectl("audit", "verify", file, *arguments)
        assert (got.code, got.err.split("]")[0]) == (1, "error[audit.signature")


def test_what_is_no_export_is_said_to_be_none(edgectl, tmp_path, rows):
    whole = written(tmp_path / "whole", rows).read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-20])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "long").write_bytes(b"x" * 200_000)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    written(tmp_path / "headless", rows, header=False)
    for name in ("cut", "empty", "long", "binary", "headless", "missing"):
        got = edgectl("audit", "verify", tmp_path / name)
        assert (got.code, got.err.split("]")[0]) == (1, "error[audit.export"), name
    assert decode_line(whole.splitlines()[1]) == rows[0]
