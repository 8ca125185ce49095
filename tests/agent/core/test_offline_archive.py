"""The file of an exported version may be anybody's: what is read of it, and what is refused."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from agent.core.made import START, simple_bundle
from agent.core.offline_file import header, index_of, tar
from edgectl_agent.core.record import Floor
from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import Refused
from edgectl_agent.local_messages import Install
from edgectl_agent.offline import Packages
from edgectl_agent.offline_archive import open_archive, refusals
from edgectl_agent.offline_install import OfflineInstaller, Prepared
from edgectl_agent.store import Store
from edgectl_agent.trust.process import Trust
from edgectl_protocol.archives import Archive
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.offline import (
    ENTRIES_MAX,
    INDEX_FILE,
    LAYOUT_CONTENT,
    LAYOUT_FILE,
    blob_file,
    candidates_of,
    decode_index,
)

BUNDLE = simple_bundle("1")
GOOD = {
    LAYOUT_FILE: LAYOUT_CONTENT,
    INDEX_FILE: index_of(BUNDLE),
    "edgectl/metadata/timestamp.json": b"{}",
    "edgectl/metadata/1.root.json": b"{}",
    **{blob_file(digest): content for digest, content in BUNDLE.blobs.items()},
}


@pytest.fixture
def opened(tmp_path: Path):
    """Opens content as an archive."""
    handles = []

    def open_it(content: bytes) -> Archive:
        path = tmp_path / f"file-{len(handles)}"
        path.write_bytes(content)
        handles.append(os.open(path, os.O_RDONLY))
        return open_archive(handles[-1])

    yield open_it
    for handle in handles:
        os.close(handle)


Open = Callable[[bytes], Archive]


def refused(open_it: Open, content: bytes) -> str:
    with pytest.raises(Refused) as caught, refusals():
        open_it(content)
    assert caught.value.hint
    return f"{caught.value.code}: {caught.value.detail}"


def test_what_is_in_a_good_file(opened: Open) -> None:
    archive = opened(tar(GOOD))
    model, version, candidates = candidates_of(decode_index(archive.index()))
    assert (model, version) == ("activity", "1")
    assert candidates == (BUNDLE.candidate,)
    assert set(archive.metadata()) == {"timestamp.json", "1.root.json"}
    for digest, content in BUNDLE.blobs.items():
        archive.check_blob(digest, len(content))
        assert b"".join(archive.chunks(digest)) == content
    assert archive.small_blob(BUNDLE.digest, 65536) == BUNDLE.manifest


def test_another_program_reads_it_too(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar(GOOD))
    listed = subprocess.run(
        ["tar", "-tf", str(tmp_path / "x.tar")], capture_output=True, text=True, check=True
    )
    assert listed.stdout.split() == list(GOOD)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "blobs/sha256/../../../etc/passwd",
        "blobs/sha256/" + "A" * 64,
        "blobs/sha256/" + "a" * 63,
        "blobs/sha512/" + "a" * 64,
        "edgectl/metadata/../../x.json",
        "edgectl/metadata/1.root.json/x",
        "edgectl/metadata/01.root.json",
        "edgectl/other",
        "./oci-layout",
        "oci-layout/",
        "manifest.json",
        "",
    ],
)
def test_names_that_no_exported_version_has(opened: Open, name: str) -> None:
    said = refused(opened, tar({**GOOD, name: b"x"}))
    assert said.startswith("offline.malformed")


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S", b"x", b"g", b"L"])
def test_what_is_no_plain_file(opened: Open, kind: bytes) -> None:
    name = blob_file("sha256:" + "a" * 64)
    content = header(name, 0, kind, link="/etc/passwd" if kind in b"12" else "") + tar(GOOD)
    assert refused(opened, content).startswith("offline.malformed")


def test_a_plain_entry_with_the_target_of_a_link(opened: Open) -> None:
    name = blob_file("sha256:" + "a" * 64)
    content = header(name, 0, b"0", link="/etc/passwd") + tar(GOOD)
    assert "target or a prefix" in refused(opened, content)


def test_the_same_name_twice(opened: Open) -> None:
    assert "twice" in refused(opened, tar([*GOOD.items(), (INDEX_FILE, b"{}")]))


@pytest.mark.parametrize("missing", [LAYOUT_FILE, INDEX_FILE])
def test_something_that_must_be_in_it_is_missing(opened: Open, missing: str) -> None:
    content = tar({name: one for name, one in GOOD.items() if name != missing})
    assert missing in refused(opened, content)


def test_a_million_entries_cost_nothing(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "many"
    with path.open("wb") as file:
        for number in range(ENTRIES_MAX + 8):
            file.write(header(blob_file(f"sha256:{number:064x}"), 0))
        file.truncate(512 * 1_000_000)  # the rest of them, never looked at
    handle = os.open(path, os.O_RDONLY)
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match="more than"), refusals():
            open_archive(handle)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
        os.close(handle)


def test_compressed_files_are_not_unpacked(opened: Open) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    assert refused(opened, bomb).startswith("offline.compressed")
    assert refused(opened, gzip.compress(tar(GOOD))).startswith("offline.compressed")
    assert refused(opened, b"\x28\xb5\x2f\xfd" + bytes(2048)).startswith("offline.compressed")


def test_every_truncation_is_refused(opened: Open) -> None:
    content = tar(GOOD)
    random_ = random.Random(5)
    places = [0, 1, 511, 512, 513, *(random_.randrange(len(content) - 1024) for _ in range(60))]
    for length in places:
        said = refused(opened, content[:length])
        assert said.startswith(("offline.truncated", "offline.malformed")), (length, said)


@pytest.mark.parametrize(
    "size",
    [
        b"77777777777\0",
        b"\x80" + b"\0" * 10 + b"\x01",
        b"-0000000001\0",
        b"0x000000001\0",
        b" " * 12,
    ],
)
def test_lengths_that_no_file_has(opened: Open, size: bytes) -> None:
    block = bytearray(header(blob_file("sha256:" + "b" * 64), 1))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    assert "length" in refused(opened, bytes(block) + bytes(2048))


def test_altered_blobs_are_found_before_they_are_used(opened: Open) -> None:
    digest, content = next(iter(BUNDLE.blobs.items()))
    altered = content[:-1] + bytes([content[-1] ^ 1])
    archive = opened(tar({**GOOD, blob_file(digest): altered}))
    with pytest.raises(Refused, match=r"offline\.damaged"), refusals():
        archive.check_blob(digest, len(content))
    with pytest.raises(Refused, match=r"offline\.damaged"), refusals():
        archive.small_blob(digest, 1_000_000)
    shorter = opened(tar({**GOOD, blob_file(digest): content[:-1]}))
    with pytest.raises(Refused, match=r"offline\.damaged"), refusals():
        shorter.check_blob(digest, len(content))
    with pytest.raises(Refused, match="at most"), refusals():
        opened(tar(GOOD)).small_blob(digest, 10)


def test_what_is_no_ordinary_file_is_not_read(tmp_path: Path) -> None:
    for make in (lambda: os.open(tmp_path, os.O_RDONLY), lambda: os.open("/dev/zero", os.O_RDONLY)):
        handle = make()
        try:
            with pytest.raises(Refused, match=r"offline\.file"):
                open_archive(handle)
        finally:
            os.close(handle)


def test_flipped_bits_are_accepted_or_refused_and_nothing_else(opened: Open) -> None:
    content = tar(GOOD)
    random_ = random.Random(7)
    for _ in range(400):
        spoiled = bytearray(content)
        for _ in range(random_.randrange(1, 4)):
            spoiled[random_.randrange(4096)] ^= 1 << random_.randrange(8)
        try:
            archive = opened(bytes(spoiled))
            candidates_of(decode_index(archive.index()))
            archive.metadata()
        except ProtocolError:
            pass


def test_the_index_is_of_the_variants_of_one_version() -> None:
    for spoiled in (
        index_of(BUNDLE, BUNDLE),
        index_of(BUNDLE, simple_bundle("2")),
        index_of(BUNDLE, simple_bundle("1", model="other")),
        index_of(BUNDLE).replace(b"models/activity/1/fp32", b"models/../1/fp32"),
        index_of(BUNDLE).replace(b"models/activity/1/fp32", b"models/activity/1"),
        index_of(*(simple_bundle("1", variant=f"v{n}") for n in range(9))),
        b"[]",
        b"{" * 100_000,
    ):
        with pytest.raises(ProtocolError):
            candidates_of(decode_index(spoiled))


def test_one_file_at_a_time(tmp_path: Path) -> None:
    """While the first is still being read, the second is refused, and a third one later is not."""
    reading, go_on = threading.Event(), threading.Event()

    class SlowInstaller(OfflineInstaller):
        def _prepare(self, archive: Archive, request: Install) -> Prepared:
            reading.set()
            assert go_on.wait(30)
            raise Refused("offline.file", "this one is nothing")

    installer = SlowInstaller(
        store=Store(RealDisk(tmp_path)),
        packages=Packages(RealDisk(tmp_path)),
        trust=cast("Trust", None),
        floor=Floor,
        runtimes=tuple,
        now=lambda: START,
        stopping=lambda: False,
    )
    (tmp_path / "file").write_bytes(tar(GOOD))
    handle = os.open(tmp_path / "file", os.O_RDONLY)

    def code() -> str:
        with pytest.raises(Refused) as caught:
            installer.prepare(handle, Install(name="file"))
        return caught.value.code

    try:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(code)
            assert reading.wait(30)
            assert code() == "offline.busy"
            go_on.set()
            assert first.result(30) == "offline.file"
        assert code() == "offline.file"
    finally:
        os.close(handle)
