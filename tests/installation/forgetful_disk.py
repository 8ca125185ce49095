"""A disk that forgets: what it was not told to keep may be lost with the power.

A machine that is killed loses its memory and no more: whatever its disk has been given is in a file
of this machine. A real disk has a cache of its own, and with the power goes what the machine has
written and not flushed, in any selection. QEMU writes down all that a disk is given, flushes too
(its driver `blklogwrites`, the format of Linux's dm-log-writes); from that the disk is made as a
power cut may leave it.
"""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

__all__ = ["LOSSES", "ForgetfulDisk", "Write", "replay", "writes"]

SECTOR_BYTES = 512
LOSSES = {"all": 1.0, "some": 0.5, "nothing": 0.0}
"""Of the writes after the last flush, how many a power cut takes."""
_MAGIC = 0x6A736677736872
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_FLUSH, _FUA, _DISCARD, _FLAGS_MAX = 1, 2, 4, 7


@dataclass(frozen=True)
class Write:
    """One entry of the log.

    Attributes:
        sector: of the disk, where it begins.
        offset: of its bytes, in the log.
        size_bytes: of what was written; 0 for a flush.
        flush: whether all before it is kept for good.
        kept: whether it is itself (FUA).
    """

    sector: int
    offset: int
    size_bytes: int
    flush: bool
    kept: bool


def writes(log: BinaryIO, disk_bytes: int) -> Iterator[Write]:
    """Yield the entries of a log, in their order.

    One that was under way when the machine was killed leaves a gap, or an end too early: such a
    write has never been answered, and is passed over.
    """
    log_bytes = log.seek(0, 2)
    log.seek(0)
    if log_bytes < SECTOR_BYTES:
        return
    magic, _, _, sector_bytes = _SUPER.unpack(log.read(_SUPER.size))
    assert (magic, sector_bytes) == (_MAGIC, SECTOR_BYTES), "a log of another format"
    position = SECTOR_BYTES
    while position + SECTOR_BYTES <= log_bytes:
        log.seek(position)
        head = log.read(SECTOR_BYTES)
        sector, count, flags, named = _ENTRY.unpack_from(head)
        position += SECTOR_BYTES
        size = 0 if flags & _DISCARD else count * SECTOR_BYTES
        if named or flags > _FLAGS_MAX or any(head[_ENTRY.size :]):
            continue
        if not (count or flags & _FLUSH) or (sector + count) * SECTOR_BYTES > disk_bytes:
            continue
        if position + size > log_bytes:
            return
        yield Write(sector, position, size, bool(flags & _FLUSH), bool(flags & _FUA))
        position += size


def replay(log: BinaryIO, disk: BinaryIO, loss: float, seed: int) -> tuple[int, int]:
    """Write onto a disk what a power cut leaves of a log.

    Args:
        log: all that the disk was given since it was as it is.
        disk: changed in place.
        loss: the share of what was not flushed that is lost, drawn for each write; 0 to 1.
        seed: of that draw.

    Returns:
        How many writes are on the disk, and how many are lost.
    """
    found = list(writes(log, disk.seek(0, 2)))
    flushed = max((number for number, one in enumerate(found) if one.flush), default=-1)
    draw = random.Random(seed)
    kept = lost = 0
    for number, one in enumerate(found):
        if not one.size_bytes:
            continue
        if number >= flushed and not one.kept and draw.random() < loss:
            lost += 1
            continue
        kept += 1
        log.seek(one.offset)
        disk.seek(one.sector * SECTOR_BYTES)
        disk.write(log.read(one.size_bytes))
    return kept, lost


class ForgetfulDisk:
    """The disk of a virtual machine that is killed, as a file."""

    def __init__(self, image: Path) -> None:
        """Take an image without a partition table; it is only changed by `cut`."""
        self.image = image
        self._running = image.with_suffix(".running")
        self._log = image.with_suffix(".log")

    def begin(self) -> list[str]:
        """Return QEMU's options for a block device ``disk``, of the image as it is now."""
        # sparse: most of it is empty
        copy = ["cp", "--sparse=always", "--reflink=auto", str(self.image), str(self._running)]
        subprocess.run(copy, check=True)
        self._log.write_bytes(b"")
        return [
            *("-blockdev", f"driver=file,node-name=running,filename={self._running},{_FAST}"),
            *("-blockdev", f"driver=file,node-name=log,filename={self._log},{_FAST}"),
            *("-blockdev", "driver=blklogwrites,node-name=disk,file=running,log=log"),
        ]

    def cut(self, loss: str, seed: int = 0) -> tuple[int, int]:
        """Make the image what a power cut leaves of it, once QEMU has ended.

        Args:
            loss: which of `LOSSES`.
            seed: of which writes are lost, where some are.

        Returns:
            How many writes are on the disk, and how many are lost.
        """
        with self._log.open("rb") as log, self.image.open("r+b") as disk:
            return replay(log, disk, LOSSES[loss], seed)


_FAST = "cache.direct=off,cache.no-flush=on"
"""This machine's own power is not cut, so its own disk need not be waited for."""
