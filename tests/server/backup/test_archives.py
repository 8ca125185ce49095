"""What somebody may have made of a backup: refused with a code, and nothing is written anywhere."""

import contextlib
import io
import os
import tarfile
from datetime import UTC, datetime
from hashlib import sha256

import msgspec
import pytest

from edgectl_server.backup.archives import FileReader, FileWriter, FolderReader, FolderWriter
from edgectl_server.backup.checking import check_members, read_backup
from edgectl_server.backup.manifest import (
    DATABASE,
    FORMAT,
    SEALED,
    Backup,
    Member,
    blob_name,
    decode_manifest,
    encode_manifest,
)
from edgectl_server.backup.sealing import Seal
from edgectl_server.errors import ServerError

MADE_AT = datetime(2026, 11, 30, tzinfo=UTC)
PASSPHRASE = b"correct horse battery"
DATA = {DATABASE: b"rows", "tuf/1.root.json": b"{}", "pki/authority.pem": b"pem"}
BLOB = b"blob" * 1000


def member(name, content):
    return Member(name=name, size=len(content), sha256=sha256(content).hexdigest())


def listed(files=DATA, blobs=(BLOB,), sealing=None):
    return Backup(
        format=FORMAT,
        made_at=MADE_AT,
        made_by="0",
        revision="0001_first",
        authority="0",
        sealing=sealing,
        files=[member(name, content) for name, content in files.items()],
        blobs={sha256(one).hexdigest(): len(one) for one in blobs},
        uploads={},
    )


def contents(blobs=(BLOB,)):
    return DATA | {blob_name("blobs", sha256(one).hexdigest()): one for one in blobs}


def write(writer, backup, content, mac=None):
    writer.begin(encode_manifest(backup), mac)
    for name, bytes_ in content.items():
        if not writer.has(member(name, bytes_)):
            writer.add(member(name, bytes_), [bytes_])
    return writer.finish()


@pytest.fixture
def file(tmp_path):
    return write(FileWriter(tmp_path / "backup"), listed(), contents())


def read(reader, passphrase=None):
    with contextlib.closing(reader):
        return read_all(reader, passphrase)


def read_list(path, *given):
    with contextlib.closing(FileReader(path)) as reader:
        return read_backup(reader, *given)


def read_all(reader, passphrase):
    got = {}

    def sink(one):
        got[one.name] = bytearray()
        return got[one.name].extend

    backup, _ = read_backup(reader, passphrase)
    names = [one.name for one in check_members(reader, backup, sink)]
    return {name: bytes(got[name]) for name in names}


def refused(call, *codes):
    with pytest.raises(ServerError) as caught:
        call()
    assert caught.value.code in codes, caught.value.detail
    assert caught.value.hint


def test_a_file_comes_back_and_any_tar_can_read_it(file):
    assert read(FileReader(file)) == contents()
    with tarfile.open(file, "r:") as archive:
        assert archive.getnames() == ["manifest.json", *contents()]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_folder_keeps_each_blob_once(tmp_path):
    folder = tmp_path / "backups"
    write(FolderWriter(folder, "20261130T000000Z"), listed(), contents())
    more = (BLOB, b"another")
    second = FolderWriter(folder, "20261130T000001Z")
    assert second.has(member(blob_name("blobs", sha256(BLOB).hexdigest()), BLOB))
    write(second, listed(blobs=more), contents(more))
    assert read(FolderReader(folder)) == contents(more)
    assert read(FolderReader(folder, "20261130T000000Z")) == contents()
    assert len(list(folder.glob("blobs/sha256/*/*"))) == 2


def test_every_flipped_byte_of_a_file_is_noticed(file):
    whole = file.read_bytes()
    expected = read(FileReader(file))
    tolerated, noticed = 0, set()
    for place in range(0, len(whole), 41):
        broken = bytearray(whole)
        broken[place] ^= 0x20
        file.write_bytes(broken)
        try:
            got = read(FileReader(file))
        except ServerError as error:
            noticed.add(error.code)
        else:
            assert got == expected, place  # padding, or a field of the list that names nothing
            tolerated += 1
    assert noticed <= {"backup.manifest", "backup.damaged", "backup.forged"}
    assert tolerated < len(whole) / 41 / 2


def test_every_cut_file_is_refused(file):
    whole = file.read_bytes()
    for length in range(0, len(whole) - 1024, 97):
        file.write_bytes(whole[:length])
        refused(lambda: read(FileReader(file)), "backup.manifest", "backup.damaged")


@pytest.mark.parametrize(
    "kind",
    [
        *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE),
        *(tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE),
    ],
)
def test_what_is_no_plain_file_is_refused(file, kind):
    evil = tarfile.TarInfo("tuf/1.root.json")
    evil.type, evil.linkname, evil.size = kind, "/etc/passwd", 2**40
    whole = file.read_bytes()
    file.write_bytes(whole[:-1024] + evil.tobuf(tarfile.GNU_FORMAT) + whole[-1024:])
    refused(lambda: read(FileReader(file)), "backup.forged")


def test_a_second_member_of_one_name_and_one_more_are_refused(file):
    whole = file.read_bytes()
    for name in ("tuf/1.root.json", "tuf/2.root.json", "../escaped", "/etc/cron.d/x"):
        stream = io.BytesIO()
        extra = tarfile.TarInfo(name)
        extra.size = 2
        stream.write(extra.tobuf(tarfile.USTAR_FORMAT) + b"{}" + bytes(510))
        file.write_bytes(whole[:-1024] + stream.getvalue() + whole[-1024:])
        refused(lambda: read(FileReader(file)), "backup.forged")


@pytest.mark.parametrize(
    "name",
    [
        *("tuf/../../x", "../x", "/etc/x", "tuf/.hidden", "tuf//x", "tuf", "keys/root.pem", ""),
        *(
            "tuf/a/b/c/d",
            "edgectl.sqlite",
            "blobs/sha256/aa/x",
            "tuf/x\n",
            "tuf/\u2028",
            "audit/./x",
        ),
    ],
)
def test_a_list_names_only_what_a_server_has(name):
    refused(lambda: decode_manifest(encode_manifest(listed(DATA | {name: b""}))), "backup.manifest")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "edgectl-backup/2"},
        {"made_at": "2026-11-30T00:00:00"},
        {"files": []},
        {"blobs": {"../x": 1}},
        {"blobs": {"0" * 64: -1}},
        {"unknown": 1},
        {"sealing": {"salt": "0" * 32}},
        {"files": [{"name": DATABASE, "size": 2**60, "sha256": "0" * 64}]},
        {"files": [{"name": "tuf/x", "size": 2**40, "sha256": "0" * 64}]},
    ],
)
def test_a_list_that_is_not_ours_is_refused(change):
    document = msgspec.json.decode(encode_manifest(listed())) | change
    refused(lambda: decode_manifest(msgspec.json.encode(document)), "backup.manifest")


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b"\xff", b"null"])
def test_bytes_that_are_no_list_are_refused(content):
    refused(lambda: decode_manifest(content), "backup.manifest")


def test_a_member_larger_than_listed_is_not_read_on(tmp_path):
    backup = listed()
    grown = contents() | {"tuf/1.root.json": b"{}" + bytes(10**6)}
    path = write(FileWriter(tmp_path / "grown"), backup, grown)
    refused(lambda: read(FileReader(path)), "backup.damaged")


def test_links_and_devices_in_a_folder_are_refused(tmp_path):
    folder = tmp_path / "backups"
    own = write(FolderWriter(folder, "20261130T000000Z"), listed(), contents())
    root = own / "tuf/1.root.json"
    (tmp_path / "elsewhere").write_bytes(root.read_bytes())
    root.unlink()
    root.symlink_to(tmp_path / "elsewhere")
    refused(lambda: read(FolderReader(folder)), "backup.unreadable")
    root.unlink()
    os.mkfifo(root)
    refused(lambda: read(FolderReader(folder)), "backup.manifest")


def test_only_who_knows_the_passphrase_can_change_a_backup(tmp_path):
    seal = Seal(PASSPHRASE)
    sealed = seal.close({"keys/root.pem": b"secret"})
    files = DATA | {SEALED: sealed}
    backup = listed(files, sealing=seal.sealing)
    content = {**files, **contents()}
    path = write(FileWriter(tmp_path / "a"), backup, content, seal.mac(encode_manifest(backup)))
    assert b"secret" not in path.read_bytes()
    found, opened = read_list(path, PASSPHRASE)
    assert found == backup
    assert opened.open(sealed) == {"keys/root.pem": b"secret"}
    refused(lambda: read_list(path, b"another passphrase"), "backup.forged")

    other = listed({**files, "tuf/1.root.json": b"[]"}, sealing=seal.sealing)
    forged = write(FileWriter(tmp_path / "b"), other, content, seal.mac(encode_manifest(backup)))
    refused(lambda: read_list(forged, PASSPHRASE), "backup.forged")
    stripped = write(FileWriter(tmp_path / "c"), backup, content)
    refused(lambda: read_list(stripped, PASSPHRASE), "backup.forged")
    digest = sha256(encode_manifest(backup)).hexdigest()
    assert read_list(path, None, f"sha256:{digest}")[0] == backup
    refused(lambda: read_list(forged, None, f"sha256:{digest}"), "backup.forged")


def test_the_secret_part_holds_secrets_and_nothing_else():
    seal = Seal(PASSPHRASE)
    for name in ("../x", "keys/../../x", "tuf/1.root.json", "keys/a/b", "edgectl.sqlite", "/x"):
        refused(lambda name=name: seal.open(seal.close({name: b""})), "backup.forged")
    refused(lambda: seal.open(b"short"), "backup.forged")
    closed = seal.close({})
    refused(lambda: seal.open(closed[:-1] + bytes([closed[-1] ^ 1])), "backup.forged")
    refused(lambda: Seal(b"short"), "backup.passphrase")


def test_nothing_is_written_over(file, tmp_path):
    refused(lambda: FileWriter(file), "backup.exists")
    writer = FileWriter(tmp_path / "other")
    writer.begin(encode_manifest(listed()), None)
    writer.discard()
    assert [one.name for one in tmp_path.iterdir()] == ["backup"]
    refused(lambda: FolderReader(tmp_path), "backup.unknown")
