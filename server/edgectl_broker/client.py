"""One client's side of the conversation: packets in, packets out. No I/O.

The order of replies is the order of requests (§4.6): once a reply waits for the disk, later ones
wait behind it. A violation ends the connection; the caller sends its reason.
"""

from __future__ import annotations

import logging
import secrets

import mqtt5
from mqtt5 import (
    ConnAckReasonCode,
    DisconnectReasonCode,
    Packet,
    PubAckReasonCode,
    QoS,
    RetainHandling,
    SubAckReasonCode,
    UnsubAckReasonCode,
)

from edgectl_broker.errors import ProtocolViolation
from edgectl_broker.exchange import Exchange
from edgectl_broker.messages import LastWill, Message, SessionKey, Subscription
from edgectl_broker.registry import Opening, SessionRegistry
from edgectl_broker.session import Link, Session
from edgectl_broker.topics import check_filter, check_topic

__all__ = ["Client", "ConnectRefused"]

_logger = logging.getLogger(__name__)


class ConnectRefused(ProtocolViolation):
    """A CONNECT is answered with `answer` and the connection closed."""

    code = "broker.connect"

    def __init__(self, answer: ConnAckReasonCode, detail: str) -> None:
        super().__init__(DisconnectReasonCode.UNSPECIFIED_ERROR, detail)
        self.answer = answer


class Client:
    """The broker's end of one connection.

    Args:
        name: the certificate's name; None without TLS, where the user name of CONNECT is believed.
    """

    def __init__(
        self, name: str | None, link: Link, exchange: Exchange, registry: SessionRegistry
    ) -> None:
        self.name = name
        self.session: Session | None = None
        self.keep_alive_s = 0
        self.packet_bytes_max: int | None = None
        self._link = link
        self._exchange = exchange
        self._registry = registry
        self._settings = exchange.settings
        self._state = exchange.state
        self._unacknowledged = 0
        self._refusals = 0
        self._publish_will = True
        self.done = False

    def receive(self, packet: Packet) -> None:
        """Handle one packet.

        Raises:
            ProtocolViolation: the connection must end with its reason.
        """
        if self.session is None:
            assert isinstance(packet, mqtt5.ConnectPacket)  # the reader lets nothing else through
            self._connect(packet)
            return
        match packet:
            case mqtt5.PublishPacket():
                self._publish(packet)
            case mqtt5.PubAckPacket():
                self._acknowledged(packet)
            case mqtt5.SubscribePacket():
                self._subscribe(packet)
            case mqtt5.UnsubscribePacket():
                self._unsubscribe(packet)
            case mqtt5.PingReqPacket():
                self._link.send(mqtt5.PingRespPacket().write())
            case mqtt5.DisconnectPacket():
                self._disconnect(packet)
            case _:
                raise ProtocolViolation(
                    DisconnectReasonCode.PROTOCOL_ERROR, "a second CONNECT is not allowed"
                )

    def lost(self) -> None:
        """The connection has ended, by whoever's will."""
        self.done = True
        if self.session is not None:
            self._registry.closed(self.session, self._link, publish_will=self._publish_will)

    # --- CONNECT, DISCONNECT ---------------------------------------------------------------------

    def _connect(self, packet: mqtt5.ConnectPacket) -> None:
        self.packet_bytes_max = packet.max_packet_size
        if packet.authentication_method is not None:
            raise ConnectRefused(
                ConnAckReasonCode.BAD_AUTHENTICATION_METHOD, "only certificates are accepted"
            )
        key = self._key(packet)
        expiry_s = min(packet.session_expiry_interval, self._settings.session_expiry_s_max)
        limit = self._settings.keep_alive_s_max
        self.keep_alive_s = min(packet.keep_alive or limit, limit)
        opened = self._registry.open(
            Opening(
                key=key,
                clean_start=packet.clean_start,
                expiry_s=expiry_s,
                receive_max=packet.receive_max,
                packet_bytes_max=packet.max_packet_size,
                will=self._will(packet, key),
            ),
            self._link,
        )
        if opened is None:
            raise ConnectRefused(ConnAckReasonCode.QUOTA_EXCEEDED, "the broker has no more room")
        self.session, present = opened
        self._link.send(self._welcome(packet, key, expiry_s, present=present))
        self._exchange.pump(self.session)

    def _key(self, packet: mqtt5.ConnectPacket) -> SessionKey:
        """Whose session it is: a device's client id is its certificate's name, whatever it says."""
        client = packet.client_id
        if len(client.encode()) > self._settings.client_id_bytes_max or "\0" in client:
            raise ConnectRefused(ConnAckReasonCode.CLIENT_ID_NOT_VALID, "the client id is too long")
        if self.name is None:
            name = packet.username or "anonymous"
            if "\0" in name or len(name) > self._settings.client_id_bytes_max:
                raise ConnectRefused(ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD, "no user name")
            self.name = name
            return SessionKey(name, client or secrets.token_hex(12))
        if self.name not in self._settings.privileged:
            return SessionKey(self.name, self.name)
        if client and not client.startswith(self.name):
            raise ConnectRefused(
                ConnAckReasonCode.CLIENT_ID_NOT_VALID, f"the client id must begin with {self.name}"
            )
        return SessionKey(self.name, client or self.name)

    def _will(self, packet: mqtt5.ConnectPacket, key: SessionKey) -> LastWill | None:
        if packet.will is None:
            return None
        try:
            check_topic(packet.will.topic, self._settings)
        except ProtocolViolation as error:
            raise ConnectRefused(ConnAckReasonCode.TOPIC_NAME_INVALID, str(error)) from error
        if packet.will.qos == QoS.EXACTLY_ONCE:
            raise ConnectRefused(
                ConnAckReasonCode.QUALITY_NOT_SUPPORTED, "QoS 2 is not spoken here"
            )
        if not self._may_publish(key.name, packet.will.topic):
            raise ConnectRefused(
                ConnAckReasonCode.NOT_AUTHORIZED, "the will's topic may not be published to"
            )
        will = LastWill.of_connect(packet.will, publisher=key)
        if will.message.unreadable:
            raise ConnectRefused(
                ConnAckReasonCode.IMPLEMENTATION_SPECIFIC_ERROR,
                "a property of the will holds U+FEFF",
            )
        return will

    def _welcome(
        self, packet: mqtt5.ConnectPacket, key: SessionKey, expiry_s: int, *, present: bool
    ) -> bytes:
        return mqtt5.ConnAckPacket(
            session_present=present,
            session_expiry_interval=(
                None if expiry_s == packet.session_expiry_interval else expiry_s
            ),
            assigned_client_id=None if packet.client_id else key.client,
            server_keep_alive=(
                None if self.keep_alive_s == packet.keep_alive else self.keep_alive_s
            ),
            receive_max=self._settings.receive_max,
            max_qos=QoS.AT_LEAST_ONCE,
            max_packet_size=self._settings.packet_bytes_max,
            topic_alias_max=0,
        ).write()

    def _disconnect(self, packet: mqtt5.DisconnectPacket) -> None:
        assert self.session is not None
        if packet.session_expiry_interval is not None:
            if packet.session_expiry_interval and not self.session.persistent:
                raise ProtocolViolation(
                    DisconnectReasonCode.PROTOCOL_ERROR,
                    "a session that was to end with its connection cannot be prolonged",
                )
            self.session.expiry_s = min(
                packet.session_expiry_interval, self._settings.session_expiry_s_max
            )
        self._publish_will = packet.reason_code != DisconnectReasonCode.NORMAL_DISCONNECTION
        self.done = True

    # --- PUBLISH and its acknowledgements --------------------------------------------------------

    def _may_publish(self, name: str, topic: str) -> bool:
        # §4.7.2: topics that begin with $ are not for exchange between clients
        return not topic.startswith("$") and self._exchange.authorize(name, "publish", topic)

    def _publish(self, packet: mqtt5.PublishPacket) -> None:
        assert self.session is not None
        check_topic(packet.topic, self._settings)
        if packet.qos == QoS.AT_LEAST_ONCE and self._unacknowledged >= self._settings.receive_max:
            raise ProtocolViolation(
                DisconnectReasonCode.RECEIVE_MAX_EXCEEDED,
                f"at most {self._settings.receive_max} publications may await acknowledgement",
            )
        reason = self._accept(packet, self.session.key)
        if packet.packet_id is None or packet.qos == QoS.AT_MOST_ONCE:
            return
        self._unacknowledged += 1
        content = mqtt5.PubAckPacket(packet.packet_id, reason_code=reason).write()

        def acknowledge() -> None:
            self._unacknowledged -= 1
            self._link.send(content)

        self._state.when_durable(acknowledge)

    def _accept(self, packet: mqtt5.PublishPacket, key: SessionKey) -> PubAckReasonCode:
        if not self._may_publish(key.name, packet.topic):
            self._note_refusal("publish", packet.topic, "not authorized")
            return PubAckReasonCode.NOT_AUTHORIZED
        message = Message.of_publish(
            packet,
            number=self._exchange.next_number(),
            publisher=key,
            now=self._exchange.clock(),
        )
        if message.unreadable:
            self._note_refusal("publish", packet.topic, "a property holds U+FEFF")
            return PubAckReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
        match self._exchange.publish(message):
            case "done":
                return PubAckReasonCode.SUCCESS
            case "no-subscribers":
                return PubAckReasonCode.NO_MATCHING_SUBSCRIBERS
            case "over-quota":
                self._note_refusal("publish", packet.topic, "over quota")
                return PubAckReasonCode.QUOTA_EXCEEDED

    def _note_refusal(self, action: str, topic: str, reason: str) -> None:
        """Log the first, second, fourth, eighth… refusal, so that a client cannot fill the log."""
        self._refusals += 1
        if self._refusals & (self._refusals - 1) == 0:
            _logger.warning(
                "%r may not %s %r: %s (refusal %d)",
                self.name,
                action,
                topic,
                reason,
                self._refusals,
            )

    def _acknowledged(self, packet: mqtt5.PubAckPacket) -> None:
        assert self.session is not None
        delivery = self.session.acknowledge(packet.packet_id)
        if delivery is None:
            return  # of an earlier connection, or expired meanwhile: nothing to do
        self._state.drop_delivery(delivery)
        self._exchange.pump(self.session)

    # --- SUBSCRIBE, UNSUBSCRIBE ------------------------------------------------------------------

    def _subscribe(self, packet: mqtt5.SubscribePacket) -> None:
        assert self.session is not None
        self._check_count(len(packet.topic_filters))
        wanted: list[Subscription] = []
        reasons: list[SubAckReasonCode] = []
        for item in packet.topic_filters:
            reason, retained = self._subscribe_one(self.session, item, packet.subscription_id)
            reasons.append(reason)
            if retained is not None:
                wanted.append(retained)
        self._registry.save(self.session)
        content = mqtt5.SubAckPacket(packet.packet_id, reasons).write()
        self._state.when_durable(lambda: self._link.send(content))
        for subscription in wanted:
            self._exchange.send_retained(self.session, subscription)
        self._exchange.pump(self.session)

    def _check_count(self, filters: int) -> None:
        limit = self._settings.filters_per_packet_max
        if not filters:
            raise ProtocolViolation(
                DisconnectReasonCode.PROTOCOL_ERROR, "at least one topic filter is needed"
            )
        if filters > limit:
            raise ProtocolViolation(
                DisconnectReasonCode.QUOTA_EXCEEDED, f"at most {limit} topic filters a packet"
            )

    def _subscribe_one(
        self, session: Session, item: mqtt5.TopicFilter, identifier: int | None
    ) -> tuple[SubAckReasonCode, Subscription | None]:
        """Subscribe to one filter; returns its reason and what retained messages are sent for."""
        try:
            shared = check_filter(item.pattern, self._settings)
        except ProtocolViolation:
            return SubAckReasonCode.TOPIC_FILTER_INVALID, None
        if shared.group and item.no_local:
            raise ProtocolViolation(
                DisconnectReasonCode.PROTOCOL_ERROR, "a shared subscription cannot be no-local"
            )
        if not self._exchange.authorize(session.key.name, "subscribe", shared.filter):
            self._note_refusal("subscribe", shared.filter, "not authorized")
            return SubAckReasonCode.NOT_AUTHORIZED, None
        if (
            item.pattern not in session.subscriptions
            and len(session.subscriptions) >= self._settings.subscriptions_per_client_max
        ):
            return SubAckReasonCode.QUOTA_EXCEEDED, None
        qos = min(int(item.max_qos), 1)
        subscription = Subscription(
            session=session.key,
            filter=shared.filter,
            group=shared.group,
            qos=qos,
            no_local=item.no_local,
            retain_as_published=item.retain_as_published,
            identifier=identifier,
        )
        new = self._exchange.attach(session, item.pattern, subscription)
        handling = item.retain_handling
        send = not shared.group and (
            handling == RetainHandling.SEND_ALWAYS
            or (handling == RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS and new)
        )
        granted = (
            SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE
            if qos
            else SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE
        )
        return granted, subscription if send else None

    def _unsubscribe(self, packet: mqtt5.UnsubscribePacket) -> None:
        assert self.session is not None
        self._check_count(len(packet.patterns))
        reasons = [
            UnsubAckReasonCode.SUCCESS
            if self._exchange.detach(self.session, pattern)
            else UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED
            for pattern in packet.patterns
        ]
        self._registry.save(self.session)
        content = mqtt5.UnsubAckPacket(packet.packet_id, reasons).write()
        self._state.when_durable(lambda: self._link.send(content))
