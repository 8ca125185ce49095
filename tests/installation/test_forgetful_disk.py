"""What a power cut leaves of a disk: all that was flushed, and of the rest what the draw says."""

from __future__ import annotations

import io
import struct

import pytest

from installation.forgetful_disk import SECTOR_BYTES, replay

DISK_SECTORS = 16
FLUSH, FUA, DISCARD = 1, 2, 4


def log_of(*entries: tuple[int, bytes, int]) -> bytes:
    """Return a log as QEMU writes it: of (sector, what is written, flags)."""
    content = struct.pack("<QQQI", 0x6A736677736872, 1, len(entries), SECTOR_BYTES)
    for sector, text, flags in entries:
        content = padded(content)
        content += padded(struct.pack("<QQQQ", sector, 1 if text else 0, flags, 0))
        content += padded(text)
    return content


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % SECTOR_BYTES)


def left(log: bytes, loss: float, seed: int = 0) -> list[bytes]:
    """Return what is in each sector after a power cut, without zeros."""
    disk = io.BytesIO(bytes(DISK_SECTORS * SECTOR_BYTES))
    replay(io.BytesIO(log), disk, loss, seed)
    content = disk.getvalue()
    sectors = range(0, len(content), SECTOR_BYTES)
    return [content[place : place + SECTOR_BYTES].rstrip(b"\0") for place in sectors]


LOG = log_of(
    (0, b"flushed", 0),
    (1, b"first", 0),
    (0, b"", FLUSH),
    (1, b"second", 0),
    (2, b"at once", FUA),
    (3, b"later", 0),
)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (1.0, [b"flushed", b"first", b"at once", b""]),
        (0.0, [b"flushed", b"second", b"at once", b"later"]),
    ],
)
def test_what_was_flushed_stays(loss: float, expected: list[bytes]) -> None:
    assert left(LOG, loss)[:4] == expected


def test_any_selection_of_the_rest_may_be_lost() -> None:
    seen = {tuple(left(LOG, 0.5, seed)[:4]) for seed in range(50)}
    assert seen == {
        (b"flushed", one, b"at once", other)
        for one in (b"first", b"second")
        for other in (b"", b"later")
    }


def test_a_flush_is_of_what_came_before_it() -> None:
    log = log_of((0, b"before", 0), (1, b"with it", FLUSH), (2, b"after", 0))
    assert left(log, 1.0)[:3] == [b"before", b"", b""]


def test_a_write_under_way_leaves_a_gap() -> None:
    head = log_of((0, b"one", 0))
    gap = bytes(3 * SECTOR_BYTES)
    rest = log_of((2, b"two", 0), (0, b"", FLUSH))[SECTOR_BYTES:]
    assert left(head + gap + rest, 1.0)[:3] == [b"one", b"", b"two"]


def test_an_end_in_the_middle_of_a_write() -> None:
    log = log_of((0, b"one", 0), (1, b"", FLUSH), (1, b"two", 0))
    assert left(log[: -SECTOR_BYTES // 2], 0.0)[:2] == [b"one", b""]


def test_what_is_discarded_has_no_bytes_in_the_log() -> None:
    log = log_of((0, b"one", 0))
    log += padded(struct.pack("<QQQQ", 0, 4, DISCARD, 0))
    log += log_of((1, b"two", 0))[SECTOR_BYTES:]
    assert left(log, 0.0)[:2] == [b"one", b"two"]


def test_no_log_is_no_change() -> None:
    assert left(b"", 1.0) == [b""] * DISK_SECTORS


def test_a_log_of_another_format_is_refused() -> None:
    with pytest.raises(AssertionError, match="another format"):
        left(bytes(2 * SECTOR_BYTES), 1.0)
