"""`edgectl server check` says what would keep a server from starting, and changes nothing."""

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy

from edgectl_server.checkup import everything
from edgectl_server.checkup.everything import check_everything
from edgectl_server.clock import now
from edgectl_server.settings import Settings
from edgectl_server.signing.authority import Authority
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Repository
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database

NOW = now()


@pytest.fixture
def settings(tmp_path):
    """Of a server that has been started once, by default ports that are free."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    settings = Settings(data=str(data), listen_port=0, broker_port=0)
    database = Database(settings.database_address)
    database.migrate()
    database.close()
    Repository.open(data / "tuf", Keys.open(data / "keys"), NOW)
    Authority.open(data / "pki", NOW)
    BlobStore(settings.blobs_address)
    for path in data.rglob("*"):  # the clock is held against their times
        os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    return settings


def changed(settings, **given):
    return Settings(**{one: getattr(settings, one) for one in settings.__struct_fields__} | given)


def snapshot(folder):
    return {
        str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
        if "sqlite-" not in path.name
    }


def states(settings, at=NOW):
    found = check_everything(settings, at)
    assert {one.check for one in found} >= {"data", "disk", "database", "blobs", "broker", "ports"}
    return {one.check: one for one in found if one.state != "ok"}


def test_a_sound_server_passes_and_is_not_changed(settings):
    before = snapshot(settings.data_path)
    assert states(settings) == {}
    after = snapshot(settings.data_path)
    assert {k: v for k, v in after.items() if "/blobs" not in k} == {
        k: v for k, v in before.items() if "/blobs" not in k
    }
    assert not [one for one in after if "/check/" in one]


def test_before_the_first_start_nothing_is_made(tmp_path):
    settings = Settings(data=str(tmp_path / "new"), listen_port=0, broker_port=0)
    assert states(settings) == {}
    assert list(tmp_path.iterdir()) == []


def fails(settings, check, *words, at=NOW, state="failed"):
    found = states(settings, at)
    assert check in found, found
    assert found[check].state == state
    said = f"{found[check].detail} {found[check].hint}"
    for word in words:
        assert word in said, said
    assert found[check].hint


def test_keys_that_others_may_read(settings):
    (settings.data_path / "keys/snapshot.pem").chmod(0o644)
    fails(settings, "data", "snapshot.pem", "chmod 600")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_folder_of_somebody_else(settings):
    os.chown(settings.data_path, 65534, 65534)
    fails(settings, "data", "nobody", "chown")


@pytest.mark.parametrize("name", ["pki/authority.key", "keys/signers.json", "keys/models.pem"])
def test_a_key_that_is_missing(settings, name):
    (settings.data_path / name).unlink()
    if name == "keys/models.pem":  # whoever holds it may be a token: it is missed when it signs
        assert "keys" not in states(settings) or states(settings)["keys"].state != "ok"
        return
    fails(settings, "keys", name, "restore")


def test_a_key_that_does_not_open(settings):
    (settings.data_path / "keys/models.pem").write_text("no key")
    fails(settings, "keys", "models.pem")


def test_metadata_near_its_end_is_a_warning_and_a_dead_authority_a_failure(settings):
    fails(settings, "keys", at=NOW + timedelta(days=2), state="warning")
    found = check_everything(settings, NOW + timedelta(days=400 * 30))
    assert [one for one in found if one.check == "keys" and one.state == "failed"]


def test_a_clock_that_is_behind(settings):
    fails(settings, "clock", "timedatectl", at=datetime(2020, 1, 1, tzinfo=UTC))
    fails(settings, "clock", "data/", at=NOW - timedelta(hours=1))


def test_a_database_of_a_newer_or_an_older_edgectl(settings):
    path = settings.data_path / "edgectl.sqlite"

    def pretend(revision):
        database = sqlite3.connect(path)
        with database:
            database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        database.close()

    pretend("9999_next")
    fails(settings, "database", "newer", "9999_next")
    pretend("0001_first")
    fails(settings, "database", "0001_first", "backup", state="warning")
    path.write_bytes(b"no database at all" * 100)
    fails(settings, "database", "not a database")


@pytest.mark.postgresql
def test_a_database_that_knows_no_text_is_a_warning(settings, postgresql_url):
    name = "edgectl_of_bytes"
    engine = sqlalchemy.create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    make = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name} {make}"))
    url = engine.url.set(database=name).render_as_string(hide_password=False)
    try:
        found = states(changed(settings, database_url=url))["database"]
        assert (found.state, "encoded as SQL_ASCII" in found.detail) == ("warning", True)
        with contextlib.closing(Database(url)) as database:
            database.migrate()
            assert database.revisions()[0] == database.revisions()[1], "it works all the same"
    finally:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()


def test_a_database_that_does_not_answer(settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"postgresql+psycopg://edgectl@127.0.0.1:{port}/edgectl"
    fails(changed(settings, database_url=url), "database", "refused")


def test_a_blob_store_that_is_not_there(settings, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    found = [
        one
        for one in everything.look(
            "blobs",
            lambda: everything.check_blobs(changed(settings, blobs_url="s3://none/at-all")),
        )
        if one.state == "failed"
    ]
    assert found
    assert found[0].hint


def test_ports_that_are_taken(settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fails(changed(settings, listen_port=port), "ports", str(port), "the API")
        fails(changed(settings, broker_port=port), "ports", str(port), "the broker")
    fails(changed(settings, listen_host="0.0.0.0"), "ports", "TLS")


def test_a_broker_that_is_none(settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    fails(changed(settings, broker="mqtts://" + f"127.0.0.1:{port}"), "broker", state="warning")
    fails(changed(settings, broker="mqtt://here"), "broker", "mqtts://")


def test_the_command_says_it_to_people_and_to_programs(tmp_path):
    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "edgectl", "server", "check", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    place = ("--data", str(tmp_path / "new"), "--port", "0", "--broker-port", "0")
    done = run(*place)
    assert done.returncode == 0, done
    assert "✓ disk: " in done.stdout
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = (*place[:3], str(taken.getsockname()[1]), *place[4:])
        done = run(*given)
        assert done.returncode == 1
        assert "✗ ports: the API" in done.stdout
        assert "  try: " in done.stdout
        found = json.loads(run(*given, "--json").stdout)
    assert found["ok"] is False
    assert {one["state"] for one in found["checks"]} == {"ok", "failed"}
    (tmp_path / "server.toml").write_text("listen_prot = 8080\n")
    done = run(*place, "--config", str(tmp_path / "server.toml"))
    assert done.returncode == 1
    assert "listen_prot" in done.stderr
