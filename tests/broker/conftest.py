"""A certificate authority of our own, and brokers to talk to."""

from __future__ import annotations

import ipaddress
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.clients import Files, Peer, Raw
from edgectl_broker import BrokerSettings, BrokerThread
from edgectl_server.distribution.brokers import open_broker
from edgectl_server.distribution.canary import Canary
from edgectl_server.distribution.mosquitto import find_mosquitto

START = datetime.now(UTC)  # noqa: TID251 - certificates are checked against the real clock
DAY = timedelta(days=1)
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


class TestAuthority:
    """Issues certificates into a folder, revokes them."""

    __test__ = False

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.revoked: set[int] = set()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(self._name, self._key.public_key(), authority=True)
        self.path = folder / "authority.pem"
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        self._issued: dict[str, Files] = {}

    def _sign(self, subject, public_key, *, authority=False, days=30, begins=-1, usage=CLIENT):
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = x509.CertificateBuilder()
        if not authority:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return (
            builder.subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(START + begins * DAY)
            .not_valid_after(START + days * DAY)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True, content_commitment=False, key_encipherment=False,
                    data_encipherment=False, key_agreement=False, key_cert_sign=authority,
                    crl_sign=authority, encipher_only=False, decipher_only=False,
                ),
                critical=True,
            )
            .sign(self._key, hashes.SHA256())
        )  # fmt: skip

    def issue(self, name: str, **options: Any) -> Files:
        """Return the files of `name`; the same ones each time. Options as of `_sign`."""
        if name in self._issued:
            return self._issued[name]
        if name == "broker":
            options = {"usage": SERVER} | options
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key.public_key(), **options)
        safe = name.encode().hex() or "empty"
        certificate_path, key_path = self.folder / f"{safe}.pem", self.folder / f"{safe}.key"
        certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        files = Files(certificate_path, key_path, self.path, certificate.serial_number)
        self._issued[name] = files
        return files

    def write_key(self) -> Path:
        """Write the authority's own key, which a thief might have."""
        path = self.folder / "authority.key"
        path.write_bytes(
            self._key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return path

    def crl_pem(self, *, next_update: timedelta = 300 * DAY) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(START - DAY)
            .next_update(START + next_update)
        )
        for serial in self.revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(START)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def make_canary(self) -> Canary:
        files = self.issue(f"canary-{len(self._issued)}")
        self.revoked.add(files.serial)
        return Canary(files.certificate.read_bytes(), files.key.read_bytes(), self.path)


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return TestAuthority(tmp_path_factory.mktemp("pki") / "ours")


@pytest.fixture(scope="session")
def foreign_authority(tmp_path_factory):
    return TestAuthority(tmp_path_factory.mktemp("pki") / "theirs")


def start_broker(spec, authority, state, port=0, **options):
    if spec == "mosquitto" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    return open_broker(
        spec,
        host="127.0.0.1",
        port=port,
        identity=authority.issue("broker"),
        state=state,
        is_revoked=authority.revoked.__contains__,
        crl_pem=authority.crl_pem,
        make_canary=authority.make_canary,
        **options,
    )


PROGRAM = Path(__file__).with_name("broker_process.py")


@pytest.fixture
def killable(tmp_path):
    """Start a broker process; `kill()` is kill -9, another start uses the same state.

    `dies_at` has it kill itself before a statement of SQLite, counted from SIGUSR1.
    """
    running = []

    def start(dies_at=0, files=()):
        arguments = [PROGRAM, tmp_path / "state", 0, dies_at, *files[:3]]
        process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.PIPE)
        running.append(process)
        port = int(process.stdout.readline())

        def kill():
            process.send_signal(signal.SIGKILL)
            process.wait(60)

        return SimpleNamespace(
            host="127.0.0.1", port=port, kill=kill, process=process, state=tmp_path / "state"
        )

    yield start
    for process in running:
        process.kill()
        process.wait(60)
        process.stdout.close()


BOTH = ["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]


@pytest.fixture(scope="session", params=BOTH)
def broker_kind(request):
    return request.param


@pytest.fixture(scope="session")
def broker(broker_kind, authority, tmp_path_factory):
    """Both brokers in turn, with TLS and the protocol's access rules."""
    running = start_broker(broker_kind, authority, tmp_path_factory.mktemp(broker_kind))
    yield running
    running.stop()


@pytest.fixture
def peer(broker, authority):
    """Connect a client by name to `broker`; every client is closed at the end."""
    peers = []

    def connect(name, *, files=None, manual_ack=False, client_id=None, **options):
        one = Peer(name, files or authority.issue(name), manual_ack=manual_ack, client_id=client_id)
        peers.append(one)
        assert one.connect(broker, **options) == 0
        return one

    yield connect
    for one in peers:
        one.close()


@pytest.fixture
def open_plain(tmp_path):
    """Start embedded brokers without TLS and with permissive rules; settings as given."""
    started = []

    def start(authorize=lambda *_: True, **settings):
        fields = {
            "state": tmp_path / f"state-{len(started)}",
            "tls": None,
            "port": 0,
            "tick_s": 0.05,
        } | settings
        thread = BrokerThread(BrokerSettings(**fields), authorize)
        thread.start()
        started.append(thread)
        return SimpleNamespace(host="127.0.0.1", port=thread.port, thread=thread)

    yield start
    for thread in started:
        thread.stop()


@pytest.fixture
def plain(open_plain):
    return open_plain()


@pytest.fixture
def connect(plain):
    """Connect to the plain listener packet by packet, and end what is left."""
    clients = []

    def connect(client_id, broker=plain, **fields):
        client = Raw(broker)
        clients.append(client)
        client.welcome = client.connect(client_id, **fields)
        assert client.welcome.reason_code == 0, client.welcome
        return client

    yield connect
    for client in clients:
        client.die()
