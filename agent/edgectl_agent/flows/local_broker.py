"""A client of an MQTT broker of the site: ``mqtt://[user[:password]@]host[:port]/topic``.

Not the broker of the fleet, of which the agent alone knows. ``mqtts://`` is TLS with the system's
authorities. A broker that is away is tried again for ever, with pauses of up to 30 s.
"""

from __future__ import annotations

import ssl
from urllib.parse import unquote, urlsplit

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edgectl_agent.flows.addresses import Address

__all__ = ["Broker"]

_TOPIC_BYTES_MAX = 1024
_PAUSE_S_MAX = 30
_KEEP_ALIVE_S = 30


class Broker:
    """Where to connect, and the topic.

    Attributes:
        host: name or address.
        port: TCP port.
        topic: what is subscribed or published to.
    """

    def __init__(self, address: Address) -> None:
        authority, _, self.topic = address.place.removeprefix("//").partition("/")
        try:
            found = urlsplit(f"//{authority}")
            self.host, port = found.hostname or "", found.port
        except ValueError as error:
            raise address.refused(str(error)) from error
        self._tls = address.scheme == "mqtts"
        self.port = port or (8883 if self._tls else 1883)
        self._user = unquote(found.username or "")
        self._password = unquote(found.password or "")
        if not self.host or not 0 < len(self.topic.encode()) <= _TOPIC_BYTES_MAX:
            raise address.refused("expected mqtt://host/topic")

    def connect(self, **options: object) -> mqtt.Client:
        """Return a client that begins to connect, without its thread; set callbacks, then start."""
        client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311, **options)  # type: ignore[arg-type]
        if self._user:
            client.username_pw_set(self._user, self._password)
        if self._tls:
            client.tls_set_context(ssl.create_default_context())
        client.reconnect_delay_set(1, _PAUSE_S_MAX)
        client.connect_async(self.host, self.port, _KEEP_ALIVE_S)
        return client
