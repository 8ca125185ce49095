"""The one connection out: MQTT 5 over mutual TLS.

Rules:

1. The network runs in a thread of our own. paho's callbacks are wrapped: an exception in one would
   end paho's loop while the client still says that it is connected. Should the thread end all the
   same, it is started again.
2. A callback only puts something into a bounded queue. What does not fit is dropped: chunks and
   metadata are asked for again, orders are retained, acknowledgements are repeated.
3. A start of the agent begins a new session, because the last one may have died in the middle of a
   download and left subscriptions behind; between two connections of one start the session
   persists. Every subscription is made again at each connection, so that retained messages come;
   that for a piece of a blob, where the session has it still, without its retained message: it
   waits there, and would come twice.
4. At most 8 topics a SUBSCRIBE: the smallest broker of interest takes no more.
5. No packet may be longer than `PACKET_BYTES_MAX`: the broker is told, and one that sends a longer
   one all the same is hung up on before any of it is read. Our memory is not the broker's to fill.
6. A thread that waits for pieces of a blob does the network's turns itself (`help`): handing each
   piece from thread to thread takes longer than the piece. The network thread stands by, and goes
   on as soon as the other one has not come back for `HELP_S`, so that it may take its time.
7. Reconnecting waits longer each time, with a random share, so that a fleet does not come at once.
"""

from __future__ import annotations

import logging
import queue
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from msgspec import Struct
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgectl_agent.core.packets import Retained
from edgectl_agent.core.timing import delay_s
from edgectl_agent.device_key import DeviceKey
from edgectl_agent.errors import make_reason
from edgectl_agent.packet_client import PACKET_BYTES_MAX, PacketClient
from edgectl_agent.subscriptions import Handler, Subscriptions
from edgectl_protocol import PROTOCOL
from edgectl_protocol.messages import Reason

__all__ = ["Connection", "Endpoint", "Mailbox"]

SUBSCRIBE_TOPICS_MAX = 8
SESSION_S = 24 * 3600
KEEPALIVE_S = 30
CONNECT_S = 15.0
BACKOFF_FIRST_S = 1.0
BACKOFF_S_MAX = 60.0
MAILBOX_MESSAGES_MAX = 256
OUTGOING_MESSAGES_MAX = 256
BULK_MESSAGES_MAX = 4
"""Large messages that the broker has not acknowledged: what else is said stands behind no more."""
HELP_S = 0.25
_STEP_S = 1.0
_CONNACK_S = 20.0
_BLOBS = f"{PROTOCOL}/blob/"
_OUT_OF_TIME = frozenset({9, 10})
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
_log = logging.getLogger(__name__)


class Endpoint(Struct, frozen=True, kw_only=True):
    """Where the broker is, and who we are."""

    host: str
    port: int
    certificate: Path
    key: DeviceKey
    authority: Path
    device: str

    def tls(self) -> ssl.SSLContext:
        """Return the context: our authority only, TLS 1.2 or newer, our certificate."""
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self.authority))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = True
        context.verify_mode = ssl.CERT_REQUIRED
        self.present(context)
        return context

    def present(self, context: ssl.SSLContext) -> None:
        """Have the next connection present the certificate that is on disk now."""
        self.key.load_into(context, self.certificate)


class Mailbox:
    """One user's topics and what has come on them; a `Transport` of the downloader."""

    def __init__(self, connection: Connection, *, once: bool = False) -> None:
        """Make it empty.

        Args:
            connection: brings the messages.
            once: one message of each topic is wanted, until the next `subscribe`; and who waits
                for it does the connection's work meanwhile.
        """
        self._connection = connection
        self._once = once
        self._messages: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()

    def connected(self) -> bool:
        """Say whether there is a connection now."""
        return self._connection.connected()

    def subscribe(self, topics: Sequence[str]) -> None:
        """Ask for the topics; a retained message comes anew at every call."""
        self._connection.subscribe(topics, self._put, once=self._once)

    def came(self, topic: str) -> None:
        """Note that it is not to be asked for at another connection."""
        self._connection.came(topic)

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Ask for them no longer."""
        self._connection.unsubscribe(topics)

    def bytes_in(self) -> int:
        """Return how many bytes of long messages have come, also of those not whole yet."""
        return self._connection.bytes_in

    def unasked(self) -> int:
        """Return how many messages came on topics of blobs that nobody had asked for."""
        return self._connection.unasked

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None:
        """Return the next message, or None after `timeout_s`."""
        with suppress(queue.Empty):
            return self._messages.get_nowait()
        end_s = time.monotonic() + max(0.001, timeout_s)
        while self._once and self._messages.empty():
            left_s = end_s - time.monotonic()
            if left_s <= 0 or not self._connection.help(left_s):
                break
        with suppress(queue.Empty):
            return self._messages.get(timeout=max(0.0, end_s - time.monotonic()))
        return None

    def publish(self, topic: str, payload: bytes) -> None:
        """Send, if there is a connection."""
        self._connection.publish(topic, payload)

    def _put(self, topic: str, payload: bytes) -> None:
        if self._messages.qsize() < MAILBOX_MESSAGES_MAX:  # the network thread alone puts
            self._messages.put((topic, payload))
        else:
            _log.warning("a message on %s was dropped: too many at once", topic)


class Connection:
    """The connection of one device; its methods may be called from any thread."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        will: Callable[[], tuple[str, bytes]],
        on_change: Callable[[bool], None],
        on_distrust: Callable[[Reason], None] = lambda _: None,
        keepalive_s: int = KEEPALIVE_S,
        backoff_s_max: float = BACKOFF_S_MAX,
    ) -> None:
        """Prepare; `start` connects.

        Args:
            endpoint: the broker.
            will: asked from the network thread before each connection for the retained topic and
                payload that the broker publishes when we vanish.
            on_change: called from the network thread with True after connecting, with False after.
            on_distrust: called from the network thread when the broker's certificate is refused.
            keepalive_s: a silent connection is dead after one and a half times this.
            backoff_s_max: longest wait between two attempts to connect.
        """
        self._endpoint = endpoint
        self._will = will
        self._on_change = on_change
        self._on_distrust = on_distrust
        self._keepalive_s = keepalive_s
        self._backoff_s_max = backoff_s_max
        self._topics = Subscriptions()
        self.unasked = 0
        """Messages on topics of blobs that nobody had asked for."""
        self._stopping = threading.Event()
        self._up = threading.Event()
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()
        """Who has it lets paho work."""
        self._helped_until_s = 0.0
        self._ended = MQTTErrorCode.MQTT_ERR_SUCCESS
        self._random = random.SystemRandom()
        self._failures = 0
        self.last_error = ""
        self._bulk: list[mqtt.MQTTMessageInfo] = []
        self._context = endpoint.tls()
        self._client = self._make_client()

    def start(self) -> None:
        """Begin to connect, and to stay connected."""
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    def watch(self) -> None:
        """Start the network thread again if it has ended; call it now and then."""
        thread = self._thread
        if thread is not None and not thread.is_alive() and not self._stopping.is_set():
            _log.error("the network thread had ended: started again")
            self._up.clear()
            self.start()

    def stop(self, last_words: tuple[str, bytes] | None = None, *, timeout_s: float = 3.0) -> None:
        """Publish `last_words` retained, disconnect in good order, and end the thread."""
        if last_words is not None and self.connected():
            info = self._client.publish(*last_words, qos=1, retain=True)
            end = time.monotonic() + timeout_s
            while self.connected() and not info.is_published() and time.monotonic() < end:
                self._stopping.wait(0.02)
        self._stopping.set()
        if self.connected():
            self._client.disconnect()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def connected(self) -> bool:
        """Say whether there is a connection now."""
        return self._up.is_set()

    @property
    def bytes_in(self) -> int:
        """What has come of long messages, also of those not whole yet."""
        return self._client.bytes_in

    def help(self, timeout_s: float) -> bool:
        """Do a turn of the network thread's work, which may take `timeout_s`.

        Returns:
            Whether there was anything to do it on: without a connection the network thread works.
        """
        self._helped_until_s = time.monotonic() + timeout_s + HELP_S
        if not self._turn.acquire(blocking=False):
            self._client.wake()
            if not self._turn.acquire(timeout=timeout_s):
                return self.connected()
        try:
            if self._ended != MQTTErrorCode.MQTT_ERR_SUCCESS or not self.connected():
                return False
            self._ended = self._client.loop(timeout_s)
        except Exception as error:  # noqa: BLE001 - it is the connection's, and not the helper's
            self._note_error(error)
            self._ended = MQTTErrorCode.MQTT_ERR_CONN_LOST
        finally:
            self._helped_until_s = time.monotonic() + HELP_S
            self._turn.release()
        return True

    def subscribe(self, topics: Sequence[str], handler: Handler, *, once: bool = False) -> None:
        """Have what comes on the exact `topics` given to `handler`, now and after reconnects.

        Args:
            topics: at each call the retained messages come anew.
            handler: called from the thread that does the network's turn.
            once: one message of each is wanted, so that another connection does not bring it again
                where it waits at the broker, or `came` was called for it.
        """
        self._topics.add(topics, handler, once=once)
        if self.connected():
            self._send_subscribe(topics)

    def came(self, topic: str) -> None:
        """Note that the one message that was wanted of a topic has come."""
        self._topics.came(topic)

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """Want nothing more from `topics`."""
        self._topics.remove(topics)
        if self.connected():
            for batch in _batches(topics):
                self._client.leave(batch)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Send with QoS 1 if there is a connection; True if it is on its way.

        What must arrive is repeated by its owner until the server acknowledges it.
        """
        if not self.connected():
            return False
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        return info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def publish_bulk(self, topic: str, payload: bytes) -> bool:
        """As `publish`, for one of many large messages; False too while enough is on its way.

        Used by one thread.
        """
        self._bulk = [info for info in self._bulk if not info.is_published()]
        if not self.connected() or len(self._bulk) >= BULK_MESSAGES_MAX:
            return False
        info = self._client.publish(topic, payload, qos=1)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False
        self._bulk.append(info)
        return True

    # ------------------------------------------------------------ the network thread

    def _make_client(self) -> PacketClient:
        client = PacketClient(
            CallbackAPIVersion.VERSION2,
            pieces=_BLOBS,
            on_piece=self._hand_on,
            client_id=self._endpoint.device,
            protocol=mqtt.MQTTv5,
            reconnect_on_failure=False,
        )
        client.tls_set_context(self._context)
        client.connect_timeout = CONNECT_S
        client.max_queued_messages_set(OUTGOING_MESSAGES_MAX)
        client.max_inflight_messages_set(20)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._received
        client.on_socket_open = _send_at_once
        # With this, a publish wakes the network thread instead of writing from the caller's.
        client.on_socket_register_write = lambda *_: None
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_S
        properties.MaximumPacketSize = PACKET_BYTES_MAX
        client.connect_async(
            self._endpoint.host,
            self._endpoint.port,
            keepalive=self._keepalive_s,
            clean_start=mqtt.MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
        )
        return client

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._connect_once()
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                self._note_error(error)
                if isinstance(error, ssl.SSLCertVerificationError):
                    self._guarded(self._on_distrust, _distrust(error))
            except Exception:  # noqa: BLE001 - the thread must live; it is our bug, and logged
                _log.exception("the network thread")
            finally:
                self._went_down()
            if not self._stopping.is_set():
                self._failures += 1
                wait_s = delay_s(
                    self._failures,
                    first_s=BACKOFF_FIRST_S,
                    max_s=self._backoff_s_max,
                    jitter=self._random.random(),
                )
                self._stopping.wait(wait_s)

    def _connect_once(self) -> None:
        """Connect and stay until the connection ends."""
        with self._turn:
            self._endpoint.present(self._context)  # it may have been renewed
            self._client.will_set(*self._will(), qos=1, retain=True)
            self._client.begin_connection()
            self._ended = MQTTErrorCode.MQTT_ERR_SUCCESS
            self._client.reconnect()
        deadline = time.monotonic() + _CONNACK_S
        while True:
            self._stand_by()
            with self._turn:
                if self._ended == MQTTErrorCode.MQTT_ERR_SUCCESS:
                    self._ended = self._client.loop(_STEP_S)
            if self._ended != MQTTErrorCode.MQTT_ERR_SUCCESS:
                if not self._stopping.is_set():
                    _log.info("the connection ended: %s", mqtt.error_string(self._ended))
                return
            late = time.monotonic() > deadline and not self._stopping.is_set()
            if late and not self.connected():
                raise TimeoutError("the broker does not answer CONNECT")

    def _stand_by(self) -> None:
        """Wait while another thread does our work."""
        while self.connected() and self._ended == MQTTErrorCode.MQTT_ERR_SUCCESS:
            left_s = self._helped_until_s - time.monotonic()
            if left_s <= 0 or self._stopping.wait(min(left_s, HELP_S)):
                return

    def _note_error(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if text != self.last_error:
            _log.warning(
                "no connection to %s:%d: %s", self._endpoint.host, self._endpoint.port, text
            )
        self.last_error = text

    def _went_down(self) -> None:
        if self._up.is_set():
            self._up.clear()
            self._guarded(self._on_change, False)

    def _connected(
        self,
        _client: mqtt.Client,
        _data: object,
        _flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._note_error(ConnectionError(f"the broker refuses: {reason}"))
            return
        self._failures = 0
        self.last_error = ""
        self._up.set()
        always, unknown = self._topics.again()
        self._guarded(self._send_subscribe, always)
        self._guarded(self._send_subscribe, unknown, Retained.WHERE_NEW)
        self._guarded(self._on_change, True)

    def _disconnected(self, *_args: object) -> None:
        self._went_down()

    def _received(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        self._hand_on(message.topic, bytes(message.payload))

    def _hand_on(self, topic: str, payload: bytes) -> None:
        handler = self._topics.handler(topic)
        if handler is not None:
            self._guarded(handler, topic, payload)
        elif topic.startswith(_BLOBS):
            self.unasked += 1

    def _send_subscribe(self, topics: Iterable[str], retained: Retained = Retained.ALWAYS) -> None:
        for batch in _batches(topics):
            self._client.ask(batch, retained)

    def _guarded(self, call: Callable[..., None], *args: object) -> None:
        """Call; an exception is our bug, is logged, and leaves the network thread alive."""
        try:
            call(*args)
        except Exception:  # noqa: BLE001 - the thread must live
            _log.exception("a callback of the connection")


def _distrust(error: ssl.SSLCertVerificationError) -> Reason:
    """Say why the broker's certificate is refused."""
    about_time = error.verify_code in _OUT_OF_TIME
    return make_reason(
        "connection.clock" if about_time else "connection.certificate",
        f"the broker's certificate is refused: {error.verify_message}",
    )


def _batches(topics: Iterable[str]) -> Iterable[list[str]]:
    rest = iter(topics)
    while batch := list(islice(rest, SUBSCRIBE_TOPICS_MAX)):
        yield batch


def _send_at_once(_client: mqtt.Client, _userdata: object, opened: Any) -> None:
    """Switch Nagle's algorithm off: with it each window of chunks waits 40 ms for the next."""
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
