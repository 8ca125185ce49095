"""``hold``: an application says "not now", and no model is switched.

::

    with hold("a measurement runs", for_s=600):
        measure()

New versions are downloaded and proved meanwhile, and switched to afterwards.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgectl_agent.errors import AgentError
from edgectl_agent.local_client import ask
from edgectl_agent.local_messages import Hold, Release
from edgectl_agent.sdk.errors import SdkError

__all__ = ["CONTROL_VARIABLE", "control_path", "hold"]

CONTROL_VARIABLE = "EDGECTL_CONTROL_SOCKET"
DEFAULT_SOCKETS = (
    Path("/run/edgectl-agent/control.sock"),
    Path("/var/lib/edgectl-agent/control.sock"),
)
_NAME_MAX = 64
_REASON_MAX = 256
_numbers = itertools.count(1)
log = logging.getLogger("edgectl_agent.sdk")


@contextmanager
def hold(
    reason: str, *, for_s: float, name: str | None = None, socket: str | Path | None = None
) -> Iterator[None]:
    """Switch no model of this device while the context lasts.

    Args:
        reason: for whoever wonders why nothing is switched.
        for_s: the hold ends by itself after so many seconds: an application that dies must not
            hold for ever.
        name: of the holder; by default the program, its process and a number, so that holds of one
            application do not end each other.
        socket: path of the agent's control_socket. By default that of the environment variable
            EDGECTL_CONTROL_SOCKET, or the first of `DEFAULT_SOCKETS` that is there.

    Raises:
        SdkError: the agent does not answer, or refuses: nothing is held. The code is the agent's,
            such as ``agent.down`` or ``local.permission``.
    """
    path = control_path(socket)
    if name is None:
        program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
        ending = f" {os.getpid()}.{next(_numbers)}"
        name = program[: _NAME_MAX - len(ending)] + ending
    try:
        ask(path, Hold(name=name, reason=reason[:_REASON_MAX], for_s=for_s))
    except AgentError as error:
        raise SdkError(error.code, error.detail, hint=error.hint) from error
    try:
        yield
    finally:
        try:
            ask(path, Release(name=name))
        except AgentError as error:  # it ends by itself
            log.warning("the hold %r could not be ended, it lasts %g s: %s", name, for_s, error)


def control_path(given: str | Path | None) -> Path:
    """Return where the agent's control_socket is: as given, or where it is found by itself."""
    given = given or os.environ.get(CONTROL_VARIABLE)
    if given:
        return Path(given)
    return next((path for path in DEFAULT_SOCKETS if path.exists()), DEFAULT_SOCKETS[-1])
