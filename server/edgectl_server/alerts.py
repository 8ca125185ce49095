"""What an operator must look at before devices are let down: one list, for all who show it.

Rules: an alert comes days before the damage, and says what to do. A source that cannot be asked is
an alert itself. `Alerts.log` writes each alert when it comes and once a day while it stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from sqlalchemy import ColumnElement, func, select

from edgectl_server.errors import ServerError
from edgectl_server.signing.status import Alert
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device

__all__ = [
    "Alerts",
    "Source",
    "certificate_alerts",
    "device_alerts",
    "ends_in_file",
    "list_alerts",
    "problem_alerts",
]

logger = logging.getLogger(__name__)

Source = Callable[[datetime], Iterable[Alert]]
"""Takes the time."""

OWN_WITHIN = timedelta(days=21)
"""What renews itself does so 30 days before its end: with less than this left, it has failed to."""
AUTHORITY_WITHIN = timedelta(days=365)
"""From then on it certifies devices for less than a year."""
LIST_WITHIN = timedelta(days=30)
DEVICES_WITHIN = timedelta(days=30)
_DEVICES_SHARE = 6
"""Devices renew when a third of the life of a certificate is left: with a sixth, they have not."""
_AGAIN = timedelta(days=1)
_NAMES_MAX = 5
_FILE_BYTES_MAX = 1024 * 1024


class Alerts:
    """The list. Its methods may be called from any thread."""

    def __init__(self, now: Callable[[], datetime], sources: Iterable[Source] = ()) -> None:
        self._now = now
        self._sources = list(sources)
        self._logged: dict[tuple[str, str], datetime] = {}

    def add(self, source: Source) -> None:
        """Ask this one too, from now on."""
        self._sources.append(source)

    def current(self) -> tuple[Alert, ...]:
        """Return what needs attention now, the critical first."""
        now = self._now()
        found: list[Alert] = []
        for source in self._sources:
            try:
                found += source(now)
            except ServerError as error:
                found.append(Alert(error.code, "critical", error.detail, error.hint))
        return tuple(sorted(dict.fromkeys(found), key=_urgency))

    def log(self) -> None:
        """Write what is new, or has been there for another day."""
        now = self._now()
        alerts = {(one.code, one.detail): one for one in self.current()}
        self._logged = {key: at for key, at in self._logged.items() if key in alerts}
        for key, alert in alerts.items():
            at = self._logged.get(key)
            if at is None or now - at >= _AGAIN:
                self._logged[key] = now
                logger.warning("%s: %s (%s)", alert.code, alert.detail, alert.hint)


def certificate_alerts(
    what: str, ends_at: Callable[[], datetime | None], within: timedelta, hint: str
) -> Source:
    """Return a source about a certificate.

    Args:
        what: it is, for people; begins a sentence.
        ends_at: when it ends; None: not known. May raise `ServerError`.
        within: how long before its end it is an alert.
        hint: what to do about it.
    """

    def source(now: datetime) -> Iterable[Alert]:
        ends = ends_at()
        if ends is None or ends - now > within:
            return
        if ends <= now:
            yield Alert(
                "certificate.expired", "critical", f"{what} has ended on {_shown(ends)}", hint, what
            )
        else:
            detail = f"{what} ends on {_shown(ends)}"
            yield Alert("certificate.expiring", "warning", detail, hint, what)

    return source


def ends_in_file(path: Path) -> Callable[[], datetime | None]:
    """Return what tells when the certificate in a PEM file ends; None if it cannot be read."""

    def ends_at() -> datetime | None:
        try:
            with path.open("rb") as file:
                content = file.read(_FILE_BYTES_MAX)
            return x509.load_pem_x509_certificate(content).not_valid_after_utc
        except (OSError, ValueError):  # who uses it says so
            return None

    return ends_at


def problem_alerts(code: str, what: str, problem: Callable[[], str], hint: str) -> Source:
    """Return a source about something that says by itself what is wrong; empty: nothing is."""

    def source(_now: datetime) -> Iterable[Alert]:
        found = problem()
        if found:
            yield Alert(code, "critical", f"{what}: {found}", hint, what)

    return source


def list_alerts(pem: Callable[[], bytes]) -> Source:
    """Return a source about the revocation list."""

    def ends_at() -> datetime | None:
        return x509.load_pem_x509_crl(pem()).next_update_utc

    return certificate_alerts(
        "the list of revoked certificates",
        ends_at,
        LIST_WITHIN,
        "restart the server: it makes a new one",
    )


def device_alerts(database: Database, lifetime: timedelta) -> Source:
    """Return a source about devices whose certificates should have been renewed by now.

    Args:
        database: where devices are.
        lifetime: of the certificates of devices.
    """
    within = min(DEVICES_WITHIN, lifetime / _DEVICES_SHARE)

    def source(now: datetime) -> Iterable[Alert]:
        ends = Device.certificate_expires_at
        ended = _devices(database, ends <= now)
        if ended:
            yield Alert(
                "devices.expired",
                "critical",
                f"the broker refuses devices whose certificates have ended: {ended}",
                "switch them on: for a while they still renew by themselves; later they must be "
                "enrolled again",
            )
        ending = _devices(database, ends > now, ends <= now + within)
        if ending:
            yield Alert(
                "devices.expiring",
                "warning",
                f"certificates of devices end soon and were not renewed: {ending}",
                "are they switched on, and do they reach the server's address? their logs say why",
            )

    return source


def _devices(database: Database, *wanted: ColumnElement[bool]) -> str:
    """Return the enrolled devices for which something holds, the first few by name."""
    conditions = (Device.state == "enrolled", *wanted)
    with database.read() as session:
        count = session.scalar(select(func.count(Device.id)).where(*conditions)) or 0
        names = session.scalars(
            select(Device.id)
            .where(*conditions)
            .order_by(Device.certificate_expires_at, Device.id)
            .limit(_NAMES_MAX)
        ).all()
    more = f" and {count - len(names)} more" if count > len(names) else ""
    return f"{', '.join(names)}{more}"


def _urgency(alert: Alert) -> tuple[bool, bool]:
    """Return what sorts the most urgent first, and last what only waits for the others."""
    return alert.severity != "critical", alert.code == "trust.waiting"


def _shown(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
