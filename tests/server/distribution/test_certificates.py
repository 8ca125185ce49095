"""Certificates and lists of a running server: replaced, followed, and said when they are not."""

from __future__ import annotations

import gc
import socket
import ssl
from datetime import timedelta

import pytest

from edgectl_protocol import topics
from edgectl_server.clock import now
from edgectl_server.distribution.brokers import open_broker
from edgectl_server.distribution.canary import make_canary
from edgectl_server.distribution.certificates import OwnCertificates
from edgectl_server.distribution.link import BrokerLink
from edgectl_server.distribution.mosquitto import find_mosquitto
from edgectl_server.distribution.revocation_list import RevocationList
from edgectl_server.errors import Unavailable
from edgectl_server.signing.authority import Authority
from waiting import wait_for

HOST = "127.0.0.1"
LATER = timedelta(days=340)


class Site:
    """A broker, a link, and a clock that only the authority's certificates know."""

    def __init__(self, folder, spec):
        self.time = now() - LATER
        self.pki = folder / "pki"
        self.authority = Authority.open(self.pki, self.time)
        self.list = RevocationList(self.authority, lambda: self.time)
        self.broker = open_broker(
            spec,
            host=HOST,
            port=0,
            identity=self.authority.broker_identity([HOST], self.time),
            state=folder / "broker",
            is_revoked=self.authority.is_revoked,
            crl_pem=self.list.pem,
            make_canary=lambda: make_canary(self.authority, self.pki / "authority.pem", self.time),
        )
        self.link = BrokerLink(
            HOST,
            self.broker.port,
            self.authority.server_identity(self.time),
            on_message=lambda incoming: incoming.done(),
        )
        self.certificates = OwnCertificates(
            authority=self.authority,
            broker=self.broker,
            link=self.link,
            broker_hosts=[HOST],
            now=lambda: self.time,
        )

    def shown(self):
        """Return the serial number of the certificate that the broker shows."""
        context = ssl.create_default_context(cafile=str(self.pki / "authority.pem"))
        context.load_cert_chain(self.pki / "server.pem", self.pki / "server.key")
        with (
            socket.create_connection((HOST, self.broker.port), 10) as raw,
            context.wrap_socket(raw, server_hostname=HOST) as secured,
        ):
            return secured.getpeercert()["serialNumber"]

    def close(self):
        self.link.close()
        self.broker.stop()


@pytest.fixture(params=["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
def site(request, tmp_path):
    if request.param == "mosquitto" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    site = Site(tmp_path, request.param)
    yield site
    site.close()


@pytest.mark.filterwarnings("ignore:unclosed <:ResourceWarning")
def test_new_certificates_are_used_while_everything_runs(site):
    epochs = []
    site.link._on_connected = epochs.append
    site.link.start()
    assert site.link.wait_connected(10)
    before, link_serial = site.shown(), (site.pki / "server.pem").read_bytes()
    site.certificates.renew()
    assert (site.shown(), epochs) == (before, [False])  # nothing ends soon: nothing is done

    site.time += LATER
    site.link.publish(topics.order("pi-1"), b"before", retain=True)
    site.certificates.renew()
    site.link.publish(topics.order("pi-1"), b"after", retain=True)
    wait_for(lambda: site.shown() != before, "the broker shows the new certificate")
    wait_for(lambda: len(epochs) == 2, "the link connects again")
    assert epochs == [False, True]  # and the broker has kept its session
    assert (site.pki / "server.pem").read_bytes() != link_serial
    assert site.link.flush(10)
    assert site.link.refused == 0
    site.link.close()
    gc.collect()  # here, where the warning about paho's sockets is allowed


def test_a_certificate_that_cannot_be_used_changes_nothing(site):
    before = site.shown()
    good = (site.pki / "broker.pem").read_bytes()
    server = (site.pki / "server.pem").read_bytes()
    (site.pki / "server.pem").write_bytes(b"damaged")
    with pytest.raises(Unavailable) as caught:
        site.link.reload_certificate()
    assert caught.value.code == "broker.certificate"
    (site.pki / "server.pem").write_bytes(server)
    for damage in (b"damaged", server):  # the second: a certificate of another key
        (site.pki / "broker.pem").write_bytes(damage)
        with pytest.raises(Unavailable) as caught:
            site.broker.reload_certificate()
        assert caught.value.code == "broker.certificate"
        assert site.shown() == before
    (site.pki / "broker.pem").write_bytes(good)
    site.broker.reload_certificate()


def test_the_list_is_made_anew_only_when_something_is_revoked(site):
    first = site.list.pem()
    site.time += timedelta(hours=1)
    assert site.list.pem() == first
    site.authority.revoke(12345, site.time)
    second = site.list.pem()
    assert second != first
    assert site.list.pem() == second


@pytest.mark.mosquitto
@pytest.mark.parametrize("site", ["mosquitto"], indirect=True)
class TestMosquittoThatDoesNotFollow:
    """What Mosquitto does silently must not stay silent."""

    def test_at_a_reload(self, site, monkeypatch):
        monkeypatch.setattr(site.broker, "_signal", lambda number: None)  # the signal gets lost
        with pytest.raises(Unavailable) as caught:
            site.broker.reload_revocations()
        assert caught.value.code == "broker.revocations"
        assert site.broker.revocation_problem
        monkeypatch.undo()
        site.broker.check_revocations()  # as long as there is a problem: at each turn
        assert site.broker.revocation_problem == ""

    def test_later(self, site):
        """Somebody empties the file and Mosquitto reads it: found, and put right."""
        site.broker.check_revocations()
        canary = site.broker._canary
        assert canary.ask(HOST, site.broker.port) == "refused"
        (site.broker._state / "revoked.pem").write_bytes(b"")
        site.broker._reload()
        assert canary.ask(HOST, site.broker.port) == "accepted"
        site.broker._check_due = 0.0
        site.broker.check_revocations()
        assert canary.ask(HOST, site.broker.port) == "refused"
        assert site.broker.revocation_problem == ""

    def test_a_broker_that_is_away_is_no_verdict(self, site):
        site.broker.stop()
        assert site.broker._canary.ask(HOST, site.broker.port) == "unknown"
        site.broker.check_revocations()
