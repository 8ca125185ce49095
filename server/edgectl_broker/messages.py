"""Messages inside the broker, and what is sent of them to one client."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import msgspec
from mqtt5 import PublishPacket, QoS, Will

__all__ = ["Delivery", "LastWill", "Message", "SessionKey", "Subscription"]

_BYTE_ORDER_MARK = "\ufeff"
_OVERHEAD_BYTES = 200
_QOS = (QoS.AT_MOST_ONCE, QoS.AT_LEAST_ONCE)


class SessionKey(NamedTuple):
    """Whose session: certificate name and client id. Two names never share a session."""

    name: str
    client: str


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One publication as it came in.

    Attributes:
        number: unique and rising within the life of the state folder.
        expires_at: seconds since 1970, None for never.
        publisher: who published it.
    """

    number: int
    topic: str
    payload: bytes
    qos: int
    retain: bool
    publisher: SessionKey
    expires_at: float | None = None
    payload_format: int = 0
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()

    @property
    def size(self) -> int:
        """Bytes that the message is counted with; an estimate of its memory."""
        properties = sum(len(name) + len(value) for name, value in self.user_properties)
        return _OVERHEAD_BYTES + len(self.topic) + len(self.payload) + properties

    @property
    def unreadable(self) -> bool:
        """Whether paho-mqtt would end its connection on it: it forbids U+FEFF in a property.

        MQTT 5 allows that character, and a broker to refuse any publication. One device could
        otherwise shut its readers out: the message would come again at each of their connects.
        """
        pairs = self.user_properties
        return any(
            text is not None and _BYTE_ORDER_MARK in text
            for text in (self.content_type, self.response_topic, *itertools.chain(*pairs))
        )

    def expired(self, now: float) -> bool:
        """Say whether the message must not be delivered any more."""
        return self.expires_at is not None and now >= self.expires_at

    @classmethod
    def of_publish(
        cls, packet: PublishPacket, *, number: int, publisher: SessionKey, now: float
    ) -> Message:
        """Build the message that a client has published."""
        expiry = packet.message_expiry_interval
        return cls(
            number=number,
            topic=packet.topic,
            payload=packet.payload,
            qos=int(packet.qos),
            retain=packet.retain,
            publisher=publisher,
            expires_at=None if expiry is None else now + expiry,
            payload_format=packet.payload_format_indicator,
            content_type=packet.content_type,
            response_topic=packet.response_topic,
            correlation_data=packet.correlation_data,
            user_properties=tuple(packet.user_properties),
        )


class LastWill(msgspec.Struct, frozen=True, kw_only=True):
    """The publication that a client leaves for the case that it is lost.

    Attributes:
        message: as it will be published; its expiry counts from then, so it is kept apart.
        delay_s: how long the client may be away before it is published.
        expiry_s: message expiry interval, None for never.
    """

    message: Message
    delay_s: int
    expiry_s: int | None

    @classmethod
    def of_connect(cls, will: Will, *, publisher: SessionKey) -> LastWill:
        """Build the will of a CONNECT."""
        message = Message(
            number=0,
            topic=will.topic,
            payload=will.payload or b"",
            qos=int(will.qos),
            retain=will.retain,
            publisher=publisher,
            payload_format=will.payload_format_indicator,
            content_type=will.content_type,
            response_topic=will.response_topic,
            correlation_data=will.correlation_data,
            user_properties=tuple(will.user_properties),
        )
        return cls(
            message=message,
            delay_s=will.will_delay_interval,
            expiry_s=will.message_expiry_interval,
        )

    def due(self, *, number: int, now: float) -> Message:
        """Return the message to publish now."""
        expires_at = None if self.expiry_s is None else now + self.expiry_s
        return msgspec.structs.replace(self.message, number=number, expires_at=expires_at)


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """One subscription of one session; `filter` is without its ``$share/<group>/``."""

    session: SessionKey
    filter: str
    group: str
    qos: int
    no_local: bool
    retain_as_published: bool
    identifier: int | None


class Delivery(msgspec.Struct, kw_only=True):
    """A message on its way to one client.

    Attributes:
        sequence: order within the session, and the key on disk.
        message: None stands for what is retained at `topic` when its turn comes.
        from_retained: it answers a subscription; on disk it is a reference to the retained message.
        group: the shared subscription that chose this client, as (group, filter).
        packet_id: 0 until it was sent with QoS 1; kept for the redelivery.
        stored: whether the state on disk knows it.
    """

    sequence: int
    topic: str
    message: Message | None
    qos: int
    retain: bool
    identifiers: tuple[int, ...] = ()
    from_retained: bool = False
    group: tuple[str, str] | None = None
    packet_id: int = 0
    stored: bool = False

    @property
    def size(self) -> int:
        """Bytes that the delivery is counted with in its queue."""
        return _OVERHEAD_BYTES if self.message is None else self.message.size

    def packet(self, message: Message, *, now: float, again: bool) -> bytes:
        """Encode the PUBLISH of `message` for this client; `again` marks a redelivery."""
        expires_at = message.expires_at
        return PublishPacket(
            message.topic,
            message.payload,
            qos=_QOS[self.qos],
            retain=self.retain,
            packet_id=self.packet_id or None,
            duplicate=again,
            payload_format_indicator=message.payload_format,
            message_expiry_interval=None if expires_at is None else max(1, int(expires_at - now)),
            content_type=message.content_type,
            response_topic=message.response_topic,
            correlation_data=message.correlation_data,
            subscription_ids=list(self.identifiers),
            user_properties=list(message.user_properties),
        ).write()
