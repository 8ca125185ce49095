"""The heart of the broker: who gets what. No I/O of its own, no clock.

`Exchange` holds sessions' subscriptions and the retained messages, turns a publication into
deliveries, and pumps deliveries into connections as far as these take them. A client with several
subscriptions that cover a topic gets one copy with the highest QoS of them (§3.3.4); each shared
subscription gives its copy to one of its members.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from mqtt5 import DisconnectReasonCode

from edgectl_broker.messages import Delivery, Message, SessionKey, Subscription
from edgectl_broker.retained import RetainedStore
from edgectl_broker.session import Session
from edgectl_broker.settings import BrokerSettings
from edgectl_broker.state import StateStore
from edgectl_broker.topics import FilterTree

__all__ = ["Authorize", "Exchange", "Published"]

_logger = logging.getLogger(__name__)

Authorize = Callable[[str, Literal["publish", "subscribe"], str], bool]
"""`authorize(name, action, topic)`: may the holder of certificate `name` do that?"""

Published = Literal["done", "no-subscribers", "over-quota"]

_PUMP_MESSAGES = 64
_PUMP_BYTES = 64 * 1024


class ShareGroup:
    """The members of one shared subscription, taken in turn."""

    def __init__(self, group: str, pattern: str) -> None:
        self.name = (group, pattern)
        self.members: dict[SessionKey, Subscription] = {}
        self._turn = 0

    def choose(self, sessions: dict[SessionKey, Session]) -> Subscription | None:
        """Return the next member: connected with room, else with room, else any."""
        members = list(self.members.values())
        if not members:
            return None
        self._turn += 1
        rotated = [members[(self._turn + offset) % len(members)] for offset in range(len(members))]

        def unfit(member: Subscription) -> tuple[bool, bool]:
            session = sessions[member.session]
            return (not session.has_room, session.link is None)

        return min(rotated, key=unfit)


class Exchange:
    """Subscriptions, retained messages, and the way from one to the other."""

    def __init__(
        self,
        settings: BrokerSettings,
        authorize: Authorize,
        state: StateStore,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.authorize = authorize
        self.state = state
        self.clock = clock
        self.sessions: dict[SessionKey, Session] = {}
        self.retained = RetainedStore(settings)
        self._tree: FilterTree[object, Subscription | ShareGroup] = FilterTree()
        self._last_number = state.last_number

    def next_number(self) -> int:
        """Return a number that no message and no delivery has had."""
        self._last_number += 1
        return self._last_number

    def resume_numbers(self) -> None:
        """Continue after the numbers that the state on disk holds."""
        self._last_number = max(self._last_number, self.state.last_number)

    # --- publishing ------------------------------------------------------------------------------

    def publish(self, message: Message) -> Published:
        """Retain `message` if it asks for it, and give it to everybody who subscribes to it."""
        if message.retain and not self._retain(message):
            return "over-quota"
        normal: dict[SessionKey, list[Subscription]] = {}
        shared: list[tuple[ShareGroup, Subscription]] = []
        for target in self._tree.match(message.topic):
            if isinstance(target, ShareGroup):
                if (member := target.choose(self.sessions)) is not None:
                    shared.append((target, member))
            elif not (target.no_local and target.session == message.publisher):
                normal.setdefault(target.session, []).append(target)
        for key, subscriptions in normal.items():
            self.deliver(self.sessions[key], self._delivery(message, subscriptions, None))
        for group, member in shared:
            delivery = self._delivery(message, [member], group.name)
            self.deliver(self.sessions[member.session], delivery)
        return "done" if normal or shared else "no-subscribers"

    def _retain(self, message: Message) -> bool:
        if not message.payload:
            if self.retained.drop(message.topic):
                self.state.drop_retained(message.topic)
            return True
        if not self.retained.put(message):
            return False
        self.state.put_retained(message)
        return True

    def _delivery(
        self,
        message: Message,
        subscriptions: list[Subscription],
        group: tuple[str, str] | None,
    ) -> Delivery:
        identifiers = [item.identifier for item in subscriptions if item.identifier is not None]
        return Delivery(
            sequence=self.next_number(),
            topic=message.topic,
            message=message,
            qos=min(message.qos, max(item.qos for item in subscriptions)),
            retain=message.retain and any(item.retain_as_published for item in subscriptions),
            identifiers=tuple(identifiers),
            group=group,
        )

    def deliver(self, session: Session, delivery: Delivery) -> None:
        """Queue `delivery` for `session` and send what can be sent."""
        outcome = session.enqueue(delivery)
        if outcome == "overflow":
            assert session.link is not None
            session.link.close(
                DisconnectReasonCode.QUOTA_EXCEEDED, "the client does not keep up with its messages"
            )
        if outcome != "queued":
            return
        if session.persistent and delivery.qos:
            self.state.put_delivery(session.key, delivery)
        self.pump(session)

    def redistribute(self, delivery: Delivery) -> None:
        """Give what a vanished member of a shared subscription never got to another member."""
        if delivery.group is None or delivery.message is None:
            return
        group = self._tree.get(delivery.group[1], delivery.group)
        if not isinstance(group, ShareGroup):
            return
        if (member := group.choose(self.sessions)) is not None:
            again = self._delivery(delivery.message, [member], delivery.group)
            self.deliver(self.sessions[member.session], again)

    # --- subscribing -----------------------------------------------------------------------------

    def attach(self, session: Session, pattern: str, subscription: Subscription) -> bool:
        """Make `subscription` reach `session`; True when the session did not have it before."""
        new = pattern not in session.subscriptions
        session.subscriptions[pattern] = subscription
        if not subscription.group:
            self._tree.put(subscription.filter, session.key, subscription)
            return new
        name = (subscription.group, subscription.filter)
        group = self._tree.get(subscription.filter, name)
        if not isinstance(group, ShareGroup):
            group = ShareGroup(*name)
            self._tree.put(subscription.filter, name, group)
        group.members[session.key] = subscription
        return new

    def detach(self, session: Session, pattern: str) -> bool:
        """End the subscription to `pattern`; say whether there was one."""
        subscription = session.subscriptions.pop(pattern, None)
        if subscription is None:
            return False
        if not subscription.group:
            self._tree.drop(subscription.filter, session.key)
            return True
        name = (subscription.group, subscription.filter)
        group = self._tree.get(subscription.filter, name)
        assert isinstance(group, ShareGroup)
        del group.members[session.key]
        if not group.members:
            self._tree.drop(subscription.filter, name)
        return True

    def send_retained(self, session: Session, subscription: Subscription) -> None:
        """Queue references to every retained message that `subscription` covers."""
        identifier = subscription.identifier
        now = self.clock()
        for topic in self.retained.covered_by(subscription.filter):
            message = self.retained.get(topic, now)
            if message is None or (subscription.no_local and message.publisher == session.key):
                continue
            delivery = Delivery(
                sequence=self.next_number(),
                topic=topic,
                message=None,
                qos=min(message.qos, subscription.qos),
                retain=True,
                identifiers=() if identifier is None else (identifier,),
                from_retained=True,
            )
            if session.enqueue(delivery) != "queued":
                _logger.warning("client %r subscribes to too many retained messages", session.key)
                return
            if session.persistent and delivery.qos:
                self.state.put_delivery(session.key, delivery)

    # --- sending ---------------------------------------------------------------------------------

    def pump(self, session: Session) -> None:
        """Send what waits for `session`, as far as its connection and its window allow."""
        link = session.link
        if link is None:
            return
        now = self.clock()
        chunks: list[bytes] = []
        size = 0
        for _ in range(_PUMP_MESSAGES):
            if not link.writable or (delivery := session.peek()) is None:
                break
            content = self._next_packet(session, delivery, now)
            if content is None:
                continue
            chunks.append(content)
            size += len(content)
            if size >= _PUMP_BYTES:
                link.send(b"".join(chunks))
                chunks, size = [], 0
        else:
            link.pump_soon()
        if chunks:
            link.send(b"".join(chunks))

    def _next_packet(self, session: Session, delivery: Delivery, now: float) -> bytes | None:
        """Take the head of the queue; None when its client must not or cannot have it."""
        message = delivery.message
        if delivery.from_retained:
            message = self.retained.get(delivery.topic, now)
        if (
            message is None
            or message.expired(now)
            or not self.authorize(session.key.name, "subscribe", delivery.topic)
        ):
            self.state.drop_delivery(session.skip())
            return None
        delivery, again = session.take()
        content = delivery.packet(message, now=now, again=again)
        if session.packet_bytes_max is not None and len(content) > session.packet_bytes_max:
            # §3.1.2-25: behave as if it had been sent and acknowledged
            if delivery.qos:
                session.acknowledge(delivery.packet_id)
            self.state.drop_delivery(delivery)
            return None
        if session.persistent and delivery.qos and not again:
            self.state.put_delivery(session.key, delivery)
        return content
