"""Messages by e-mail and MQTT on their way, by the rules of `edgectl_server.delivering`.

Each channel counts as one receiver: a slow mail server holds no other channel up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from edgectl_server.alerting.texts import TEST, event_of
from edgectl_server.delivering import Deliveries, Outcome
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import AlertNotice

__all__ = ["WAITS_S", "Notice", "NoticeDeliverer", "Sender"]

logger = logging.getLogger(__name__)

WAITS_S = (5, 60, 300, 1800, 7200, 18_000, 36_000)
"""Before the second attempt, the third …: most of a day in all."""


class Notice(NamedTuple):
    """A message to send."""

    id: str
    channel: str
    target: Sequence[str]
    data: Mapping[str, Any]
    created_at: datetime


Sender = Callable[[Notice], str]
"""Makes one attempt; returns what went wrong, empty: nothing."""


class NoticeDeliverer(Deliveries[AlertNotice]):
    """Sends what is due. Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        senders: Mapping[str, Sender],
        now: Callable[[], datetime],
        waits_s: Sequence[float] = WAITS_S,
    ) -> None:
        """Take what it needs.

        Args:
            database: of the rows.
            senders: by channel; what has no sender waits.
            now: the clock.
            waits_s: before each attempt but the first.
        """
        super().__init__(
            AlertNotice,
            AlertNotice.channel,
            database=database,
            now=now,
            waits_s=waits_s,
            threads=max(1, len(senders)),
            name="alerts by",
        )
        self._senders = dict(senders)

    @property
    def channels(self) -> frozenset[str]:
        """Those that it can send by."""
        return frozenset(self._senders)

    def _takes(self, session: Session, receiver: str) -> bool:
        del session
        return receiver in self._senders

    def _prepare(self, session: Session, row: AlertNotice) -> Callable[[], Outcome]:
        del session
        notice = Notice(row.id, row.channel, row.target, row.data, row.created_at)
        sender = self._senders.get(row.channel, _not_set_up)
        return lambda: Outcome(sender(notice))

    def _is_last(self, session: Session, row: AlertNotice, outcome: Outcome) -> bool:
        del session
        if outcome.error:
            logger.warning("alerts by %s: %s", row.channel, outcome.error)
        return event_of(row.data) == TEST


def _not_set_up(notice: Notice) -> str:
    return f"this server is not set up to send by {notice.channel}"
