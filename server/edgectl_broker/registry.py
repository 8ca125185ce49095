"""Sessions over time: opened, taken over, lost, expired; and the wills that go with that.

A will is published when its connection ends without a DISCONNECT of reason 0: at once, or after its
delay if the session lives on and its client does not return before (§3.1.2.5). After a restart of
the broker the clients of stored sessions count as lost, with `will_grace_s` to return.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from mqtt5 import DisconnectReasonCode

from edgectl_broker.exchange import Exchange
from edgectl_broker.messages import LastWill, SessionKey
from edgectl_broker.records import SessionRecord
from edgectl_broker.session import Link, Session

__all__ = ["Opening", "SessionRegistry"]

_logger = logging.getLogger(__name__)


class Opening(NamedTuple):
    """What a CONNECT asks for, after it was checked and limited."""

    key: SessionKey
    clean_start: bool
    expiry_s: int
    receive_max: int
    packet_bytes_max: int | None
    will: LastWill | None


class SessionRegistry:
    """Opens, ends and remembers the sessions of an exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._settings = exchange.settings
        self._sessions = exchange.sessions
        self._state = exchange.state

    def load(self) -> None:
        """Take back what the state on disk holds."""
        exchange, now = self._exchange, self._exchange.clock()
        for message in self._state.load_retained():
            if not exchange.retained.put(message):
                self._state.drop_retained(message.topic)
        for record in self._state.load_sessions():
            session = Session(record.key, self._settings)
            session.stored = True
            session.expiry_s = record.expiry_s
            session.expires_at = record.expires_at or now + record.expiry_s
            session.will, session.will_due = record.will, record.will_due
            if record.will is not None and record.will_due is None:
                session.will_due = now + max(record.will.delay_s, self._settings.will_grace_s)
            self._sessions[record.key] = session
            for pattern, subscription in record.subscriptions.items():
                exchange.attach(session, pattern, subscription)
        for key, delivery in self._state.load_deliveries():
            if (known := self._sessions.get(key)) is None:
                self._state.drop_delivery(delivery)
            else:
                known.restore(delivery)
        exchange.resume_numbers()

    def open(self, opening: Opening, link: Link) -> tuple[Session, bool] | None:
        """Connect `link` to its session.

        Returns:
            The session and whether it was there before; None when there are too many sessions.
        """
        session = self._sessions.get(opening.key)
        if session is not None:
            if session.link is not None:
                old, session.link = session.link, None
                old.close(DisconnectReasonCode.SESSION_TAKEN_OVER, "the client has connected again")
                self._lost(session, publish_will=True)
            expired = (
                session.expires_at is not None and session.expires_at <= self._exchange.clock()
            )
            if opening.clean_start or not session.persistent or expired:
                self._discard(session)
                session = None
        present = session is not None
        if session is None:
            if len(self._sessions) >= self._settings.sessions_max:
                return None
            session = self._sessions[opening.key] = Session(opening.key, self._settings)
        session.link = link
        session.expiry_s, session.expires_at = opening.expiry_s, None
        session.will, session.will_due = opening.will, None
        session.receive_max = min(opening.receive_max, self._settings.in_flight_max)
        session.packet_bytes_max = opening.packet_bytes_max
        self._recheck(session)
        self.save(session)
        return session, present

    def closed(self, session: Session, link: Link, *, publish_will: bool) -> None:
        """Note that `link` has ended; nothing happens if the session has another one by now."""
        if session.link is not link:
            return
        session.link = None
        self._lost(session, publish_will=publish_will)
        if session.persistent:
            self.save(session)
        else:
            self._discard(session)

    def suspend(self) -> None:
        """The broker stops: connections end, wills wait for the next start (§3.14.4)."""
        for session in self._sessions.values():
            session.link = None

    def save(self, session: Session) -> None:
        """Write the session as it now is, if it is to outlive its connection."""
        if not session.persistent:
            if session.stored:
                session.stored = False
                self._state.drop_session(session.key)
            return
        session.stored = True
        self._state.put_session(
            SessionRecord(
                key=session.key,
                expiry_s=session.expiry_s,
                expires_at=session.expires_at,
                subscriptions=dict(session.subscriptions),
                will=session.will,
                will_due=session.will_due,
            )
        )

    def tick(self) -> None:
        """Publish the wills that are due and end the sessions that have expired."""
        now = self._exchange.clock()
        for session in list(self._sessions.values()):
            if session.will_due is not None and session.will_due <= now:
                self._publish_will(session)
                self.save(session)
            if (
                session.link is None
                and session.expires_at is not None
                and session.expires_at <= now
            ):
                self._discard(session)
        for topic in self._exchange.retained.expired(now):
            self._exchange.retained.drop(topic)
            self._state.drop_retained(topic)

    def _recheck(self, session: Session) -> None:
        """Drop subscriptions that the rules no longer allow; deliveries are checked when sent."""
        for pattern, subscription in list(session.subscriptions.items()):
            if not self._exchange.authorize(session.key.name, "subscribe", subscription.filter):
                self._exchange.detach(session, pattern)

    def _lost(self, session: Session, *, publish_will: bool) -> None:
        now = self._exchange.clock()
        session.rewind()
        session.expires_at = now + session.expiry_s
        if not publish_will:
            session.will = session.will_due = None
        elif session.will is not None:
            session.will_due = now + min(session.will.delay_s, session.expiry_s)
            if session.will_due <= now:
                self._publish_will(session)

    def _publish_will(self, session: Session) -> None:
        will, session.will, session.will_due = session.will, None, None
        if will is None or not self._exchange.authorize(
            session.key.name, "publish", will.message.topic
        ):
            return
        exchange = self._exchange
        exchange.publish(will.due(number=exchange.next_number(), now=exchange.clock()))

    def _discard(self, session: Session) -> None:
        """End a session for good: its will is due, its share of shared work goes to others."""
        for pattern in list(session.subscriptions):
            self._exchange.detach(session, pattern)
        del self._sessions[session.key]
        if session.stored:
            self._state.drop_session(session.key)
        self._publish_will(session)
        for delivery in list(session.deliveries()):
            message = delivery.message
            self._state.drop_delivery(delivery)
            if message is not None:
                self._exchange.redistribute(delivery)
