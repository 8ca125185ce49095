"""Devices that do nothing but tell, and know exactly what they have told: MQTT over mutual TLS.

As real ones they keep a message until the server's `Ack`, and send it again after every reconnect
and every `RESEND_S`. What each has made in all is the truth that a database is compared with.
"""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections import OrderedDict
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from benchmarks.watching.messages import Signer, window_of
from edgectl_protocol import topics
from edgectl_protocol.messages import Ack, SystemSample, TelemetryBatch, decode
from edgectl_server.clock import now

__all__ = ["Sender"]

RESEND_S = 10.0
_AT_ONCE = 32
_KEEPALIVE_S = 10
_SLOTS = ("har", "anomaly")


class Sender:
    """One device.

    Args:
        name: of it.
        identity: file with its certificate and key.
        key: of it.
        authority: file with the authority's certificate.
        port: of the broker on this machine.
    """

    def __init__(
        self,
        name: str,
        identity: Path,
        key: ec.EllipticCurvePrivateKey,
        authority: Path,
        port: int,
    ) -> None:
        self.name, self.made, self.requests = name, 0, 0
        self._signer, self._port = Signer(key), port
        self._chance = random.Random(name)  # noqa: S311 - a course that can be repeated
        self._lock = threading.Lock()
        self._spool: OrderedDict[int, bytes] = OrderedDict()
        self._sent_s: dict[int, float] = {}
        self._ready = False
        client = Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5
        )
        context = ssl.create_default_context(cafile=str(authority))
        context.load_cert_chain(identity)
        client.tls_set_context(context)
        client.reconnect_delay_set(1, 1)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        self._client = client

    def start(self) -> None:
        """Connect, and again whenever it ends."""
        self._client.connect_async("127.0.0.1", self._port, _KEEPALIVE_S)
        self._client.loop_start()

    def close(self) -> None:
        """End."""
        self._client.disconnect()
        self._client.loop_stop()

    def tell(self) -> None:
        """Make a message, which waits until it is acknowledged."""
        end = now()
        windows = tuple(
            window_of(slot, end - timedelta(seconds=30), end, self._chance) for slot in _SLOTS
        )
        with self._lock:
            self.made += 1
            batch = TelemetryBatch(
                device=self.name,
                boot=1,
                seq=self.made,
                windows=windows,
                system=SystemSample(at=end, load_1min=0.4),
            )
            self.requests += sum(one.requests for one in windows)
            self._spool[self.made] = self._signer.sealed(batch)

    def waiting(self) -> int:
        """Return how many messages wait for their acknowledgement."""
        with self._lock:
            return len(self._spool)

    def pump(self) -> None:
        """Send what is due."""
        if not self._ready:
            return
        now_s = time.monotonic()
        with self._lock:
            due = [
                (seq, payload)
                for seq, payload in list(self._spool.items())[:_AT_ONCE]
                if now_s - self._sent_s.get(seq, float("-inf")) >= RESEND_S
            ]
            self._sent_s.update(dict.fromkeys((seq for seq, _ in due), now_s))
        for _, payload in due:
            self._client.publish(topics.telemetry(self.name), payload, qos=1)

    def _on_connect(self, client, _data, _flags, reason, _properties) -> None:  # type: ignore[no-untyped-def]
        if not reason.is_failure:
            client.subscribe(topics.ack(self.name), qos=1)
            with self._lock:
                self._sent_s.clear()
            self._ready = True

    def _on_disconnect(self, *_about: object) -> None:
        self._ready = False

    def _on_message(self, _client, _data, message) -> None:  # type: ignore[no-untyped-def]
        ack = decode(Ack, bytes(message.payload))
        with self._lock:
            self._spool.pop(ack.seq, None)
            self._sent_s.pop(ack.seq, None)
