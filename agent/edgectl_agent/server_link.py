"""The connection to the broker, and the renewal of the certificate that it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from edgectl_agent.clock import moment
from edgectl_agent.connection import Connection, Endpoint
from edgectl_agent.device_key import DeviceKey
from edgectl_agent.durable import RealDisk
from edgectl_agent.enrol import AUTHORITY_PATH, CERTIFICATE_PATH, Identity
from edgectl_agent.renewal import Renewer
from edgectl_agent.settings import Settings
from edgectl_protocol.messages import Reason

__all__ = ["ServerLink", "make_link"]


class ServerLink(NamedTuple):
    """Neither is started yet."""

    connection: Connection
    renewer: Renewer


def make_link(
    settings: Settings,
    identity: Identity,
    disk: RealDisk,
    key: DeviceKey,
    *,
    will: Callable[[], tuple[str, bytes]],
    on_change: Callable[[bool], None],
    on_distrust: Callable[[Reason], None],
    say: Callable[[dict[str, Any]], None],
) -> ServerLink:
    """Put together what connects as `identity`.

    Args:
        settings: of this run.
        identity: who connects, and where to.
        disk: the state directory, with the certificate.
        key: of the identity.
        will: returns topic and payload of what the broker says when the connection breaks.
        on_change: is told whether there is a connection.
        on_distrust: is told why a broker is not believed.
        say: is told of renewals.
    """
    connection = Connection(
        Endpoint(
            host=identity.broker.host,
            port=identity.broker.port,
            certificate=settings.state_directory / CERTIFICATE_PATH,
            key=key,
            authority=settings.state_directory / AUTHORITY_PATH,
            device=identity.device,
        ),
        will=will,
        on_change=on_change,
        on_distrust=on_distrust,
        backoff_s_max=settings.reconnect_s_max,
    )
    renewer = Renewer(
        disk,
        server=settings.server or identity.server,
        server_ca=settings.server_ca,
        device=identity.device,
        key=key,
        connected=connection.connected,
        now=moment,
        say=say,
    )
    return ServerLink(connection, renewer)
