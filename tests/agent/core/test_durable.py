"""The real disk, the journal on it, and what damage does to the journal."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.made import make_order, simple_bundle, slot_order
from agent.core.simulated_disk import SimulatedDisk
from edgectl_agent.core.record import EMPTY, Record, decode_record
from edgectl_agent.durable import PRIVATE, RealDisk
from edgectl_agent.journal import JOURNAL_BYTES_MAX, Journal, records_of
from edgectl_protocol.messages import SLOTS_MAX

RECORD = Record(order=make_order(7, [simple_bundle("1")]))


def test_a_file_is_replaced_whole_and_nothing_is_left_over(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "state")
    disk.make_directory("a/b")
    disk.write_atomic("a/b/file", b"old")
    disk.write_atomic("a/b/file", b"new")
    assert disk.read("a/b/file") == b"new"
    assert disk.list("a/b") == ("file",)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_private_file_is_private_from_its_first_moment(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    (tmp_path / "key.tmp").write_bytes(b"left over, and readable by all")
    (tmp_path / "key.tmp").chmod(0o644)
    before = os.umask(0)
    try:
        disk.write_atomic("key", b"secret", PRIVATE)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside", "a/../../outside"])
def test_no_path_leads_out_of_the_state_directory(tmp_path: Path, path: str) -> None:
    with pytest.raises(AssertionError):
        RealDisk(tmp_path).read(path)


@pytest.mark.parametrize("make", [RealDisk, lambda _: SimulatedDisk()])
def test_both_disks_do_the_same(tmp_path: Path, make: object) -> None:
    """The simulation is worth nothing if it simulates another disk."""
    disk = make(tmp_path)  # type: ignore[operator]
    disk.make_directory("d")
    disk.allocate("d/f", 10)
    disk.write_at("d/f", 3, b"abc")
    disk.append("d/f", b"end")
    disk.sync("d/f")
    disk.sync_directory("d")
    assert disk.read("d/f") == bytes(3) + b"abc" + bytes(4) + b"end"
    assert disk.read("d/f", 4) == b"\0\0\0a"
    assert b"".join(disk.blocks("d/f")) == disk.read("d/f")
    assert disk.size("d/f") == 13
    assert disk.size("d/other") is None
    assert disk.list("missing") == ()
    disk.rename_durably("d/f", "d/g")
    disk.unlink("d/f")
    assert disk.list("d") == ("g",)
    for missing in (
        lambda: disk.read("d/f"),
        lambda: disk.write_at("d/f", 0, b""),
        lambda: disk.sync("d/f"),
        lambda: disk.rename("d/f", "d/h"),
    ):
        with pytest.raises(FileNotFoundError):
            missing()
    disk.unlink_durably("d/g")
    assert disk.list("d") == ()


def test_the_journal_gives_back_what_was_saved_last(tmp_path: Path) -> None:
    journal = Journal(RealDisk(tmp_path))
    assert journal.load() == EMPTY
    journal.save(RECORD)
    later = msgspec.structs.replace(RECORD, stopped=True)
    journal.save(later)
    assert Journal(RealDisk(tmp_path)).load() == later


def test_a_journal_without_times_is_read(tmp_path: Path) -> None:
    """As the agents wrote that kept none; and one that keeps more is read by them."""
    text = msgspec.json.encode(RECORD)
    assert b'"at"' not in text
    line = hashlib.sha256(text).hexdigest()[:16].encode() + b" " + text + b"\n"
    (tmp_path / "journal").write_bytes(line)
    assert Journal(RealDisk(tmp_path)).load() == RECORD
    later = msgspec.json.decode(text) | {"from a later agent": 1}
    assert decode_record(msgspec.json.encode(later)) == RECORD


def test_a_long_journal_is_replaced_by_its_last_line(tmp_path: Path) -> None:
    journal = Journal(RealDisk(tmp_path))
    journal.load()
    for _ in range(2 * JOURNAL_BYTES_MAX // len(msgspec.json.encode(RECORD))):
        journal.save(RECORD)
        assert (tmp_path / "journal").stat().st_size <= JOURNAL_BYTES_MAX
    assert Journal(RealDisk(tmp_path)).load() == RECORD


@pytest.mark.parametrize("slots", [1, SLOTS_MAX])
def test_a_start_keeps_the_newest_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    """Also where a single line is longer than what is kept."""
    kept = 2048
    monkeypatch.setattr("edgectl_agent.journal.KEPT_BYTES", kept)
    wanted = {f"slot{n}": slot_order([simple_bundle("1")]) for n in range(slots)}
    record = Record(order=make_order(7, [], more=wanted))
    length = len(msgspec.json.encode(record))
    assert (length > kept) == (slots > 1)
    disk = RealDisk(tmp_path)
    journal = Journal(disk)
    while (disk.size("journal") or 0) <= 4 * kept:
        journal.save(record)
    again = Journal(disk)
    assert again.load() == record
    lines = disk.read("journal").split(b"\n")[:-1]
    assert len(records_of(disk.read("journal"))) == len(lines)
    assert len(lines) == max(1, kept // (len(lines[-1]) + 1))
    again.save(EMPTY)
    assert Journal(disk).load() == EMPTY


def test_a_journal_without_a_good_line_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"\xff" * 100)
    assert Journal(RealDisk(tmp_path)).load() == EMPTY
    assert (tmp_path / "journal.damaged").read_bytes() == b"\xff" * 100


@settings(max_examples=100, deadline=None)
@given(tail=st.binary(max_size=300), cut=st.integers(0, 400))
def test_whatever_stands_behind_the_last_good_line_is_no_matter(tail: bytes, cut: int) -> None:
    disk = SimulatedDisk()
    journal = Journal(disk)
    journal.load()
    journal.save(RECORD)
    good = disk.read("journal")
    journal.save(msgspec.structs.replace(RECORD, stopped=True))
    torn = disk.read("journal")[len(good) :][:cut]
    disk.write("journal", good + torn + tail)
    again = Journal(disk)
    assert again.load() == RECORD
    again.save(EMPTY)
    assert Journal(disk).load() == EMPTY


def test_a_line_whose_synchronization_failed_is_kept_by_the_next_start() -> None:
    """Linux takes it for written then: synchronizing once more would keep nothing."""
    disk = SimulatedDisk()
    journal = Journal(disk)
    journal.load()
    journal.save(EMPTY)

    def trouble(what: str, _path: str) -> None:
        if what == "sync":
            raise OSError(errno.EIO, "Input/output error")

    disk.trouble = trouble
    with pytest.raises(OSError, match="Input/output"):
        journal.save(RECORD)  # and the agent is killed before it can do it again
    disk.trouble = None
    assert Journal(disk).load() == RECORD
    disk.reboot("lost", random.Random(0))
    assert Journal(disk).load() == RECORD
