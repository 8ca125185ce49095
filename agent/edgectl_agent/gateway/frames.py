"""Frames on a serial line, as `firmware-examples/pico-uart/frames.c` has them. Pure.

COBS (Cheshire and Baker, "Consistent overhead byte stuffing", 1999) between zeros; within: kind,
number, payload, and the CRC-32 of all that. Whatever comes, a reader keeps at most `CODED_MAX`
bytes of it, and gives only what is whole.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["CODED_MAX", "PAYLOAD_MAX", "Frame", "FrameReader", "encode_frame"]

PAYLOAD_MAX = 520
_HEAD_BYTES = 2
_CRC_BYTES = 4
_FRAME_MAX = _HEAD_BYTES + PAYLOAD_MAX + _CRC_BYTES
_RUN_MAX = 0xFF
CODED_MAX = _FRAME_MAX + _FRAME_MAX // 254 + 1
"""Bytes of a frame on the line, without the zero behind it."""


class Frame(NamedTuple):
    """What one frame says."""

    kind: int
    number: int
    payload: bytes


def encode_frame(frame: Frame) -> bytes:
    """Return a frame as it goes on the line, with a zero on both sides of it."""
    assert len(frame.payload) <= PAYLOAD_MAX, len(frame.payload)
    content = bytes((frame.kind, frame.number)) + frame.payload
    content += zlib.crc32(content).to_bytes(_CRC_BYTES, "little")
    coded = bytearray(b"\0")
    runs = content.split(b"\0")
    for number, run in enumerate(runs):
        rest = run
        while len(rest) >= _RUN_MAX - 1:
            piece, rest = rest[: _RUN_MAX - 1], rest[_RUN_MAX - 1 :]
            coded += bytes((_RUN_MAX,)) + piece
            if not rest and number == len(runs) - 1:
                return bytes(coded) + b"\0"
        coded += bytes((len(rest) + 1,)) + rest
    return bytes(coded) + b"\0"


class FrameReader:
    """Finds frames in what comes, in whatever pieces."""

    def __init__(self) -> None:
        """Begin between two frames."""
        self._coded = bytearray()
        self._too_long = False
        self.dropped = 0
        """Runs of bytes that were no frame."""

    def feed(self, received: bytes) -> Iterator[Frame]:
        """Go through the frames that these bytes complete."""
        *ended, rest = received.split(b"\0")
        for run in ended:
            self._keep(run)
            frame = self._end()
            if frame is not None:
                yield frame
        self._keep(rest)

    def _keep(self, run: bytes) -> None:
        if len(self._coded) + len(run) > CODED_MAX:
            self._too_long = True
            self._coded.clear()
        elif not self._too_long:
            self._coded += run

    def _end(self) -> Frame | None:
        coded, too_long = bytes(self._coded), self._too_long
        self._coded.clear()
        self._too_long = False
        if not coded and not too_long:
            return None  # between two frames
        content = None if too_long else _decoded(coded)
        if content is None or not _HEAD_BYTES + _CRC_BYTES <= len(content) <= _FRAME_MAX:
            self.dropped += 1
            return None
        content, crc = content[:-_CRC_BYTES], content[-_CRC_BYTES:]
        if zlib.crc32(content) != int.from_bytes(crc, "little"):
            self.dropped += 1
            return None
        return Frame(content[0], content[1], content[_HEAD_BYTES:])


def _decoded(coded: bytes) -> bytes | None:
    """Return what was coded; None: it is no code. There is no zero in it."""
    content = bytearray()
    at = 0
    while at < len(coded):
        run = coded[at]
        if at + run > len(coded):
            return None
        content += coded[at + 1 : at + run]
        at += run
        if run != _RUN_MAX and at < len(coded):
            content.append(0)
    return bytes(content)
