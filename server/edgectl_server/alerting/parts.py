"""Everything that deals with alerts, put together in one place.

The control plane, which is opened later, brings the link to the broker and the list of what
concerns this installation (`connect`); before that, nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from edgectl_server.alerting.book import AlertBook
from edgectl_server.alerting.channels import Publishes, by_email, by_mqtt
from edgectl_server.alerting.delivery import Notice, NoticeDeliverer, Sender
from edgectl_server.alerting.mail import mail_server
from edgectl_server.alerting.routes import AlertRoutes
from edgectl_server.alerting.routing import AlertRouter
from edgectl_server.alerting.sources import (
    Limits,
    Source,
    database_sources,
    installation_source,
)
from edgectl_server.alerting.watch import AlertWatch
from edgectl_server.settings import Settings
from edgectl_server.signing.status import Alert
from edgectl_server.storage.database import Database
from edgectl_server.ticker import Duty

__all__ = ["Alerting"]

_LOOK_S = 10.0
_TELL_S = 2.0
_OLD_S = 600.0


class Alerting:
    """The parts; `close` stops what runs. Its methods may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        now: Callable[[], datetime],
        *more_sources: Source,
    ) -> None:
        """Put them together; `more_sources` are asked beside those that are known here.

        Raises:
            Refused: ``mail.settings``.
            Unavailable: the password of the mail server cannot be read, or others may read it.
        """
        self._link: Publishes | None = None
        self._installation: Callable[[], Iterable[Alert]] | None = None
        limits = Limits(
            overdue_after=timedelta(seconds=settings.device_overdue_s),
            gap_after=timedelta(seconds=settings.telemetry_gap_s),
            period=timedelta(seconds=settings.drift_period_s),
        )
        sources = [
            *database_sources(limits),
            *more_sources,
            installation_source(self._installation_alerts),
        ]
        days = settings.telemetry_retention_days
        self._watch = AlertWatch(database=database, sources=sources, retention_days=days, now=now)
        self._router = AlertRouter(database=database, gather_s=settings.alert_gather_s, now=now)
        senders: dict[str, Sender] = {"mqtt": self._publish}
        mail = mail_server(settings)
        if mail is not None:
            senders["email"] = by_email(mail)
        self._deliverer = NoticeDeliverer(database=database, senders=senders, now=now)
        self.book = AlertBook(database=database, now=now)
        self.routes = AlertRoutes(database=database, deliverer=self._deliverer, now=now)

    def connect(self, link: Publishes, installation: Callable[[], Iterable[Alert]]) -> None:
        """Take what comes later; from now on alerts are looked at.

        Args:
            link: to the broker.
            installation: what concerns this installation now.
        """
        self._link, self._installation = link, installation

    def duties(self) -> list[Duty]:
        """Return what is to be done regularly."""
        return [
            Duty("the alerts", _LOOK_S, self._look),
            Duty("the routes of alerts", _TELL_S, self._router.look),
            Duty("the messages of alerts", _TELL_S, self._deliverer.look),
            Duty("the old alerts", _OLD_S, self._watch.delete_old),
            Duty("the old messages of alerts", _OLD_S, self._deliverer.delete_old),
        ]

    def close(self) -> None:
        """Send nothing more. Idempotent."""
        self._deliverer.close()

    def _look(self) -> None:
        if self._installation is not None:
            self._watch.look()

    def _installation_alerts(self) -> Iterable[Alert]:
        return () if self._installation is None else self._installation()

    def _publish(self, notice: Notice) -> str:
        if self._link is None:
            return "the server is just starting"
        return by_mqtt(self._link)(notice)
