"""What the broker knows of one client beyond its connection (MQTT 5 §4.1). No I/O.

Publications wait in one queue in order and move, while the client's receive maximum leaves room,
to those in flight; an acknowledgement ends them. When the connection is lost, those in flight go
back to the head of the queue with their packet identifiers, to be sent again as duplicates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Literal, Protocol

from mqtt5 import DisconnectReasonCode

from edgectl_broker.messages import Delivery, LastWill, SessionKey, Subscription
from edgectl_broker.settings import BrokerSettings

__all__ = ["Link", "Session"]

_PACKET_IDS = 65535


class Link(Protocol):
    """A connection, as the rest of the broker sees it. No method calls back into the caller."""

    @property
    def writable(self) -> bool:
        """Whether publications may be handed over now."""
        ...

    def send(self, content: bytes) -> None:
        """Send bytes; without effect on a connection that is closing."""
        ...

    def close(self, reason: DisconnectReasonCode, detail: str) -> None:
        """Say goodbye with `reason` and close."""
        ...

    def pump_soon(self) -> None:
        """Ask to be pumped again when the other connections had their turn."""
        ...


class Session:
    """Subscriptions and publications on their way of one client.

    Attributes:
        link: the connection, None while the client is away.
        expiry_s: how long the session outlives its connection; 0 ends it with the connection.
        expires_at, will_due: seconds since 1970, None for not (yet) set.
        packet_bytes_max: what the client accepts, None for anything.
        stored: whether the state on disk knows the session.
    """

    def __init__(self, key: SessionKey, settings: BrokerSettings) -> None:
        self.key = key
        self.link: Link | None = None
        self.expiry_s = 0
        self.expires_at: float | None = None
        self.will: LastWill | None = None
        self.will_due: float | None = None
        self.receive_max = settings.in_flight_max
        self.packet_bytes_max: int | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self.stored = False
        self.dropped = 0
        self._settings = settings
        self._waiting: deque[Delivery] = deque()
        self._in_flight: dict[int, Delivery] = {}
        self._queued = 0
        self._queued_bytes = 0
        self._references = 0
        self._last_packet_id = 0
        self._used_ids: set[int] = set()

    @property
    def persistent(self) -> bool:
        """Whether the session outlives its connection, and the broker."""
        return self.expiry_s > 0

    @property
    def has_waiting(self) -> bool:
        """Whether anything waits to be sent."""
        return bool(self._waiting)

    @property
    def queued(self) -> int:
        """How many publications wait."""
        return len(self._waiting)

    @property
    def queued_bytes(self) -> int:
        """Bytes of the publications that wait."""
        return self._queued_bytes

    @property
    def has_room(self) -> bool:
        """Whether the queue takes another publication of any size that a packet may have."""
        limits = self._settings
        return (
            self._queued < limits.queue_messages_max
            and self._queued_bytes + limits.packet_bytes_max <= limits.queue_bytes_max
        )

    def deliveries(self) -> Iterator[Delivery]:
        """Yield everything on its way, first what is in flight."""
        yield from self._in_flight.values()
        yield from self._waiting

    def enqueue(self, delivery: Delivery) -> Literal["queued", "dropped", "overflow"]:
        """Put `delivery` at the end of the queue.

        Returns:
            ``dropped`` when it is lost as MQTT allows (QoS 0, or the client is away), ``overflow``
            when the client is connected and must be cut because it does not keep up.
        """
        limits = self._settings
        if delivery.qos == 0 and self.link is None:
            return "dropped"
        if delivery.from_retained:
            if self._references >= limits.retained_backlog_max:
                return "dropped"
        elif (
            self._queued >= limits.queue_messages_max
            or self._queued_bytes + delivery.size > limits.queue_bytes_max
        ):
            self.dropped += 1
            return "dropped" if delivery.qos == 0 or self.link is None else "overflow"
        self._waiting.append(delivery)
        self._count(delivery, 1)
        return "queued"

    def restore(self, delivery: Delivery) -> None:
        """Take back a delivery that the state on disk held."""
        self._waiting.append(delivery)
        self._count(delivery, 1)
        if delivery.packet_id:
            self._used_ids.add(delivery.packet_id)

    def peek(self) -> Delivery | None:
        """Return the next delivery that may be sent now, or None."""
        if not self._waiting:
            return None
        delivery = self._waiting[0]
        if delivery.qos and len(self._in_flight) >= self.receive_max:
            return None
        return delivery

    def skip(self) -> Delivery:
        """Take the next delivery away unsent: it expired, or its client may not have it."""
        delivery = self._waiting.popleft()
        self._count(delivery, -1)
        self._used_ids.discard(delivery.packet_id)
        return delivery

    def take(self) -> tuple[Delivery, bool]:
        """Take the next delivery to be sent, with its packet identifier; and whether again."""
        delivery = self._waiting.popleft()
        self._count(delivery, -1)
        again = delivery.packet_id != 0
        if delivery.qos:
            if not again:
                delivery.packet_id = self._free_packet_id()
            self._in_flight[delivery.packet_id] = delivery
        return delivery, again

    def acknowledge(self, packet_id: int) -> Delivery | None:
        """End the delivery that the client has acknowledged; None when there is none."""
        delivery = self._in_flight.pop(packet_id, None)
        if delivery is not None:
            self._used_ids.discard(packet_id)
        return delivery

    def rewind(self) -> list[Delivery]:
        """The connection is lost: what is in flight waits again; returns the QoS 0 lost with it."""
        lost = [delivery for delivery in self._waiting if delivery.qos == 0]
        again = list(self._in_flight.values())
        self._in_flight.clear()
        for delivery in lost:
            self._count(delivery, -1)
        for delivery in again:
            self._count(delivery, 1)
        kept = [delivery for delivery in self._waiting if delivery.qos]
        self._waiting = deque([*again, *kept])
        return lost

    def _count(self, delivery: Delivery, sign: int) -> None:
        if delivery.from_retained:
            self._references += sign
        else:
            self._queued += sign
            self._queued_bytes += sign * delivery.size

    def _free_packet_id(self) -> int:
        for _ in range(_PACKET_IDS):
            self._last_packet_id = self._last_packet_id % _PACKET_IDS + 1
            if self._last_packet_id not in self._used_ids:
                self._used_ids.add(self._last_packet_id)
                return self._last_packet_id
        raise AssertionError("more deliveries in flight than packet identifiers")
