"""One connection to the broker: an MQTT 5 client that costs little, as an asyncio protocol.

Rules:

1. QoS 1, and no more unacknowledged than the broker takes; the rest waits in a bounded queue. What
   does not fit is dropped: whoever must be heard repeats what was not acknowledged to it.
2. No packet is longer than `PACKET_BYTES_MAX`. Whoever sends a longer one, or something else than
   MQTT, is hung up on.
3. A link is used once. `lost` is called once, whoever has ended it.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto
from collections import deque
from collections.abc import Callable
from typing import Any

import mqtt5
from mqtt5 import QoS

from edgectl_protocol.messages import MESSAGE_BYTES_MAX

__all__ = ["KEEPALIVE_S", "PACKET_BYTES_MAX", "Link", "LinkFailed", "PacketBuffer", "limit_memory"]

PACKET_BYTES_MAX = MESSAGE_BYTES_MAX + 16 * 1024
KEEPALIVE_S = 30
"""As the agent has it."""
SESSION_S = 24 * 3600
_CONNECT_S = 30.0
_QUEUE_MAX = 512
_READ_BUFFER_BYTES = 16 * 1024
_GOOD = 0x80
"""Reason codes below are no failures."""


class LinkFailed(Exception):
    """There is no connection; the text says why."""


def limit_memory() -> None:
    """Make asyncio's TLS connections of this process read 16 KiB at a time instead of 256 KiB.

    asyncio allocates that buffer for each connection, and has no setting for it.
    """
    sslproto.SSLProtocol.max_size = _READ_BUFFER_BYTES


class PacketBuffer:
    """Cuts what comes into packets; holds at most one packet and one read."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, content: bytes) -> list[mqtt5.Packet]:
        """Add `content` and return the packets that are complete.

        Raises:
            LinkFailed: it is no MQTT, or too long.
        """
        buffer = self._buffer + content if self._buffer else content
        view, at = memoryview(buffer), 0
        packets: list[mqtt5.Packet] = []
        try:
            while (end := _end_of_packet(view, at)) is not None:
                packet, _ = mqtt5.read(view[at:end])
                packets.append(packet)
                at = end
        except (ValueError, IndexError, OverflowError) as error:
            raise LinkFailed("the broker sends something else than MQTT 5") from error
        except BaseException as error:
            # The codec is Rust: where it panics, pyo3 raises a class that cannot be imported.
            if type(error).__name__ != "PanicException":
                raise
            raise LinkFailed("the broker sends something else than MQTT 5") from None
        self._buffer = buffer[at:]
        return packets


def _end_of_packet(view: memoryview, at: int) -> int | None:
    """Return where the packet that begins at `at` ends; None: more is needed."""
    length = 0
    for position in range(4):
        place = at + 1 + position
        if place >= len(view):
            return None
        byte = view[place]
        length |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit (§1.5.5)
            if length > PACKET_BYTES_MAX:
                raise LinkFailed(f"the broker sends a packet of {length} bytes")
            end = place + 1 + length
            return end if end <= len(view) else None
    raise LinkFailed("the broker sends something else than MQTT 5")


class Link(asyncio.Protocol):
    """The connection of one device; made by `open`."""

    def __init__(
        self,
        name: str,
        will: tuple[str, bytes],
        received: Callable[[str, bytes, bool], None],
        lost: Callable[[], None],
    ) -> None:
        self._name, self._will = name, will
        self._received, self._lost = received, lost
        self._packets = PacketBuffer()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._number = 0
        self._window = 20
        self._flying: set[int] = set()
        self._waiting: deque[tuple[str, bytes, bool]] = deque()
        self._ping: asyncio.TimerHandle | None = None
        self._answered = True
        self._settled: asyncio.Future[None] | None = None
        self.dropped = 0
        """Publications that did not fit into the queue."""

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        context: ssl.SSLContext,
        *,
        name: str,
        will: tuple[str, bytes],
        received: Callable[[str, bytes, bool], None],
        lost: Callable[[], None],
    ) -> Link:
        """Connect, and be greeted.

        Args:
            host: of the broker.
            port: of the broker.
            context: with the device's certificate.
            name: of the device.
            will: topic and payload that the broker publishes, retained, when we vanish.
            received: called with topic, payload and whether it was retained.
            lost: called once when the connection has ended after it was greeted.

        Raises:
            LinkFailed: the broker refuses, or does not answer in time.
            OSError: there is no way there.
        """
        loop = asyncio.get_running_loop()
        link = cls(name, will, received, lost)
        try:
            async with asyncio.timeout(_CONNECT_S):
                await loop.create_connection(lambda: link, host, port, ssl=context)
                await link._greeted
        except TimeoutError as error:
            link.abort()
            raise LinkFailed("the broker does not answer") from error
        except BaseException:
            link.abort()
            raise
        return link

    # ------------------------------------------------------------ for the device

    def subscribe(self, *topics: str) -> None:
        """Ask for exact topics."""
        filters = [mqtt5.TopicFilter(one, max_qos=QoS.AT_LEAST_ONCE) for one in topics]
        self._write(mqtt5.SubscribePacket(self._next(), filters).write())

    def unsubscribe(self, *topics: str) -> None:
        """Ask for them no longer."""
        self._write(mqtt5.UnsubscribePacket(self._next(), list(topics)).write())

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Send, or have it wait for its turn; False where there is no room."""
        if len(self._flying) < self._window:
            self._send(topic, payload, retain=retain)
            return True
        if len(self._waiting) >= _QUEUE_MAX:
            self.dropped += 1
            return False
        self._waiting.append((topic, payload, retain))
        return True

    async def settle(self, bound_s: float) -> None:
        """Wait, no longer than the bound, until the broker has acknowledged everything."""
        if self._transport is not None and (self._flying or self._waiting):
            self._settled = self._loop.create_future()
            await asyncio.wait([self._settled], timeout=bound_s)

    def close(self) -> None:
        """End the connection in good order: the will is not published."""
        self._write(mqtt5.DisconnectPacket().write())
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End it as a power cut would."""
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------ for asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the broker."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        topic, payload = self._will
        will = mqtt5.Will(topic, payload=payload, qos=QoS.AT_LEAST_ONCE, retain=True)
        self._write(
            mqtt5.ConnectPacket(
                self._name,
                clean_start=True,
                will=will,
                keep_alive=KEEPALIVE_S,
                session_expiry_interval=SESSION_S,
                max_packet_size=PACKET_BYTES_MAX,
            ).write()
        )

    def data_received(self, data: bytes) -> None:
        """Take packets in."""
        try:
            for packet in self._packets.feed(data):
                self._take(packet)
        except LinkFailed as error:
            if not self._greeted.done():
                self._greeted.set_exception(error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever is concerned, once."""
        self._transport = None
        self._settle()
        if self._ping is not None:
            self._ping.cancel()
        if not self._greeted.done():
            self._greeted.set_exception(exc or LinkFailed("the broker has hung up"))
            return
        if self._greeted.cancelled() or self._greeted.exception() is not None:
            return
        self._lost()

    # ------------------------------------------------------------ within

    def _take(self, packet: Any) -> None:
        match packet:
            case mqtt5.PublishPacket():
                if packet.packet_id is not None:
                    self._write(mqtt5.PubAckPacket(packet.packet_id).write())
                self._received(packet.topic, bytes(packet.payload), packet.retain)
            case mqtt5.PubAckPacket():
                self._flying.discard(packet.packet_id)
                while self._waiting and len(self._flying) < self._window:
                    topic, payload, retain = self._waiting.popleft()
                    self._send(topic, payload, retain=retain)
                if not self._flying:
                    self._settle()
            case mqtt5.ConnAckPacket():
                self._greet(packet)
            case mqtt5.PingRespPacket():
                self._answered = True
            case mqtt5.DisconnectPacket():
                self.abort()

    def _settle(self) -> None:
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def _greet(self, packet: mqtt5.ConnAckPacket) -> None:
        if self._greeted.done():
            return
        if int(packet.reason_code) >= _GOOD:
            name = packet.reason_code.name.lower().replace("_", " ")
            self._greeted.set_exception(LinkFailed(f"the broker refuses: {name}"))
            self.abort()
            return
        self._window = min(self._window, packet.receive_max)
        self._greeted.set_result(None)
        keep_alive = packet.server_keep_alive or KEEPALIVE_S
        self._ping = self._loop.call_later(keep_alive / 2, self._keep_alive, keep_alive / 2)

    def _keep_alive(self, period_s: float) -> None:
        if not self._answered:
            self.abort()
            return
        self._answered = False
        self._write(mqtt5.PingReqPacket().write())
        self._ping = self._loop.call_later(period_s, self._keep_alive, period_s)

    def _send(self, topic: str, payload: bytes, *, retain: bool) -> None:
        number = self._next()
        self._flying.add(number)
        packet = mqtt5.PublishPacket(
            topic, payload, qos=QoS.AT_LEAST_ONCE, packet_id=number, retain=retain
        )
        self._write(packet.write())

    def _next(self) -> int:
        self._number = self._number % 65535 + 1
        return self._number

    def _write(self, content: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(content)
