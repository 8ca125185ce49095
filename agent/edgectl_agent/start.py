"""What a start of the agent does first: it takes the state directory, and counts itself."""

from __future__ import annotations

import fcntl
import os

from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import Refused

__all__ = ["count_boot", "lock_state"]


def lock_state(disk: RealDisk) -> int:
    """Take the state directory for this process; the lock ends with it."""
    handle = os.open(disk.locate("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise Refused(
            "state.locked",
            f"another agent runs on {disk.locate('.')}",
            hint="stop it, or give this one another --state",
        ) from error
    return handle


def count_boot(disk: RealDisk) -> int:
    """Count this start, durably: messages are numbered by it."""
    try:
        boot = int(disk.read("boot", 32)) + 1
    except (FileNotFoundError, ValueError):
        boot = 1
    disk.write_atomic("boot", str(boot).encode())
    return boot
