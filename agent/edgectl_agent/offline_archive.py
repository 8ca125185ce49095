"""The file of an exported version on the device: an open descriptor, read by its position.

What may be in it, and how it is read: `edgectl_protocol.archives`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from edgectl_agent.errors import Refused
from edgectl_protocol.archives import Archive
from edgectl_protocol.errors import ArchiveRefused

__all__ = ["open_archive", "refusals"]

_COMPRESSED = "offline.compressed"
_MAKE_AGAIN = "copy the file again, or write it anew: edgectl export MODEL@VERSION"


def open_archive(file: int) -> Archive:
    """Read the headers of a file.

    Args:
        file: an open descriptor, which stays the caller's.

    Raises:
        Refused: ``offline.file``: it is no ordinary file.
        ArchiveRefused: it is no exported version; see `refusals`.
        OSError: it cannot be read.
    """
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise Refused("offline.file", "it is no ordinary file", hint="copy it to a disk first")
    return Archive(lambda start, length: os.pread(file, length, start), found.st_size)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what is wrong with the file into `Refused`, with the next step."""
    try:
        yield
    except ArchiveRefused as error:
        hint = _MAKE_AGAIN
        if error.code == _COMPRESSED:
            hint = "decompress it first, such as with gunzip"
        raise Refused(error.code, f"{error}", hint=hint) from error
