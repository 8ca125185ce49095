"""One TCP connection: bytes, timers and identity around a `Client`.

Backpressure works both ways: publications are handed over only while the write buffer is below its
mark, a connection whose acknowledgements pile up is cut, and nobody is read from while the disk is
behind.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import Protocol

import mqtt5
from mqtt5 import ConnAckReasonCode, DisconnectReasonCode

from edgectl_broker.client import Client, ConnectRefused
from edgectl_broker.errors import ProtocolViolation, VersionRefused
from edgectl_broker.exchange import Exchange
from edgectl_broker.identity import Identity
from edgectl_broker.packets import PacketReader
from edgectl_broker.registry import SessionRegistry

__all__ = ["Connection", "Host"]

_logger = logging.getLogger(__name__)

_LEGACY_VERSION_REFUSED = b"\x20\x02\x00\x01"  # MQTT 3.1.1 §3.2.2.3: unacceptable protocol version
_KEEP_ALIVE_FACTOR = 1.5  # §3.1.2.10
_CONNACK_OF = {  # by number: the codec's codes cannot be hashed
    int(DisconnectReasonCode.MALFORMED_PACKET): ConnAckReasonCode.MALFORMED_PACKET,
    int(DisconnectReasonCode.PROTOCOL_ERROR): ConnAckReasonCode.PROTOCOL_ERROR,
    int(DisconnectReasonCode.PACKET_TOO_LARGE): ConnAckReasonCode.PACKET_TOO_LARGE,
    int(DisconnectReasonCode.SERVER_BUSY): ConnAckReasonCode.SERVER_BUSY,
    int(DisconnectReasonCode.ADMINISTRATIVE_ACTION): ConnAckReasonCode.NOT_AUTHORIZED,
}


class Host(Protocol):
    """The broker, as a connection sees it."""

    exchange: Exchange
    registry: SessionRegistry

    def admit(self, connection: Connection, transport: asyncio.Transport) -> Identity | None:
        """Say who has connected; None refuses the connection."""
        ...

    def forget(self, connection: Connection) -> None:
        """The connection has ended."""
        ...

    def wait_for_disk(self, connection: Connection) -> bool:
        """Whether the disk is behind; `connection` is told to read on when it has caught up."""
        ...


class Connection(asyncio.Protocol):
    """The broker's end of one TCP or TLS connection; the `Link` of its session."""

    def __init__(self, host: Host) -> None:
        self.identity: Identity | None = None
        self._host = host
        self._settings = host.exchange.settings
        self._loop = asyncio.get_running_loop()
        self._reader = PacketReader(self._settings.packet_bytes_max)
        self._transport: asyncio.Transport | None = None
        self._client: Client | None = None
        self._opened_at = self._heard_at = time.monotonic()
        self._paused = False
        self._closing = False
        self._pump_planned = False
        self._cut: asyncio.TimerHandle | None = None

    # --- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Identify the client; refuse it at once when it is revoked or one too many."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.identity = self._host.admit(self, transport)
        if self.identity is None:
            self._closing = True
            transport.abort()
            return
        mark = self._settings.write_buffer_bytes
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in {socket.AF_INET, socket.AF_INET6}:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, mark)
        transport.set_write_buffer_limits(high=mark, low=mark // 4)
        self._client = Client(self.identity.name, self, self._host.exchange, self._host.registry)

    def data_received(self, data: bytes) -> None:
        """Handle what has come in."""
        if self._closing or self._client is None:
            return
        self._heard_at = time.monotonic()
        try:
            for packet in self._reader.feed(data):
                if not self._handle(self._client, packet):
                    return
        except ProtocolViolation as violation:
            self._refuse(violation)
            return
        if self._host.wait_for_disk(self) and self._transport is not None:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client has closed its side: so do we."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the interface
        """The connection is gone."""
        self._closing = True
        if self._cut is not None:
            # asyncio does not count a connection as lost that it closed itself once its buffer was
            # empty: to abort it then is an exception in the event loop.
            self._cut.cancel()
        if self._client is not None:
            self._client.lost()
        self._host.forget(self)

    def pause_writing(self) -> None:
        """The write buffer is above its mark."""
        self._paused = True

    def resume_writing(self) -> None:
        """The write buffer has drained."""
        self._paused = False
        self._pump()

    # --- Link ------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether publications may be handed over now."""
        return not (self._paused or self._closing)

    def send(self, content: bytes) -> None:
        """Write bytes; cut a client that lets more pile up than it may."""
        if self._closing or self._transport is None:
            return
        self._transport.write(content)
        if self._transport.get_write_buffer_size() > self._settings.write_buffer_bytes_max:
            _logger.warning("client %s does not read: cut", self)
            self._closing = True
            self._transport.abort()

    def close(self, reason: DisconnectReasonCode, detail: str) -> None:
        """Say goodbye with `reason` and close."""
        if self._closing:
            return
        if self._client is None or self._client.session is None:
            answer = _CONNACK_OF.get(int(reason), ConnAckReasonCode.UNSPECIFIED_ERROR)
            self._send_last(mqtt5.ConnAckPacket(reason_code=answer, reason_str=detail))
        else:
            self._send_last(mqtt5.DisconnectPacket(reason_code=reason, reason_str=detail))
        _logger.info("client %s: closed with %s: %s", self, reason.name, detail)
        self._finish()

    def pump_soon(self) -> None:
        """Pump again when the other connections had their turn."""
        if not self._pump_planned:
            self._pump_planned = True
            self._loop.call_soon(self._pump)

    # --- for the broker --------------------------------------------------------------------------

    def check(self, now: float, wall: float) -> None:
        """Close the connection if its client is silent, late, or its certificate has ended.

        Args:
            now: of the monotonic clock.
            wall: seconds since 1970.
        """
        if self._closing or self._client is None or self.identity is None:
            return
        if self._client.session is None:
            if now - self._opened_at > self._settings.connect_timeout_s:
                _logger.info("client %s: no CONNECT in time", self)
                self._finish()
        elif now - self._heard_at > self._client.keep_alive_s * _KEEP_ALIVE_FACTOR:
            self.close(DisconnectReasonCode.KEEP_ALIVE_TIMEOUT, "nothing heard in time")
        if self.identity.valid_until is not None and wall > self.identity.valid_until:
            self.close(DisconnectReasonCode.NOT_AUTHORIZED, "the client certificate has expired")

    def read_on(self) -> None:
        """The disk has caught up."""
        if self._transport is not None and not self._transport.is_closing():
            self._heard_at = time.monotonic()
            self._transport.resume_reading()

    def __str__(self) -> str:
        session = None if self._client is None else self._client.session
        if session is not None:
            return f"{session.key.name}/{session.key.client}"
        return "(unknown)" if self.identity is None else str(self.identity.name)

    def _handle(self, client: Client, packet: mqtt5.Packet) -> bool:
        """Handle one packet; say whether the conversation goes on."""
        client.receive(packet)
        if client.done:
            self._finish()
        return not self._closing

    def _pump(self) -> None:
        self._pump_planned = False
        if not self._closing and self._client is not None and self._client.session is not None:
            self._host.exchange.pump(self._client.session)

    def _refuse(self, violation: ProtocolViolation) -> None:
        if isinstance(violation, VersionRefused):
            unknown = mqtt5.ConnAckPacket(
                reason_code=ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION
            ).write()
            self.send(_LEGACY_VERSION_REFUSED if violation.legacy else unknown)
        elif isinstance(violation, ConnectRefused):
            self._send_last(
                mqtt5.ConnAckPacket(reason_code=violation.answer, reason_str=str(violation))
            )
        else:
            self.close(violation.reason, str(violation))
            return
        _logger.info("client %s refused: %s", self, violation)
        self._finish()

    def _send_last(self, packet: mqtt5.ConnAckPacket | mqtt5.DisconnectPacket) -> None:
        """Send, with its reason in words only if the client takes so large a packet (§3.14.2)."""
        content = packet.write()
        limit = None if self._client is None else self._client.packet_bytes_max
        if limit is not None and len(content) > limit:
            content = type(packet)(reason_code=packet.reason_code).write()  # type: ignore[arg-type]
        self.send(content)

    def _finish(self) -> None:
        """Close when what was written has gone out, and cut what does not drain in time."""
        self._closing = True
        if self._transport is not None and self._cut is None:
            self._transport.close()
            self._cut = self._loop.call_later(self._settings.close_timeout_s, self._transport.abort)
