"""Unix sockets by paths of any length: the kernel takes 107 bytes, a state directory may be deeper.

A longer path is reached by an open descriptor of its folder (proc(5), ``/proc/self/fd``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["short_path"]

_PATH_BYTES_MAX = 107


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Give a path that a socket can be bound or connected to, while the context lasts.

    Raises:
        OSError: the folder cannot be opened.
    """
    if len(os.fsencode(path)) <= _PATH_BYTES_MAX:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
