"""The demo's data folder: fresh for each run, and never somebody else's.

A folder is emptied only if it holds our mark. The mark is locked while a demo runs, so that two
never share one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgectl.errors import DemoFailed

__all__ = ["MARK", "open_folder"]

MARK = ".edgectl-demo"


@contextmanager
def open_folder(path: Path, *, keep: bool) -> Iterator[Path]:
    """Make `path` ready, empty unless `keep`, and hold it until the end.

    Raises:
        DemoFailed: ``demo.data``: it holds something else, or a demo runs on it.
    """
    folder = path.expanduser().absolute()
    mark = folder / MARK
    if folder.exists() and not mark.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DemoFailed(
            "demo.data",
            f"{folder} is not a folder of the demo, it is left alone",
            "name another with --data, or remove it yourself",
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(mark, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise DemoFailed("demo.data", f"{folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DemoFailed(
                "demo.data", f"a demo is running in {folder}", "stop it, or use another --data"
            ) from error
        if not keep:
            _empty(folder)
        folder.chmod(0o700)
        yield folder
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name == MARK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
