"""How sessions, deliveries and messages lie in the state folder: msgpack of these structs."""

from __future__ import annotations

import msgspec

from edgectl_broker.messages import Delivery, LastWill, Message, SessionKey, Subscription

__all__ = ["DeliveryRecord", "SessionRecord", "decode", "encode"]

_ENCODER = msgspec.msgpack.Encoder()


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A persistent session; `expires_at` is None while its client is connected."""

    key: SessionKey
    expiry_s: int
    expires_at: float | None
    subscriptions: dict[str, Subscription]
    will: LastWill | None
    will_due: float | None


class DeliveryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery; `message` is the number of a stored message, None what the topic retains."""

    key: SessionKey
    topic: str
    message: int | None
    qos: int
    retain: bool
    identifiers: tuple[int, ...]
    group: tuple[str, str] | None
    packet_id: int

    @classmethod
    def of(cls, key: SessionKey, delivery: Delivery) -> DeliveryRecord:
        """Build the record of `delivery` to the session `key`."""
        by_reference = delivery.from_retained or delivery.message is None
        return cls(
            key=key,
            topic=delivery.topic,
            message=None if by_reference or delivery.message is None else delivery.message.number,
            qos=delivery.qos,
            retain=delivery.retain,
            identifiers=delivery.identifiers,
            group=delivery.group,
            packet_id=delivery.packet_id,
        )

    def restored(self, sequence: int, message: Message | None) -> Delivery:
        """Build the delivery again; `message` is None for one of a retained message."""
        return Delivery(
            sequence=sequence,
            topic=self.topic,
            message=message,
            qos=self.qos,
            retain=self.retain,
            identifiers=self.identifiers,
            from_retained=self.message is None,
            group=self.group,
            packet_id=self.packet_id,
            stored=True,
        )


def encode(record: SessionRecord | DeliveryRecord | Message) -> bytes:
    """Encode one record."""
    return _ENCODER.encode(record)


def decode(content: bytes, kind: type[msgspec.Struct]) -> msgspec.Struct:
    """Decode one record of `kind`; raises `msgspec.MsgspecError`."""
    return msgspec.msgpack.decode(content, type=kind)
