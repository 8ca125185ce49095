"""End somebody's connection at Mosquitto by taking their client id over.

Mosquitto has no command for it, and on the devices' listener nobody can take another's client id.
So it has a second listener, on which nothing may be read or written, and that only the server
reaches: on a Unix socket in a closed folder, or over TLS with a certificate that is its own
authority.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

__all__ = ["take_over"]

_logger = logging.getLogger(__name__)

_ANSWER_TIMEOUT_S = 5.0


def take_over(
    client_id: str, where: Path | tuple[str, int], context: ssl.SSLContext | None = None
) -> bool:
    """Connect as `client_id`, make one exchange, and leave; the session ends with it.

    The exchange takes several turns of the broker's loop, in which it has handled signals too.

    Args:
        client_id: whose connection ends.
        where: the second listener: a Unix socket, or host and port.
        context: TLS; needed with host and port.

    Returns:
        Whether the broker has answered.
    """
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=MQTTProtocolVersion.MQTTv5,
        transport="unix" if isinstance(where, Path) else "tcp",
        reconnect_on_failure=False,
    )
    client.connect_timeout = _ANSWER_TIMEOUT_S
    if context is not None:
        client.tls_set_context(context)
    answered = threading.Event()
    client.on_connect = lambda one, *_: one.subscribe("edgectl/v1/meta/head", qos=1)
    client.on_subscribe = lambda *_: answered.set()
    host, port = (str(where), 1883) if isinstance(where, Path) else where
    try:
        client.connect(host, port, clean_start=True)
        client.loop_start()
        if answered.wait(_ANSWER_TIMEOUT_S):
            return True
        _logger.warning("no answer from %s:%d, where connections are ended", host, port)
    except OSError as error:
        _logger.warning("%s:%d cannot be reached to end %r: %s", host, port, client_id, error)
    finally:
        with contextlib.suppress(OSError):
            client.disconnect()
        client.loop_stop()
    return False
