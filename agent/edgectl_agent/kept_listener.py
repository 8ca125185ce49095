"""The endpoint's TCP socket, which the manager of services keeps open while the agent is restarted.

Who connects in the meantime, during an upgrade for instance, waits for the new process in place of
being refused. Where no manager is there, or address and port are not fixed, nothing is kept, and
the inference process listens by itself.
"""

from __future__ import annotations

import ipaddress
import logging
import socket

from edgectl_agent.service_manager import ServiceManager

__all__ = ["kept_listener"]

NAME = "endpoint"
_log = logging.getLogger(__name__)


def kept_listener(
    manager: ServiceManager, host: str, port: int, *, backlog: int
) -> socket.socket | None:
    """Return the listening socket of the last process, or a new one that the manager keeps.

    Args:
        manager: of this service.
        host: address to listen on.
        port: TCP port; 0, any free one, is not kept.
        backlog: so many connections may wait.

    Returns:
        None where nothing is kept, or the port cannot be had: the inference process then tries for
        itself, and says why.
    """
    kept = _of_descriptor(manager.kept(NAME))
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if kept is not None:
        name = kept.getsockname()
        if address is not None and name[:2] == (address.compressed, port):
            return kept
        kept.close()  # the settings have changed
        manager.forget(NAME)
    if not manager.there or address is None or port == 0:
        return None
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004
    try:
        listener = socket.create_server((host, port), family=family, backlog=backlog)
    except OSError:
        return None
    manager.keep(NAME, listener.fileno())
    return listener


def _of_descriptor(number: int | None) -> socket.socket | None:
    """Return the listening socket that has this number; None where it is something else."""
    if number is None:
        return None
    try:
        found = socket.socket(fileno=number)
    except OSError as error:
        _log.warning("what was kept for this process is no socket: %s", error)
        return None
    found.set_inheritable(False)
    if found.family in {socket.AF_INET, socket.AF_INET6} and found.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        return found
    found.close()
    return None
