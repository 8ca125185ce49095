"""paho's MQTT client, with bounds on what a broker may send, and a short way for pieces of blobs.

paho reads whatever length a broker announces, up to 256 MB, asks for the first bytes of a packet
one by one, and acknowledges each message by a packet of its own. Rules:

1. We read, a TLS record at a time, and cut the packets (`edgectl_agent.core.packets`). A piece of a
   blob goes to `on_piece` at once, and the acknowledgements of all that came together are sent
   together. Every other packet is given to paho as if it had just come. SUBSCRIBE and UNSUBSCRIBE
   are made by us, and nobody waits for the answers.
2. Acknowledgements go in the order of the messages (MQTT 5, 4.6).
3. paho does not see the pieces, but is told that the connection lives: by an answer to a ping, at
   most once a second. Otherwise it would hang up on a slow link where its own ping waits behind
   pieces.
4. Of paho's inside are used `_sock_recv`, by which all that it reads comes, `_packet_queue`, which
   takes bytes that are ready to be sent, `_mid_generate`, which numbers them, and `_sockpairW`, by
   which it wakes itself up: what is queued while we read is written right after it. A test holds
   that they are as they were.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MQTTErrorCode

from edgectl_agent.core.packets import (
    PacketBuffer,
    PacketTooLong,
    Retained,
    read_piece,
    subscribe_packet,
    unsubscribe_packet,
)
from edgectl_protocol.messages import MESSAGE_BYTES_MAX

__all__ = ["PACKET_BYTES_MAX", "PacketClient"]

PACKET_BYTES_MAX = MESSAGE_BYTES_MAX + 16 * 1024
"""The longest message (a chunk index is as long) and room for its topic and properties."""
_TURN_BYTES = 256 * 1024
"""Read before it is acknowledged, and before anything else is sent."""
_READS = 4
"""TLS records that are read one after the other before they are looked at."""
_LONG_BYTES = 4096
"""Acknowledgements and orders are shorter, and no sign that a piece is on its way."""
_ALIVE_S = 1.0
_PINGRESP = b"\xd0\x00"
_PUBACK = 0x40
_ACK_HEAD = bytes([_PUBACK, 2])
_UNHEARD = frozenset({0x90, 0xB0})
"""SUBACK and UNSUBACK."""
_SUCCESS = MQTTErrorCode.MQTT_ERR_SUCCESS


class PacketClient(mqtt.Client):
    """Used as paho's; `loop_read` by one thread."""

    def __init__(
        self, *args: Any, pieces: str, on_piece: Callable[[str, bytes], None], **options: Any
    ) -> None:
        """Prepare.

        Args:
            args: of paho's client.
            pieces: how the topics of blobs begin.
            on_piece: given the topic and payload of each message on them, from the thread that
                reads; it must not raise.
            options: of paho's client.
        """
        super().__init__(*args, **options)
        self._prefix = pieces.encode()
        self._on_piece = on_piece
        self._long_before = 0
        self._alive_s = 0.0
        self._acknowledgements = bytearray()
        self.begin_connection()

    @property
    def bytes_in(self) -> int:
        """What has come of long packets, of all connections, also of those not whole yet."""
        return self._long_before + self._packets.long_bytes_in

    def begin_connection(self) -> None:
        """What came of an earlier connection is worth nothing now."""
        packets: PacketBuffer | None = getattr(self, "_packets", None)
        self._long_before += packets.long_bytes_in if packets else 0
        self._packets = PacketBuffer(PACKET_BYTES_MAX, long_bytes=_LONG_BYTES)
        self._told_alive = 0
        self._given, self._taken = b"", 0
        self._failure: OSError | None = None
        self._acknowledgements.clear()

    def ask(self, topics: Sequence[str], retained: Retained) -> None:
        """Subscribe to a few topics with QoS 1, from any thread."""
        packet = subscribe_packet(self._mid_generate(), topics, retained)
        self._packet_queue(packet[0], packet, 0, 0)

    def leave(self, topics: Sequence[str]) -> None:
        """Unsubscribe from a few topics, from any thread."""
        packet = unsubscribe_packet(self._mid_generate(), topics)
        self._packet_queue(packet[0], packet, 0, 0)

    def wake(self) -> None:
        """Have `loop` return that another thread waits in."""
        if self._sockpairW is not None:
            with contextlib.suppress(OSError):
                self._sockpairW.send(b"0")

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:  # noqa: ARG002 - as paho has it
        """Read what is there, and answer it."""
        waker = self._sockpairW
        self._sockpairW = _Nobody()  # type: ignore[assignment]
        try:
            code = self._read()
            self._acknowledge()
            if code == _SUCCESS and self.want_write():
                code = self.loop_write()
            return code
        finally:
            self._sockpairW = waker

    def _read(self) -> MQTTErrorCode:
        opened = self.socket()
        if opened is None:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        code, read, count = _SUCCESS, 0, 1
        while code == _SUCCESS and count and read < _TURN_BYTES:
            try:
                count = self._receive(opened)
            except OSError as error:
                return self._fail(error)
            read += count
            code = self._deliver()
        now_s = time.monotonic()
        long_bytes = self._packets.long_bytes_in
        if code == _SUCCESS and long_bytes > self._told_alive and now_s >= self._alive_s + _ALIVE_S:
            self._told_alive, self._alive_s = long_bytes, now_s
            code = self._give(_PINGRESP)
        return code

    def _receive(self, opened: Any) -> int:
        """Put the next records into the buffer; return their bytes, 0 where none is there now."""
        read = 0
        for _ in range(_READS):
            try:
                count = opened.recv_into(self._packets.room())
                if not count:
                    raise ConnectionResetError("the broker has closed the connection")
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except OSError:
                if read:  # a farewell, perhaps; it fails again after that
                    break
                raise
            self._packets.came(count)
            read += count
        return read

    def _deliver(self) -> MQTTErrorCode:
        """Hand on the packets that are whole."""
        while True:
            try:
                taken = self._packets.take()
            except PacketTooLong as error:
                return self._fail(ConnectionAbortedError(f"the broker sends {error}"))
            if taken is None:
                return _SUCCESS
            packet, content = taken
            if packet[0] in _UNHEARD:
                continue
            piece = read_piece(packet, content, self._prefix)
            if piece is not None:
                self._acknowledgements += _ACK_HEAD + piece.identifier
                self._on_piece(piece.topic, piece.payload)
                continue
            self._acknowledge()
            code = self._give(bytes(packet))
            if code != _SUCCESS:
                return code

    def _acknowledge(self) -> None:
        if self._acknowledgements:
            self._packet_queue(_PUBACK, bytes(self._acknowledgements), 0, 0)
            self._acknowledgements.clear()

    def _give(self, packet: bytes) -> MQTTErrorCode:
        """Let paho handle a packet."""
        self._given, self._taken = packet, 0
        code = _SUCCESS
        while code == _SUCCESS and self._taken < len(self._given):
            code = super().loop_read()
        return code

    def _fail(self, error: OSError) -> MQTTErrorCode:
        """Let paho end the connection."""
        self._failure = error
        return super().loop_read()

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._taken < len(self._given):
            content = self._given[self._taken : self._taken + bufsize]
            self._taken += len(content)
            return content
        raise self._failure or BlockingIOError


class _Nobody:
    """Takes a wake-up that nobody needs."""

    def send(self, _: bytes) -> None:
        """Do nothing."""
