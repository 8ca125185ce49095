"""The blob store in a folder: content under its digest, whole, once."""

import os
import subprocess
import sys

import pytest

from edgectl_protocol.names import digest_of
from edgectl_server.errors import NotFound, Refused, Unavailable
from edgectl_server.storage.blobs import BlobStore

NONE = "sha256:" + "0" * 64


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(str(tmp_path / "blobs"))


def stored_file(tmp_path, digest):
    name = digest.removeprefix("sha256:")
    return tmp_path / "blobs" / "sha256" / name[:2] / name


@pytest.mark.parametrize("length", [0, 1, 65536, 65537, 9 * 1024**2 + 5])
def test_what_goes_in_comes_out(blobs, tmp_path, length):
    content = os.urandom(length)
    source = tmp_path / "source"
    source.write_bytes(content)
    digest = blobs.add_file(source)
    assert digest == digest_of(content) == blobs.add_bytes(content)
    assert blobs.exists(digest)
    assert blobs.size(digest) == length
    assert blobs.read(digest) == content
    assert blobs.read(digest, 10, 20) == content[10:30]
    assert blobs.read(digest, length) == b""
    pieces = list(blobs.stream(digest, 65536))
    assert b"".join(pieces) == content
    assert all(len(piece) == 65536 for piece in pieces[:-1])
    blobs.copy_to(digest, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert source.exists()


def test_consuming_moves_the_file(blobs, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"content")
    inode = source.stat().st_ino
    digest = blobs.add_file(source, consume=True)
    assert not source.exists()
    assert stored_file(tmp_path, digest).stat().st_ino == inode
    assert blobs.read(digest) == b"content"


def test_other_content_than_expected_is_refused(blobs, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"content")
    with pytest.raises(Refused) as caught:
        blobs.add_file(source, expected=NONE, consume=True)
    assert caught.value.code == "blob.digest"
    assert source.exists()
    assert not blobs.exists(digest_of(b"content"))


def test_what_is_missing_is_named(blobs, tmp_path):
    assert not blobs.exists(NONE)
    for look in (blobs.size, blobs.read, lambda digest: list(blobs.stream(digest))):
        with pytest.raises(NotFound) as caught:
            look(NONE)
        assert NONE in caught.value.detail


def test_a_torn_blob_is_written_again(blobs, tmp_path):
    digest = blobs.add_bytes(b"content")
    stored_file(tmp_path, digest).write_bytes(b"")  # as after a power loss
    assert blobs.add_bytes(b"content") == digest
    assert blobs.read(digest) == b"content"


def test_damaged_content_is_not_handed_out(blobs, tmp_path):
    digest = blobs.add_bytes(b"content")
    stored_file(tmp_path, digest).write_bytes(b"CONTENT")
    with pytest.raises(Unavailable) as caught:
        blobs.copy_to(digest, tmp_path / "copy")
    assert caught.value.code == "blobs.damaged"
    assert not (tmp_path / "copy").exists()


def test_parts_that_were_cut_short_are_swept(blobs, tmp_path):
    digest = blobs.add_bytes(b"content")
    part = stored_file(tmp_path, digest).with_name("f" * 64 + "#1")
    part.write_bytes(b"half")
    BlobStore(str(tmp_path / "blobs"))
    assert part.exists(), "somebody may be putting it, beside a backup for instance"
    os.utime(part, (0, 0))
    again = BlobStore(str(tmp_path / "blobs"))
    assert not part.exists()
    assert again.read(digest) == b"content"


def test_an_unknown_store_is_said_plainly():
    with pytest.raises(Unavailable) as caught:
        BlobStore("nothing://bucket")
    assert caught.value.code == "blobs.unavailable"


MEMORY = """
import resource, sys
from pathlib import Path
from edgectl_server.storage.blobs import BlobStore
blobs = BlobStore(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
digest = blobs.add_file(Path(sys.argv[2]))
sum(len(piece) for piece in blobs.stream(digest))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_large_blob_costs_little_memory(tmp_path):
    source = tmp_path / "source"
    with source.open("wb") as file:
        for _ in range(128):
            file.write(os.urandom(1024**2))
    answer = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "blobs"), str(source)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert int(answer.stdout) * 1024 < 64 * 1024**2
