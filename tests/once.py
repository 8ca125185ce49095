"""What is made once for the whole suite, however many workers share its files.

The first worker that asks makes it; others wait for it, and read what it has returned. What a
fixture of the scope "session" makes is made once a worker.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

__all__ = ["made_once"]

Made = TypeVar("Made")


def made_once(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Made], *, of: object = None
) -> Made:
    """Return what `make` has returned for a new folder, here or in another worker.

    Args:
        factory: pytest's.
        name: of the folder, which lies where all workers find it; nobody may change it.
        make: fills the folder; what it returns can be pickled.
        of: what is made of it differs by; its text becomes part of the name.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    if of is not None:
        name = f"{name}-{hashlib.sha256(repr(of).encode()).hexdigest()[:16]}"
    folder, result = base / f"once-{name}", base / f"once-{name}.pickle"
    with (base / f"once-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the file, also where a worker dies
        if not result.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that has failed
            folder.mkdir()
            result.write_bytes(pickle.dumps(make(folder)))
        made: Made = pickle.loads(result.read_bytes())
    return made
