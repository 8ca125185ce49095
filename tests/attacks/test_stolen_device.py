"""Who has one enrolled device: its key, its certificate, its name. Both brokers are attacked."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from attacks.scene import Client, Site, files_of, is_let_in, with_the_certificate_of
from attacks.strangers import ask, csr_of, new_key, renew
from edgectl_protocol import topics
from edgectl_protocol.messages import (
    PAYLOAD_TYPES,
    ReportedState,
    SystemSample,
    TelemetryBatch,
    encode,
)
from edgectl_server.clock import now
from edgectl_server.distribution.mosquitto import find_mosquitto
from signed import key_id, seal
from waiting import wait_for

pytestmark = pytest.mark.e2e
ATTACKER = "one device"


def pick(name: str) -> str:
    if name == "mosquitto" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed; packaging/install_test_packages.py installs it")
    return name


@pytest.fixture(
    scope="module", params=["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]
)
def site(request: pytest.FixtureRequest, open_site: Callable[..., Site]) -> Site:
    """The device pi-1 is in the thief's hands, and its agent does not run; pi-2 is honest."""
    site = open_site(broker=pick(request.param))
    site.start("pi-1", "pi-2")
    site.agents["pi-1"].stop()
    wait_for(lambda: not site.client.device("pi-1").online, "pi-1 offline")
    return site


@pytest.fixture(scope="module")
def key(site: Site) -> ec.EllipticCurvePrivateKey:
    pem = (site.agents["pi-1"].state / "identity" / "key.pem").read_bytes()
    loaded = serialization.load_pem_private_key(pem, None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return loaded


@pytest.fixture
def thief(site: Site) -> Iterator[Client]:
    client = with_the_certificate_of(site.agents["pi-1"])
    yield client
    client.close()


def state(device: str, seq: int = 1) -> ReportedState:
    return ReportedState(device=device, boot=900, seq=seq, online=True, sent_at=now())


def test_listening_to_what_is_for_others(site: Site, thief: Client) -> None:
    thief.listen("edgectl/v1/d/pi-2/#")
    thief.listen("edgectl/v1/d/+/down/order")
    thief.listen("#")
    thief.listen(topics.order("pi-1"))
    thief.newest(topics.order("pi-1"))  # by now the others would have come, too
    assert {topic for topic in thief.got if "/pi-2/" in topic} == set()


def test_speaking_on_the_topics_of_others(
    site: Site, thief: Client, key: ec.EllipticCurvePrivateKey
) -> None:
    before = site.client.device("pi-2")
    for topic in (topics.state("pi-2"), topics.order("pi-2"), topics.metadata("timestamp", None)):
        thief.say(topic, seal(key, state("pi-2")))
    assert len(thief.refused) == 3
    assert site.client.device("pi-2").boot == before.boot
    site.settle("2", "pi-2")
    assert site.told("pi-2") == set()


def test_speaking_of_another_device_on_ones_own_topic(
    site: Site, thief: Client, key: ec.EllipticCurvePrivateKey
) -> None:
    thief.say(topics.state("pi-1"), seal(key, state("pi-2")))
    site.wait_told("pi-1", "report.device")
    assert site.client.device("pi-2").boot < 900
    assert site.told("pi-2") == set()


def test_ordering_something_from_oneself(site: Site, thief: Client) -> None:
    thief.say(topics.order("pi-1"), b"{}")
    assert thief.refused


def test_connecting_under_the_name_of_another(site: Site) -> None:
    other = site.agents["pi-2"]
    since = other.log.stat().st_size
    client = with_the_certificate_of(site.agents["pi-1"], client_id="pi-2")
    client.listen(topics.order("pi-2"))
    client.say(topics.state("pi-2"), b"{}")
    assert client.refused
    client.close()
    assert site.client.device("pi-2").online
    assert "disconnected" not in [line.get("event") for line in other.lines(since)]


def test_renewing_the_certificate_of_another(site: Site, key: ec.EllipticCurvePrivateKey) -> None:
    assert renew(site, "pi-1", key)[0] == 200
    assert renew(site, "pi-2", key)[0] == 401
    assert renew(site, "server", key)[0] in {401, 422}


def test_enrolling_once_more_under_another_name(
    site: Site, key: ec.EllipticCurvePrivateKey
) -> None:
    for name in ("pi-2", "pi-3"):
        body = {
            "token_id": "0" * 16,
            "device": name,
            "nonce": secrets.token_hex(16),
            "csr_pem": csr_of(key, name),
            "proof": "0" * 64,
        }
        assert ask(site, "POST", "enrol", body)[0] in {401, 409}
    assert {one.id for one in site.client.devices().items} == {"pi-1", "pi-2"}


def test_signing_a_certificate_with_the_one_of_the_device(
    site: Site, key: ec.EllipticCurvePrivateKey, tmp_path: Path
) -> None:
    files = site.agents["pi-1"].state / "identity"
    own = x509.load_pem_x509_certificate((files / "certificate.pem").read_bytes())
    forged_key = new_key()
    forged = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]))
        .issuer_name(own.subject)
        .public_key(forged_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - timedelta(days=1))
        .not_valid_after(now() + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (tmp_path / "chain.pem").write_bytes(forged.public_bytes(pem) + own.public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(
        forged_key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    identity = tmp_path / "chain.pem", tmp_path / "key.pem"
    port, authority = site.server.broker_port, files / "authority.pem"
    assert is_let_in(port, (files / "certificate.pem", files / "key.pem"), authority, "pi-1")
    assert not is_let_in(port, identity, authority, "server-thief")


@pytest.mark.admitted("a burst, then 4 KiB a second are stored; others are served meanwhile")
def test_flooding_the_server_with_telemetry(
    site: Site, thief: Client, key: ec.EllipticCurvePrivateKey
) -> None:
    sent, payload_bytes = 400, 95_000
    for number in range(sent):
        sample = SystemSample(at=now(), load_1min=float(number))
        batch = encode(TelemetryBatch(device="pi-1", boot=900, seq=number + 1, system=sample))
        padded = batch + b" " * (payload_bytes - len(batch))
        payload = seal(key, padded, PAYLOAD_TYPES[TelemetryBatch])
        thief.client.publish(topics.telemetry("pi-1"), payload, qos=1).wait_for_publish(30)
    site.settle("1", "pi-2")
    wait_for(
        lambda: "pi-1 sends more than a device has to say" in site.server.log.read_text(),
        "the end of what is stored",
        bound_s=30,
    )
    database = sqlite3.connect(site.server.data / "edgectl.sqlite", timeout=60)
    (stored,) = database.execute(
        "SELECT count(*) FROM system_sample WHERE device = 'pi-1' AND boot = 900"
    ).fetchone()
    database.close()
    assert stored * payload_bytes < 34 * 1024**2  # a burst of 32 MiB


@pytest.mark.admitted("whatever it likes, about itself")
def test_lying_about_itself(site: Site, thief: Client, key: ec.EllipticCurvePrivateKey) -> None:
    lie = ReportedState(
        device="pi-1", boot=901, seq=1, online=True, sent_at=now(), agent_version="never"
    )
    thief.say(topics.state("pi-1"), seal(key, lie))
    wait_for(lambda: site.client.device("pi-1").agent_version == "never", "the lie", bound_s=20)
    assert site.client.device("pi-2").agent_version != "never"


def test_going_on_after_being_revoked(site: Site, key: ec.EllipticCurvePrivateKey) -> None:
    client = with_the_certificate_of(site.agents["pi-1"])
    site.client.revoke_device("pi-1")
    wait_for(lambda: not client.client.is_connected(), "the end of the connection", bound_s=60)
    client.close()
    port, files = site.server.broker_port, files_of(site.agents["pi-1"])
    assert not is_let_in(port, *files, "pi-1")
    assert renew(site, "pi-1", key)[0] == 401
    assert site.client.device("pi-1").fingerprint.replace("-", "") == key_id(key)
