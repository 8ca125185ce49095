"""The log lines of a device, out of the file that it has uploaded.

The file comes from a device, which may be anybody's by now: it is unpacked up to a bound, a line
that is none is shown as it is, and nothing of it reaches a terminal but as text.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from datetime import datetime

import msgspec
from msgspec import Struct

from edgectl.errors import EdgectlError

__all__ = ["LINES_BYTES_MAX", "LogLine", "log_lines"]

LINES_BYTES_MAX = 8 * 1024**2
"""Of the unpacked file; an agent's is a tenth of it."""
_GZIP = 16 + zlib.MAX_WBITS


class LogLine(Struct, frozen=True):
    """One line."""

    text: str
    time: datetime | None = None
    """By the device's clock; None: of the journal of an older agent, which kept no times."""
    level: str = ""
    logger: str = ""


def log_lines(content: bytes) -> list[LogLine]:
    """Return the lines of a file that a device has uploaded.

    Raises:
        EdgectlError: ``logs.file``: no whole gzip file, or one that unpacks to more than
            `LINES_BYTES_MAX`.
    """
    unpacking = zlib.decompressobj(_GZIP)
    try:
        unpacked = unpacking.decompress(content, LINES_BYTES_MAX)
    except zlib.error as error:
        raise _refused(f"it is no gzip file: {error}") from error
    if not unpacking.eof:
        raise _refused(f"it is cut off, or unpacks to more than {LINES_BYTES_MAX} bytes")
    return list(_decoded(unpacked))


def _decoded(content: bytes) -> Iterator[LogLine]:
    for line in content.splitlines():
        try:
            yield msgspec.json.decode(line, type=LogLine)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            yield LogLine(text=line.decode("utf-8", "replace"))


def _refused(why: str) -> EdgectlError:
    return EdgectlError(
        "logs.file",
        f"what the device has uploaded is not shown: {why}",
        "write it to a file with --output, and look into it with care",
    )
