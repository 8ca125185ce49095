"""What a start of the agent does first: it takes the state directory, and counts itself."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from pathlib import Path

from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import Refused
from edgectl_agent.inference.options import Options
from edgectl_agent.settings import Settings

__all__ = ["count_boot", "endpoint_options", "lock_state"]

_log = logging.getLogger(__name__)


def lock_state(disk: RealDisk) -> int:
    """Take the state directory for this process; the lock ends with it."""
    try:
        handle = os.open(disk.locate("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        handle = os.open(disk.locate("lock"), os.O_RDONLY | os.O_CLOEXEC)
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


def count_boot(disk: RealDisk, enrolled_at: int = 0) -> int:
    """Count this start, durably: messages are numbered by it.

    Args:
        disk: the state directory.
        enrolled_at: the start that the server had heard of last when the device enrolled.

    Where that cannot be written, models are served all the same; what is told under the same number
    in a later start is then taken for a repeat.
    """
    try:
        boot = int(disk.read("boot", 32))
    except (FileNotFoundError, ValueError):
        boot = 0
    boot = max(boot, enrolled_at) + 1
    try:
        disk.write_atomic("boot", str(boot).encode())
    except OSError as error:
        if error.errno not in {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO}:
            raise
        _log.error("this start cannot be counted: %s", error)
    return boot


def endpoint_options(settings: Settings) -> Options:
    """Return the settings of the inference endpoint as that takes them."""
    token_file = None
    if settings.endpoint_token_file:
        token_file = str(settings.state_directory / Path(settings.endpoint_token_file).expanduser())
    return Options(
        names=tuple(filter(None, (name.strip() for name in settings.endpoint_names.split(",")))),
        token_file=token_file,
        token_on_socket=settings.endpoint_token_on_socket,
        body_bytes_max=settings.endpoint_body_bytes_max,
        connections_max=settings.endpoint_connections_max,
        queue_max=settings.endpoint_queue_max,
        client_max=settings.endpoint_client_max,
        batch_rows_max=settings.batch_rows_max,
        shared_memory=settings.shared_memory,
        grpc_port=settings.grpc_port or None,
    )
