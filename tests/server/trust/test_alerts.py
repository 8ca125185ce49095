"""What ends soon is said in good time, in the log once a day, and no more when it is put right."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from databases import open_migrated
from edgectl_server.alerts import (
    AUTHORITY_WITHIN,
    OWN_WITHIN,
    Alerts,
    certificate_alerts,
    device_alerts,
    ends_in_file,
    list_alerts,
    problem_alerts,
)
from edgectl_server.distribution.revocation_list import RevocationList
from edgectl_server.errors import Unavailable
from edgectl_server.settings import Settings
from edgectl_server.signing import documents as documents_module
from edgectl_server.signing.authority import Authority
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Repository
from edgectl_server.signing.status import ALERT_TIMES, Alert
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device
from edgectl_server.tls import open_tls
from edgectl_server.trust import Trust
from edgectl_server.version_signing import VersionSigning
from server.signing.devices import NOW

DAY = timedelta(days=1)
START = datetime(2031, 5, 6, tzinfo=UTC)


class Clock:
    def __init__(self, at: datetime = START) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    made = open_migrated(sqlite_url)
    yield made
    made.close()


def codes(alerts: Alerts) -> list[str]:
    return [one.code for one in alerts.current()]


def test_our_own_certificates_before_and_after_their_end(tmp_path: Path, clock: Clock) -> None:
    """The server's, the broker's and the web server's, as the authority has made them."""
    authority = Authority.open(tmp_path, clock())
    identities = [
        authority.server_identity(clock()),
        authority.broker_identity(["broker"], clock()),
        authority.web_identity(["web"], clock()),
    ]
    for identity in identities:
        source = certificate_alerts("it", ends_in_file(identity.certificate), OWN_WITHIN, "renew")
        alerts = Alerts(clock, [source])
        for days, wanted in (
            (365 - 22, []),
            (365 - 20, ["certificate.expiring"]),
            (366, ["certificate.expired"]),
        ):
            clock.at = START + days * DAY
            assert codes(alerts) == wanted, (identity.certificate, days)
    (alert,) = alerts.current()
    assert alert.severity == "critical"
    assert alert.hint == "renew"
    authority.web_identity(["web"], clock())  # renewed
    assert codes(alerts) == []


def test_the_authority_a_year_before(tmp_path: Path, clock: Clock) -> None:
    authority = Authority.open(tmp_path, clock())
    alerts = Alerts(
        clock, [certificate_alerts("it", lambda: authority.expires_at, AUTHORITY_WITHIN, "")]
    )
    clock.at = authority.expires_at - 366 * DAY
    assert codes(alerts) == []
    clock.at += 2 * DAY
    assert codes(alerts) == ["certificate.expiring"]


def test_the_revocation_list(tmp_path: Path, clock: Clock) -> None:
    revocations = RevocationList(Authority.open(tmp_path, clock()), clock)
    alerts = Alerts(clock, [list_alerts(revocations.pem)])
    assert codes(alerts) == []
    clock.at += 3625 * DAY
    assert codes(alerts) == ["certificate.expiring"]


def test_tls_files_that_nobody_renews(tmp_path: Path, clock: Clock) -> None:
    authority = Authority.open(tmp_path / "pki", clock())
    identity = authority.web_identity(["web"], clock())
    settings = Settings(
        tls="files", tls_certificate=str(identity.certificate), tls_key=str(identity.key)
    )
    tls = open_tls(settings, authority, clock)
    assert tls is not None
    alerts = Alerts(clock, [certificate_alerts("TLS", tls.ends_at, OWN_WITHIN, "a new one")])
    assert codes(alerts) == []
    clock.at += 350 * DAY
    assert codes(alerts) == ["certificate.expiring"]
    identity.certificate.write_text("half a certific")
    (alert,) = alerts.current()
    assert (alert.code, alert.severity) == ("tls.files", "critical")


def device(name: str, ends: datetime, state: str = "enrolled") -> Device:
    return Device(
        id=name,
        state=state,
        public_key_sha256="0" * 64,
        certificate_serial="1",
        certificate_expires_at=ends,
        certificate_pem="",
        earlier_serials=[],
        enrol_token="",
        enrolled_at=START,
        online=False,
        boot=0,
        seq=0,
        order_counter=0,
        order=None,
        reported={},
        agent_version="",
    )


def test_devices_that_have_not_renewed(database: Database, clock: Clock) -> None:
    with database.write() as session:
        session.add(device("pi-gone", START - DAY))
        session.add(device("pi-lost", START + DAY, "revoked"))
        session.add(device("pi-fine", START + 31 * DAY))
        session.add_all(device(f"pi-{number}", START + 29 * DAY) for number in range(7))
    alerts = Alerts(clock, [device_alerts(database, 365 * DAY)])
    gone, soon = alerts.current()
    assert (gone.code, gone.severity) == ("devices.expired", "critical")
    assert gone.detail.endswith(": pi-gone")
    assert (soon.code, soon.severity) == ("devices.expiring", "warning")
    assert soon.detail.endswith(": pi-0, pi-1, pi-2, pi-3, pi-4 and 2 more")
    # Short-lived ones renew when a third is left: a sixth is late for them.
    short = Alerts(clock, [device_alerts(database, 30 * DAY)])
    assert codes(short) == ["devices.expired"]
    clock.at += 25 * DAY
    assert "devices.expiring" in codes(short)


def test_a_problem_that_is_told_as_a_text(clock: Clock) -> None:
    problem = ""
    alerts = Alerts(clock, [problem_alerts("broker.revocations", "late", lambda: problem, "look")])
    assert codes(alerts) == []
    problem = "the broker follows an old list"
    assert alerts.current() == (
        Alert("broker.revocations", "critical", f"late: {problem}", "look", "late"),
    )


def test_the_log_says_it_once_a_day(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    ends = START + 100 * DAY
    alerts = Alerts(clock, [certificate_alerts("TLS", lambda: ends, OWN_WITHIN, "a new one")])

    def logged() -> int:
        alerts.log()
        count = sum("TLS ends on" in line.message for line in caplog.records)
        caplog.clear()
        return count

    with caplog.at_level(logging.WARNING):
        assert logged() == 0
        clock.at = ends - 20 * DAY
        assert [logged(), logged()] == [1, 0]
        clock.at += DAY - timedelta(minutes=1)
        assert logged() == 0
        clock.at += timedelta(minutes=1)
        assert [logged(), logged()] == [1, 0]
        ends += 100 * DAY  # renewed
        assert logged() == 0
        clock.at = ends - 20 * DAY  # and not renewed
        assert logged() == 1


class Nowhere:
    def publish_metadata(self) -> bool:
        return False


@pytest.fixture
def clock_of_trust() -> Clock:
    return Clock(NOW)


@pytest.fixture
def trust(tmp_path: Path, database: Database, clock_of_trust: Clock) -> Trust:
    keys = Keys.open(tmp_path / "keys")
    repository = Repository.open(tmp_path / "tuf", keys, clock_of_trust())
    return Trust(
        repository=repository,
        publisher=Nowhere(),
        signing=VersionSigning(database, repository, clock_of_trust),
        alerts=Alerts(clock_of_trust),
        now=clock_of_trust,
    )


@pytest.mark.parametrize("role", sorted(set(ALERT_TIMES) - {"family"}))
def test_every_role_before_and_after_its_end(
    trust: Trust, role: str, clock_of_trust: Clock
) -> None:
    end = NOW + documents_module.LIFETIMES[role]
    clock_of_trust.at = end - ALERT_TIMES[role] - timedelta(minutes=1)
    assert not [one for one in trust.info().alerts if one.detail.startswith(f"{role} ")]
    clock_of_trust.at = end - ALERT_TIMES[role] + timedelta(minutes=1)
    (before,) = [one for one in trust.info().alerts if one.detail.startswith(f"{role} ")]
    assert (before.code, before.severity) == ("trust.expiring", "warning")
    clock_of_trust.at = end + timedelta(minutes=1)
    (after,) = [one for one in trust.info().alerts if one.detail.startswith(f"{role} ")]
    assert (after.code, after.severity) == ("trust.expired", "critical")
    trust.refresh()  # all is online here
    assert trust.info().alerts == []


def test_a_refresh_that_fails_is_an_alert_until_it_does_not(trust: Trust, tmp_path: Path) -> None:
    file = tmp_path / "tuf" / "timestamp.json"
    content = file.read_bytes()
    file.write_bytes(b"burnt")
    with pytest.raises(Unavailable):
        trust.refresh()
    alerts = [one for one in trust.info().alerts if one.code == "trust.refresh"]
    assert [one.severity for one in alerts] == ["critical"]
    file.write_bytes(content)
    trust.refresh()
    assert trust.info().alerts == []
