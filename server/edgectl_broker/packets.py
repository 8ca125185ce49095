"""From bytes to packets: framing, bounds, and decoding by the `mqtt5` codec. No I/O.

The frame is cut here and not by the codec, so that a packet is refused as soon as its header says
that it is too large, and so that a frame that ends inside a field is malformed and never "more
bytes are needed". What the codec lets pass and MQTT 5 forbids is checked here as well.

A 3.1 or 3.1.1 CONNECT raises `VersionRefused`: this broker speaks MQTT 5 only.
"""

from __future__ import annotations

from collections.abc import Iterator

import mqtt5
from mqtt5 import DisconnectReasonCode, Packet

from edgectl_broker.errors import ProtocolViolation, VersionRefused
from edgectl_broker.fields import check_fields, check_properties

__all__ = ["PacketReader", "decode"]

_CONNECT = 0x10
_FROM_CLIENTS = (
    mqtt5.ConnectPacket,
    mqtt5.PublishPacket,
    mqtt5.PubAckPacket,
    mqtt5.SubscribePacket,
    mqtt5.UnsubscribePacket,
    mqtt5.PingReqPacket,
    mqtt5.DisconnectPacket,
)
_NUMBERED = (mqtt5.SubscribePacket, mqtt5.UnsubscribePacket, mqtt5.PubAckPacket)


def _malformed(detail: str) -> ProtocolViolation:
    return ProtocolViolation(DisconnectReasonCode.MALFORMED_PACKET, detail)


def _protocol_error(detail: str) -> ProtocolViolation:
    return ProtocolViolation(DisconnectReasonCode.PROTOCOL_ERROR, detail)


class PacketReader:
    """Collects bytes and yields the packets in them; holds at most one packet and one read."""

    def __init__(self, packet_bytes_max: int) -> None:
        self._buffer = bytearray()
        self._packet_bytes_max = packet_bytes_max
        self._connected = False

    def feed(self, content: bytes) -> Iterator[Packet]:
        """Add `content` and yield every packet that is complete.

        Raises:
            ProtocolViolation: the bytes are not MQTT 5 or too large; nothing can follow it.
        """
        self._buffer += content
        start = 0
        try:
            while (end := self._end_of_frame(start)) is not None:
                frame = bytes(memoryview(self._buffer)[start:end])
                start = end
                if not self._connected:
                    _check_version(frame)
                    self._connected = True
                yield decode(frame)
        finally:
            del self._buffer[:start]

    def _end_of_frame(self, start: int) -> int | None:
        available = len(self._buffer) - start
        if available and not self._connected and self._buffer[start] != _CONNECT:
            raise _protocol_error("the first packet must be a CONNECT")
        length = 0
        for position in range(4):
            if available < position + 2:
                return None
            byte = self._buffer[start + 1 + position]
            length |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:  # noqa: PLR2004 - the continuation bit (§1.5.5)
                size = length + position + 2
                if size > self._packet_bytes_max:
                    detail = f"a packet is at most {self._packet_bytes_max} bytes, not {size}"
                    raise ProtocolViolation(DisconnectReasonCode.PACKET_TOO_LARGE, detail)
                return start + size if available >= size else None
        raise _malformed("the remaining length is longer than four bytes")


def _check_version(frame: bytes) -> None:
    """Refuse a CONNECT of another version; what is no CONNECT at all is left to the codec."""
    at = next(index for index in range(1, 5) if frame[index] < 0x80) + 1  # noqa: PLR2004 - as above
    name_bytes = int.from_bytes(frame[at : at + 2])
    name, level = frame[at + 2 : at + 2 + name_bytes], frame[at + 2 + name_bytes :][:1]
    if name == b"MQIsdp" or (name == b"MQTT" and level in {b"\3", b"\4"}):
        raise VersionRefused("MQTT 3.1 and 3.1.1 are not spoken here: use MQTT 5", legacy=True)
    if name == b"MQTT" and level and level != b"\5":
        raise VersionRefused(f"MQTT version {level[0]} is not known: use MQTT 5", legacy=False)


def decode(frame: bytes) -> Packet:
    """Decode one whole packet as a client may send it.

    Raises:
        ProtocolViolation: malformed, or not a packet that a client of ours may send.
    """
    check_fields(frame)
    try:
        packet, used = mqtt5.read(memoryview(frame))
    except (ValueError, IndexError, OverflowError) as error:
        raise _malformed("the packet cannot be decoded") from error
    except BaseException as error:
        # The codec is Rust: where it panics, pyo3 raises a BaseException whose class cannot be
        # imported. Its state is gone with the call. `check_fields` prevents the one known case.
        if type(error).__name__ != "PanicException":
            raise
        raise _malformed("the packet cannot be decoded") from None
    if used != len(frame):
        raise _malformed("the packet is shorter than its length says")
    if not isinstance(packet, _FROM_CLIENTS):
        raise _protocol_error(f"a {type(packet).__name__} is not expected from a client")
    if isinstance(packet, _NUMBERED) and packet.packet_id == 0:
        raise _protocol_error("packet identifier 0 is not allowed")
    match packet:
        case mqtt5.PublishPacket():
            _check_publish(packet, frame)
        case mqtt5.ConnectPacket():
            _check_connect(packet)
        case mqtt5.DisconnectPacket(server_reference=str()):
            raise _protocol_error("a client does not send a server reference")
    return packet


def _check_connect(packet: mqtt5.ConnectPacket) -> None:
    if packet.authentication_method is None and packet.authentication_data is not None:
        raise _protocol_error("authentication data needs an authentication method")
    if packet.will is not None:
        _check_message(packet.will)


def _check_message(packet: mqtt5.PublishPacket | mqtt5.Will) -> None:
    if packet.payload_format_indicator not in {0, 1}:
        raise _malformed("the payload format indicator is 0 or 1")
    topic = packet.response_topic
    if topic is not None and (not topic or set("+#\0") & set(topic)):
        raise _malformed("a response topic is a topic without wildcards")


def _check_publish(packet: mqtt5.PublishPacket, frame: bytes) -> None:
    if packet.qos == mqtt5.QoS.EXACTLY_ONCE:
        raise ProtocolViolation(
            DisconnectReasonCode.QOS_NOT_SUPPORTED, "QoS 2 is not spoken here: publish with QoS 1"
        )
    if packet.topic_alias is not None:
        raise ProtocolViolation(
            DisconnectReasonCode.TOPIC_ALIAS_INVALID, "topic aliases are not accepted"
        )
    if packet.qos == mqtt5.QoS.AT_LEAST_ONCE and packet.packet_id == 0:
        raise _protocol_error("packet identifier 0 is not allowed")
    if packet.qos == mqtt5.QoS.AT_MOST_ONCE and packet.duplicate:
        raise _malformed("a QoS 0 publication cannot be a duplicate")
    if packet.subscription_ids:
        raise _protocol_error("a client does not send subscription identifiers")
    if packet.user_properties or packet.content_type is not None:
        check_properties(frame)
    _check_message(packet)
