"""Backups of databases and stores of every kind, restored to every kind."""

import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy

from databases import open_migrated
from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import Reference
from edgectl_server.audit import AuditLog, note
from edgectl_server.auth import Auth
from edgectl_server.backup.making import make_backup
from edgectl_server.backup.restoring import (
    RestoreOptions,
    check_backup,
    open_backup,
    restore_backup,
)
from edgectl_server.backup.resumption import UNFINISHED, read_restored
from edgectl_server.checkup.local import check_data
from edgectl_server.errors import ServerError
from edgectl_server.settings import Settings
from edgectl_server.signing.authority import Authority
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Repository
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Base
from server.fleet.published import publish

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
PASSPHRASE = b"correct horse battery"
OPTIONS = RestoreOptions(passphrase=PASSPHRASE)


@pytest.fixture
def site(tmp_path, database_url):
    """A server's folder, database and blobs, as after a start."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    settings = Settings(data=str(data), database_url=database_url)
    database = open_migrated(settings.database_address)
    AuditLog(database, lambda: NOW)
    Auth(database, lambda: NOW).ensure_admin(data / "admin-password")
    with database.write() as session:
        note(session, "began", "server", {})
    Repository.open(data / "tuf", Keys.open(data / "keys"), NOW)
    Authority.open(data / "pki", NOW).revoke("ff", NOW)
    BlobStore(settings.blobs_address).add_bytes(b"a model")
    BlobStore(settings.device_uploads_address).add_bytes(b"a log")
    yield settings, database
    database.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database_url(request):
    """Empty: SQLite in the data folder."""
    if request.param == "sqlite":
        return ""
    return request.getfixturevalue("postgresql_url")


def rows(database):
    """Return everything that is in the tables."""
    with database.engine.connect() as connection:
        return {
            table.name: sorted(map(repr, connection.execute(sqlalchemy.select(table)).all()))
            for table in Base.metadata.sorted_tables
        }


def files(folder):
    return {
        path.relative_to(folder).as_posix(): (
            path.read_bytes(),
            path.stat().st_mode & 0o777 if "sha256" not in path.parts else 0o600,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in {".lock", "restored.json"}
        and "sqlite" not in path.name
    }


def make(settings, database, target, **options):
    given = {"passphrase": PASSPHRASE, "with_uploads": True, "now": NOW} | options
    return make_backup(settings, database, target, **given)


def restore(source, settings, options=OPTIONS):
    reader = open_backup(source)
    try:
        return restore_backup(reader, settings, options, NOW)
    finally:
        reader.close()


def refused(call, code):
    with pytest.raises(ServerError) as caught:
        call()
    assert caught.value.code == code, caught.value.detail
    assert caught.value.hint


def folders(data: Path) -> dict[str, int]:
    """Return the modes of all folders."""
    return {
        str(path.relative_to(data)): path.stat().st_mode & 0o777
        for path in data.rglob("*")
        if path.is_dir()
    }


def test_everything_comes_back_with_its_modes(site, tmp_path):
    settings, database = site
    made = make(settings, database, tmp_path / "backup")
    assert made.blobs == 2
    there = Settings(data=str(tmp_path / "there"))
    done = restore(tmp_path / "backup", there)
    assert done.with_keys
    assert files(settings.data_path) == files(there.data_path)
    assert {mode for _, mode in files(there.data_path).values()} <= {0o600, 0o644}
    assert folders(there.data_path).items() <= folders(settings.data_path).items()
    assert there.data_path.stat().st_mode & 0o777 == 0o700
    again = Database(there.database_address)
    assert rows(again) == rows(database)
    again.close()
    assert Authority.open(there.data_path / "pki", NOW).is_revoked(0xFF)


@pytest.mark.postgresql
def test_from_sqlite_to_postgresql_and_numbers_go_on(tmp_path, postgresql_url):
    data = tmp_path / "data"
    data.mkdir()
    settings = Settings(data=str(data))
    database = open_migrated(settings.database_address)
    AuditLog(database, lambda: NOW)
    with database.write() as session:
        session.execute(
            sqlalchemy.text(
                "INSERT INTO outbox (id, key, kind, payload, created_at) "
                "VALUES (7, 'k', 'order', '{}', '2026-01-01')"
            )
        )
        note(session, "began", "server", {})
    Repository.open(data / "tuf", Keys.open(data / "keys"), NOW)
    Authority.open(data / "pki", NOW)
    make(settings, database, tmp_path / "backup")
    there = Settings(data=str(tmp_path / "there"), database_url=postgresql_url)
    restore(tmp_path / "backup", there)
    again = Database(postgresql_url)
    assert rows(again) == rows(database)
    with again.write() as session:
        session.execute(
            sqlalchemy.text(
                "INSERT INTO outbox (key, kind, payload, created_at) "
                "VALUES ('l', 'order', '{}', '2026-01-01')"
            )
        )
        assert session.scalar(sqlalchemy.text("SELECT max(id) FROM outbox")) == 8
    refused(
        lambda: restore(
            tmp_path / "backup", Settings(data=str(tmp_path / "more"), database_url=postgresql_url)
        ),
        "backup.not_empty",
    )
    again.close()
    database.close()


def test_a_folder_takes_what_is_new(site, tmp_path):
    settings, database = site
    (tmp_path / "backups").mkdir()
    first = make(settings, database, tmp_path / "backups")
    BlobStore(settings.blobs_address).add_bytes(b"another model")
    second = make(settings, database, tmp_path / "backups", now=NOW.replace(minute=1))
    assert (first.written, second.written, second.blobs) == (2, 1, 3)
    there = Settings(data=str(tmp_path / "there"))
    assert restore(tmp_path / "backups", there).blobs == 3


@pytest.mark.parametrize("rot", ["content", "length", "link"])
def test_a_blob_that_has_rotted_in_the_folder_is_written_again(site, tmp_path, rot):
    settings, database = site
    (tmp_path / "backups").mkdir()
    make(settings, database, tmp_path / "backups")
    blob = next(path for path in (tmp_path / "backups/blobs").rglob("*") if path.is_file())
    if rot == "link":
        blob.rename(tmp_path / "elsewhere")
        blob.symlink_to(tmp_path / "elsewhere")
    else:
        blob.write_bytes(b"A model" if rot == "content" else b"a mod")
    again = command(settings, tmp_path / "backups")
    assert again.returncode == 0, again.stderr
    assert "(1 new)" in again.stdout
    assert "1 blobs of earlier backups were damaged" in again.stderr
    assert not blob.is_symlink()
    assert blob.read_bytes() == b"a model"
    third = make(settings, database, tmp_path / "backups", now=NOW.replace(minute=2))
    assert (third.written, third.mended) == (0, 0)
    reader = open_backup(tmp_path / "backups", Path(third.path).name)
    assert check_backup(reader, OPTIONS).made_at == NOW.replace(minute=2)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_damaged_blobs_are_named_with_the_versions_that_they_are_of(site, tmp_path, kind):
    settings, database = site
    reference = Reference(
        definition=1, source="evaluation", dataset=digest_of(b"x"), rows=1, inputs=(), features=()
    )
    for model in ("har", "kws"):
        publish(database, BlobStore(settings.blobs_address), reference, model)
    target = tmp_path / "backup"
    if kind == "folder":
        target.mkdir()
    make(settings, database, target)
    for content in (b"har", b"a log"):  # the model's file, and what is of no version
        if kind == "file":
            block = content.ljust(512, b"\0")
            assert target.read_bytes().count(block) == 1
            target.write_bytes(target.read_bytes().replace(block, b"X" + block[1:]))
        else:
            (blob,) = target.rglob(sha256(content).hexdigest())
            blob.write_bytes(b"X" + content[1:])
    there = Settings(data=str(tmp_path / "there"))
    with pytest.raises(ServerError) as caught:
        restore(target, there)
    assert caught.value.code == "backup.damaged"
    assert "they are of har 1" in caught.value.detail
    assert caught.value.data["versions"] == ["har 1"]
    assert caught.value.data["blobs"] == sorted(map(digest_of, (b"har", b"a log")))
    assert not there.data_path.exists()


def test_without_keys_there_are_none(site, tmp_path):
    settings, database = site
    made = make(settings, database, tmp_path / "backup", passphrase=None)
    there = Settings(data=str(tmp_path / "there"))
    refused(lambda: restore(tmp_path / "backup", there), "backup.forged")
    restore(tmp_path / "backup", there, RestoreOptions(expected=made.manifest))
    assert not list(there.data_path.rglob("*.key"))
    assert not (there.data_path / "keys").exists()
    assert b"PRIVATE" not in (tmp_path / "backup").read_bytes()


def test_nothing_stays_after_a_refusal_and_nothing_is_written_over(site, tmp_path):
    settings, database = site
    source = tmp_path / "backup"
    make(settings, database, source)
    place = tmp_path / "place"
    place.mkdir()
    there = Settings(data=str(place / "there"))
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    refused(lambda: restore(source, there), "backup.damaged")
    source.write_bytes(whole)
    refused(lambda: restore(source, there, RestoreOptions(passphrase=b"x" * 20)), "backup.forged")
    assert list(place.iterdir()) == []
    (place / "there").mkdir()  # as a package makes it, or a container's volume
    refused(lambda: restore(source, there, RestoreOptions(passphrase=b"x" * 20)), "backup.forged")
    assert list((place / "there").iterdir()) == []
    (place / "there").rmdir()
    (place / "there").mkdir()
    (place / "there/mine").write_text("precious")
    refused(lambda: restore(source, there), "backup.not_empty")
    assert (place / "there/mine").read_text() == "precious"
    refused(lambda: make(settings, database, source), "backup.exists")


def test_a_folder_that_was_there_stays_the_same(site, tmp_path):
    """It may be a volume, or lie where the server's user may make no other."""
    settings, database = site
    make(settings, database, tmp_path / "backup")
    there = Settings(data=str(tmp_path / "there"))
    there.data_path.mkdir()
    before = there.data_path.stat().st_ino
    restore(tmp_path / "backup", there)
    assert there.data_path.stat().st_ino == before
    assert not (there.data_path / UNFINISHED).exists()
    assert read_restored(there.data_path) is not None


def test_what_was_restored_in_part_is_not_started(site, tmp_path):
    settings, database = site
    make(settings, database, tmp_path / "backup")
    there = Settings(data=str(tmp_path / "there"))
    (there.data_path / UNFINISHED).mkdir(parents=True)
    refused(lambda: read_restored(there.data_path), "backup.unfinished")
    refused(lambda: restore(tmp_path / "backup", there), "backup.not_empty")
    (found,) = check_data(there)
    assert "has not ended" in found.detail


def test_a_backup_is_whole_while_others_write(tmp_path):
    """Rows come all the time; what is copied is one moment, and its audit log is unbroken."""
    data = tmp_path / "data"
    data.mkdir()
    settings = Settings(data=str(data))
    database = open_migrated(settings.database_address)
    AuditLog(database, lambda: NOW)
    Repository.open(data / "tuf", Keys.open(data / "keys"), NOW)
    Authority.open(data / "pki", NOW)
    script = (
        "import sys; sys.path[:0] = ['tests']\n"
        "from datetime import UTC, datetime\n"
        "from edgectl_server.audit import AuditLog, note\n"
        "from edgectl_server.storage.database import Database\n"
        f"database = Database({settings.database_address!r})\n"
        "AuditLog(database, lambda: datetime(2026, 1, 1, tzinfo=UTC))\n"
        "print('go', flush=True)\n"
        "for number in range(2000):\n"
        "    with database.write() as session:\n"
        "        note(session, 'tick', str(number), {})\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        assert writer.stdout.readline() == b"go\n"
        made = [make(settings, database, tmp_path / f"backup-{number}") for number in range(3)]
    finally:
        writer.kill()
        writer.communicate()
    counts = []
    for number, _ in enumerate(made):
        there = Settings(data=str(tmp_path / f"there-{number}"))
        restore(tmp_path / f"backup-{number}", there)
        found = sqlite3.connect(there.data_path / "edgectl.sqlite")
        chain = found.execute("SELECT previous, hash FROM audit_entry ORDER BY number").fetchall()
        head = found.execute("SELECT number, hash FROM audit_head").fetchone()
        found.close()
        assert all(one[1] == two[0] for one, two in pairwise(chain))
        assert head[0] == len(chain)
        counts.append(len(chain))
    assert counts == sorted(counts)
    database.close()


def test_a_check_reads_to_the_last_byte(site, tmp_path):
    settings, database = site
    source = tmp_path / "backup"
    make(settings, database, source)
    reader = open_backup(source)
    assert check_backup(reader, OPTIONS).made_at == NOW
    reader.close()
    whole = bytearray(source.read_bytes())
    place = whole.index(b"a log")
    whole[place] ^= 1
    source.write_bytes(whole)
    reader = open_backup(source)
    refused(lambda: check_backup(reader, OPTIONS), "backup.damaged")
    reader.close()


def test_newer_metadata_and_revocations_must_be_this_servers(site, tmp_path):
    settings, database = site
    make(settings, database, tmp_path / "backup")
    data = settings.data_path
    authority = Authority.open(data / "pki", NOW)
    authority.revoke("abc", NOW)
    (tmp_path / "revoked.pem").write_bytes(authority.crl_pem(NOW))
    stranger = Authority.open(tmp_path / "stranger", NOW)
    (tmp_path / "strange.pem").write_bytes(stranger.crl_pem(NOW))
    Repository.open(tmp_path / "strange-tuf", Keys.open(tmp_path / "strange-keys"), NOW)
    there = Settings(data=str(tmp_path / "there"))

    def attempt(**newer):
        options = RestoreOptions(passphrase=PASSPHRASE, **newer)
        return restore(tmp_path / "backup", there, options)

    refused(lambda: attempt(revocations=tmp_path / "strange.pem"), "backup.revocations")
    refused(lambda: attempt(revocations=tmp_path / "backup"), "backup.revocations")
    refused(lambda: attempt(metadata=tmp_path / "strange-tuf"), "backup.metadata")
    refused(lambda: attempt(metadata=tmp_path / "strange-keys"), "backup.metadata")
    repository = Repository.open(data / "tuf", Keys.open(data / "keys"), NOW)
    repository.number_ahead(5, NOW)
    attempt(metadata=data / "tuf", revocations=tmp_path / "revoked.pem")
    assert Authority.open(there.data_path / "pki", NOW).is_revoked(0xABC)
    newest = (data / "tuf/timestamp.json").read_bytes()
    assert (there.data_path / "tuf/timestamp.json").read_bytes() == newest


def command(settings, target):
    """Run `edgectl server backup`, without keys."""
    words = ["server", "backup", str(target), "--without-keys", "--data", settings.data]
    if settings.database_url:
        words += ["--database-url", settings.database_url]
    return subprocess.run(
        [sys.executable, "-m", "edgectl", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_tables_of_an_older_edgectl_are_left_to_it(site, tmp_path):
    settings, database = site
    older = sqlalchemy.text("UPDATE alembic_version SET version_num = '0001_first'")
    with database.engine.begin() as connection:
        connection.execute(older)
    done = command(settings, tmp_path / "backup")
    assert done.returncode == 1
    assert "database.older" in done.stderr, done.stderr
    assert database.revisions()[0] == "0001_first", "nothing was changed under whoever works on it"
    assert not (tmp_path / "backup").exists()


def test_a_database_without_tables_is_no_servers(site, tmp_path):
    settings, database = site
    database.close()
    if settings.database_url:  # the operator names the folder, and not the database
        settings = Settings(data=settings.data)
    else:
        (settings.data_path / "edgectl.sqlite").unlink()
    done = command(settings, tmp_path / "backup")
    assert done.returncode == 1
    assert "database.empty" in done.stderr, done.stderr
    assert not (settings.data_path / "edgectl.sqlite").exists()
    assert not (tmp_path / "backup").exists()
