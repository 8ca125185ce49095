"""The server's one connection to the broker: MQTT 5 over mutual TLS, with paho-mqtt.

Rules, each for something that was seen to go wrong:

1. An exception in a callback of paho kills its network thread while ``is_connected()`` stays true:
   every callback here catches and logs, and a watch starts a dead thread again.
2. ``wait_for_publish`` lies for what was published offline: we keep our own outbox, and a message
   is done when the broker has acknowledged it.
3. Everything is bounded: at most `WINDOW` messages are with the broker unacknowledged (or fewer,
   if it says so: paho does not look), the outbox
   holds `OUTBOX_BYTES_MAX`, and callers wait or are refused. Chunks (``bulk``) get a small part of
   it, so that acknowledgements and orders never stand behind megabytes.
4. A PUBLISH that paho takes for malformed ends its connection, and would come again at the next
   one, for ever: one device could shut the server out with U+FEFF in a property, which MQTT
   allows. It is acknowledged and passed over.
5. What comes in is acknowledged to the broker only when it has been dealt with (`Incoming.done`).
   The broker sends at most `RECEIVE_MAX` before that: its flow control bounds our memory, and
   a crash of ours loses nothing, because the session is persistent.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import (  # type: ignore[attr-defined]
    MQTTException,  # where every version has the one that it raises
    Properties,
)
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgectl_protocol.topics import SERVER_SUBSCRIPTIONS
from edgectl_server.distribution.interface import IdentityFiles
from edgectl_server.errors import Unavailable

__all__ = ["RECEIVE_MAX", "BrokerLink", "Incoming"]

logger = logging.getLogger(__name__)

WINDOW = 32
OUTBOX_BYTES_MAX = 8 * 1024**2
BULK_BYTES_MAX = 1024**2
RECEIVE_MAX = 500
_SESSION_S = 7 * 86400
_KEEPALIVE_S = 20
_RECONNECT_S_MAX = 5
_WATCH_S = 1.0
_TOPICS_AT_ONCE = 8
"""In one SUBSCRIBE: the smallest broker of interest takes no more."""


@dataclass(frozen=True)
class Incoming:
    """A message from a device."""

    topic: str
    payload: bytes
    retained: bool
    """It was said before we asked, and may be old."""
    done: Callable[[], None]
    """Tell the broker that it need not be sent again. Any thread, once."""
    link_age_s: float = math.inf
    """How long our connection to the broker had stood when it came."""
    is_stale: Callable[[], bool] = lambda: False
    """Whether its connection has ended, so that the broker sends it again."""


@dataclass(frozen=True)
class _Outgoing:
    topic: str
    payload: bytes
    retain: bool
    answered: Callable[[bool], None] = lambda _taken: None


class BrokerLink:
    """Publishes and receives. Its methods may be called from any thread but `on_message`'s."""

    def __init__(
        self,
        host: str,
        port: int,
        identity: IdentityFiles,
        *,
        client_id: str = "server",
        on_message: Callable[[Incoming], None],
        on_connected: Callable[[bool], None] = lambda _remembered: None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; nothing is connected before `start`.

        Args:
            host: one of the names in the broker's certificate.
            port: MQTT over TLS.
            identity: of the server.
            client_id: stable, because the broker keeps the session by it.
            on_message: takes a message and returns soon; called by the network thread.
            on_connected: told whether the broker remembers our session; if not, it is a new one,
                or has forgotten everything. Returns at once; called by the network thread.
            on_lost: told that a connection has ended, by whoever's will; likewise.
        """
        self._host, self._port = host, port
        self._on_message, self._on_connected = on_message, on_connected
        self._on_lost = on_lost
        self._client_id = client_id
        self._identity = identity
        self._context = _context(identity)
        self._client = _client(client_id, self._context)
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._disconnected
        self._client.on_message = self._received
        self._client.on_publish = self._published
        self._client.on_subscribe = self._subscribed
        self._client.on_socket_open = _send_at_once
        self._condition = threading.Condition()
        self._outbox: deque[_Outgoing] = deque()
        self._outbox_bytes = 0
        self._flying: dict[int, _Outgoing] = {}
        self._early: dict[int, bool] = {}
        self._sending = False
        self._up = False
        self._up_since = math.inf
        self._window = WINDOW
        self._epoch = 0
        self._closing = False
        self._refused = 0
        self._failure = "not connected yet"
        self._broker_certificate: bytes | None = None
        self._thread = threading.Thread(target=self._run, name="broker-link", daemon=True)

    def start(self) -> None:
        """Begin to connect; goes on by itself until `close`."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = _SESSION_S
        properties.ReceiveMaximum = RECEIVE_MAX
        self._client.connect_async(
            self._host, self._port, _KEEPALIVE_S, clean_start=False, properties=properties
        )
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether the broker has let us in and the connection is up."""
        return self._up

    @property
    def age_s(self) -> float:
        """How long the connection has stood; 0 without one."""
        return max(0.0, time.monotonic() - self._up_since)

    @property
    def failure(self) -> str:
        """Why it is not connected; for people."""
        return self._failure

    @property
    def broker_certificate_ends_at(self) -> datetime | None:
        """When the certificate ends that the broker has shown last; None before it has."""
        shown = self._broker_certificate
        return None if shown is None else x509.load_der_x509_certificate(shown).not_valid_after_utc

    @property
    def waiting(self) -> int:
        """How many messages the broker has not acknowledged yet."""
        return len(self._outbox) + len(self._flying)

    @property
    def refused(self) -> int:
        """How many of our messages the broker has refused; more than none is a wrong set-up."""
        return self._refused

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until connected, at most `timeout_s`; say whether it is."""
        with self._condition:
            return self._condition.wait_for(lambda: self._up, timeout_s)

    def publish(
        self,
        topic: str,
        payload: bytes,
        retain: bool = False,
        *,
        bulk: bool = False,
        timeout_s: float = 5.0,
        answered: Callable[[bool], None] = lambda _taken: None,
    ) -> None:
        """Queue a message (QoS 1). It is sent now, or when the broker is back.

        Args:
            topic: exact.
            payload: empty with `retain` clears what the broker holds.
            retain: the broker keeps it for whoever subscribes later.
            bulk: one of many large ones, which wait for each other.
            timeout_s: how long to wait for a place in the outbox.
            answered: called when the broker has answered, with whether it has taken the message;
                must return at once.

        Raises:
            Unavailable: ``broker.backlog``: the outbox stays full.
        """
        limit = BULK_BYTES_MAX if bulk else OUTBOX_BYTES_MAX
        with self._condition:
            free = self._condition.wait_for(
                lambda: self._closing or self._outbox_bytes < limit, timeout_s
            )
            if not free or self._closing:
                raise Unavailable(
                    "broker.backlog",
                    "the broker does not take messages"
                    if self._up
                    else f"the broker is not connected: {self._failure}",
                    hint="check that the broker is running and reachable",
                )
            self._outbox.append(_Outgoing(topic, payload, retain, answered))
            self._outbox_bytes += len(payload)
            self._condition.notify_all()

    def read_again(self, topics: Sequence[str]) -> None:
        """Have what is retained on exact topics that are ours sent once more.

        They are covered by our subscriptions: a second one of each brings it, and is ended at once.
        Without a connection nothing is done: a new one brings everything.
        """
        options = SubscribeOptions(qos=1)
        for begin in range(0, len(topics) if self._up else 0, _TOPICS_AT_ONCE):
            some = list(topics[begin : begin + _TOPICS_AT_ONCE])
            self._client.subscribe([(topic, options) for topic in some])
            self._client.unsubscribe(some)

    def flush(self, timeout_s: float) -> bool:
        """Wait until the broker has acknowledged everything; say whether it has."""
        with self._condition:
            return self._condition.wait_for(
                lambda: not (self._outbox or self._sending or self._flying), timeout_s
            )

    def reload_certificate(self) -> None:
        """Connect again with the certificate that is in the files now. Nothing is lost by it.

        Raises:
            Unavailable: ``broker.certificate``: the files cannot be used; the old one stays.
        """
        try:
            _context(self._identity)  # to see whether they can be used, before anything is changed
            self._context.load_cert_chain(self._identity.certificate, self._identity.key)
        except (OSError, ssl.SSLError) as error:
            raise Unavailable(
                "broker.certificate",
                "the server's new certificate for the broker cannot be used",
                hint="restart the server",
            ) from error
        opened = self._client.socket()
        if isinstance(opened, socket.socket):
            with contextlib.suppress(OSError):
                # paho connects again, and resumes the session. (Not the method of SSLSocket: paho's
                # thread could send a packet unencrypted after the first thing that it does.)
                socket.socket.shutdown(opened, socket.SHUT_RDWR)

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is queued, as far as that is quick, and disconnect. Idempotent."""
        if self._closing:
            return
        if self._up:
            self.flush(timeout_s)
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    # ------------------------------------------------------------ our thread

    def _run(self) -> None:
        """Send from the outbox, and see to it that paho's network thread lives."""
        self._client.loop_start()
        try:
            while not self._closing:
                self._send_some()
                self._watch()
        finally:
            self._client.disconnect()
            self._client.loop_stop()

    def _send_some(self) -> None:
        """Hand messages to paho while there is room in the window; wait for a while otherwise."""
        with self._condition:
            ready = self._condition.wait_for(
                lambda: (
                    self._closing
                    or (self._up and self._outbox and len(self._flying) < self._window)
                ),
                _WATCH_S,
            )
            if not ready or self._closing:
                return
            message = self._outbox.popleft()
            self._outbox_bytes -= len(message.payload)
            self._sending = True
        # Not under our lock: paho holds its own when it calls `_published`, which takes ours.
        info = self._client.publish(message.topic, message.payload, qos=1, retain=message.retain)
        with self._condition:
            self._sending = False
            if info.rc not in {MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN}:
                self._outbox.appendleft(message)
                self._outbox_bytes += len(message.payload)
                self._condition.wait(_WATCH_S)
            elif info.mid in self._early:
                message.answered(self._early.pop(info.mid))
            else:
                self._flying[info.mid] = message  # without a connection paho sends it at the next
            self._condition.notify_all()

    def _watch(self) -> None:
        name = f"paho-mqtt-client-{self._client_id}"
        if self._closing or any(thread.name == name for thread in threading.enumerate()):
            return
        logger.error("the network thread of the broker link has died; starting it again")
        self._client.loop_stop()
        try:
            self._client.reconnect()
        except OSError as error:
            self._failure = str(error)
        self._client.loop_start()
        time.sleep(_WATCH_S / 10)

    # ------------------------------------------------------------ paho's network thread

    def _connected(
        self, _client: Client, _data: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        try:
            if reason.is_failure:
                self._failure = f"the broker refuses: {reason}"
                logger.error("the broker refuses the server: %s", reason)
                return
            options = SubscribeOptions(qos=1)
            self._client.subscribe([(pattern, options) for pattern in SERVER_SUBSCRIPTIONS])
            opened = self._client.socket()
            if isinstance(opened, ssl.SSLSocket):
                self._broker_certificate = opened.getpeercert(binary_form=True)
            with self._condition:
                self._window = min(WINDOW, getattr(properties, "ReceiveMaximum", WINDOW))
                self._up, self._up_since = True, time.monotonic()
                self._failure = ""
                self._epoch += 1
                self._condition.notify_all()
            logger.info("connected to the broker %s:%d", self._host, self._port)
            self._on_connected(bool(flags.session_present))
        except Exception:  # rule 1
            logger.exception("after connecting to the broker")

    def _disconnected(
        self, _client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        with self._condition:
            was_up, self._up = self._up, False
            self._up_since = math.inf
            self._failure = f"disconnected: {reason}"
            self._condition.notify_all()
        if not self._closing:
            logger.warning("the connection to the broker has ended: %s", reason)
        try:
            if was_up:
                self._on_lost()
        except Exception:  # rule 1
            logger.exception("after the connection to the broker")

    def _subscribed(
        self, _client: Client, _data: Any, _mid: int, reasons: Any, _properties: Any
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._failure = "the broker refuses our subscriptions"
            logger.error("the broker refuses the server's subscriptions: %s", reasons)

    def _received(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        epoch, number = self._epoch, message.mid

        def done() -> None:
            # Numbers belong to a connection: after a new one the broker sends it again itself.
            if epoch == self._epoch and self._up and message.qos:
                self._client.ack(number, message.qos)

        try:
            payload = bytes(message.payload)
            incoming = Incoming(
                message.topic,
                payload,
                message.retain,
                done,
                link_age_s=self.age_s,
                is_stale=lambda: epoch != self._epoch and bool(message.qos),
            )
            self._on_message(incoming)
        except Exception:  # rule 1
            logger.exception("a message could not be taken in")
            done()  # it would fail again, and hold a place of `RECEIVE_MAX` until then

    def _published(
        self, _client: Client, _data: Any, mid: int, reason: Any, _properties: Any
    ) -> None:
        with self._condition:
            message = self._flying.pop(mid, None)
            if message is None:
                self._early[mid] = not reason.is_failure  # `_send_some` has not noted it yet
            else:
                message.answered(not reason.is_failure)
            if reason.is_failure:
                self._refused += 1
                topic = "a message" if message is None else message.topic
                logger.error("the broker refuses %.200s: %s", topic, reason)
            self._condition.notify_all()


def _context(identity: IdentityFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(identity.authority))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(identity.certificate, identity.key)
    return context


class _Client(Client):
    """paho's client, but for what it takes for malformed: rule 4."""

    def _handle_publish(self) -> MQTTErrorCode:
        try:
            return super()._handle_publish()
        except MQTTException as error:
            body, qos = self._in_packet["packet"], (self._in_packet["command"] >> 1) & 3
            begins = 2 + int.from_bytes(body[:2])
            logger.warning(
                "a message on %.200r cannot be read (%s) and is passed over", body[2:begins], error
            )
            if qos:
                return self.ack(int.from_bytes(body[begins : begins + 2]), qos)
            return MQTTErrorCode.MQTT_ERR_SUCCESS


def _client(client_id: str, context: ssl.SSLContext) -> Client:
    client = _Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=MQTTProtocolVersion.MQTTv5,
        manual_ack=True,
    )
    client.suppress_exceptions = True
    client.tls_set_context(context)
    client.max_inflight_messages_set(WINDOW)
    client.max_queued_messages_set(2 * WINDOW)
    client.reconnect_delay_set(1, _RECONNECT_S_MAX)
    return client


def _send_at_once(_client: Client, _userdata: object, opened: Any) -> None:
    """Switch Nagle's algorithm off: small messages would wait 40 ms for an acknowledgement."""
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
