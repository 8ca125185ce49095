"""TLS with a key that OpenSSL does not hold: both versions, failures, and what must not change."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from broker.conftest import CLIENT, SERVER, TestAuthority
from edgectl_agent.tls_key import is_reference, offer

Key = ec.EllipticCurvePrivateKey
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Place:
    """Certificates, and a TLS server that asks for one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = TestAuthority(folder / "authority")
        self.server_context = self._server(ec.generate_private_key(ec.SECP256R1()))

    def certificate(self, name: str, key: Key | rsa.RSAPrivateKey, usage: object = CLIENT) -> Path:
        path = self.folder / f"{name}.pem"
        self.certify(path, name, key.public_key(), usage)
        return path

    def certify(self, path: Path, name: str, public_key: Any, usage: object = CLIENT) -> None:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self.authority._sign(subject, public_key, usage=usage)
        path.write_bytes(certificate.public_bytes(Encoding.PEM))

    @contextlib.contextmanager
    def serving(self, connections: int) -> Iterator[int]:
        """Tell each client the name that it has proved; give the port."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(30)

            def serve() -> None:
                for _ in range(connections):
                    with contextlib.suppress(OSError):
                        opened, _ = listener.accept()
                        with self.server_context.wrap_socket(opened, server_side=True) as served:
                            subject = dict(one[0] for one in served.getpeercert()["subject"])
                            served.sendall(subject["commonName"].encode())

            thread = threading.Thread(target=serve)
            thread.start()
            yield listener.getsockname()[1]
            thread.join(60)

    def _server(self, key: Key | rsa.RSAPrivateKey) -> ssl.SSLContext:
        certificate = self.certificate("server", key, SERVER)
        file = self.folder / "server.key"
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, file)
        context.load_verify_locations(self.authority.path)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self, version: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.path))
        context.minimum_version = context.maximum_version = version
        return context

    def meet(self, client: ssl.SSLContext) -> str:
        """Connect; return the name that the server has proof of."""
        ours, theirs = socket.socketpair()
        names: list[str] = []

        def serve() -> None:
            with theirs:
                try:
                    with self.server_context.wrap_socket(theirs, server_side=True) as served:
                        subject = dict(one[0] for one in served.getpeercert()["subject"])
                        names.append(subject["commonName"])
                        served.sendall(b"!")
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            ours.settimeout(20)
            with ours, client.wrap_socket(ours, server_hostname="localhost") as opened:
                assert opened.recv(1) == b"!"
        finally:
            thread.join(20)
        return names[0]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def point_of(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def signer_of(key: Key, calls: list[bytes]) -> Callable[[bytes], bytes]:
    def sign(digest: bytes) -> bytes:
        calls.append(digest)
        return key.sign(digest, ec.ECDSA(Prehashed(SHA256())))

    return sign


@pytest.mark.parametrize("version", VERSIONS)
def test_a_handshake_asks_for_one_signature(place: Place, version: ssl.TLSVersion) -> None:
    key, calls = ec.generate_private_key(ec.SECP256R1()), []
    file = place.folder / "reference"
    file.write_bytes(offer(point_of(key), signer_of(key, calls)))
    assert is_reference(file.read_bytes())
    context = place.client(version)
    context.load_cert_chain(place.certificate("pi-1", key), file)
    for count in (1, 2):
        assert place.meet(context) == "pi-1"
        assert [len(digest) for digest in calls] == [32] * count


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", ["raises", "another key", "too long", "nothing"])
def test_a_bad_signature_is_a_failed_handshake(
    place: Place, version: ssl.TLSVersion, what: str
) -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def sign(digest: bytes) -> bytes:
        if what == "raises":
            raise OSError("the token is gone")
        if what == "another key":
            return other.sign(digest, ec.ECDSA(Prehashed(SHA256())))
        return b"x" * 10_000 if what == "too long" else b""

    file = place.folder / "reference"
    file.write_bytes(offer(point_of(key), sign))
    context = place.client(version)
    context.load_cert_chain(place.certificate("pi-1", key), file)
    with pytest.raises((OSError, AssertionError)):
        place.meet(context)
    offer(point_of(key), signer_of(key, []))
    assert place.meet(context) == "pi-1"


def test_a_certificate_of_another_key_is_refused(place: Place) -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    file = place.folder / "reference"
    file.write_bytes(offer(point_of(key), signer_of(key, [])))
    with pytest.raises(ssl.SSLError, match="MISMATCH"):
        place.client(VERSIONS[1]).load_cert_chain(place.certificate("pi-1", other), file)


def test_a_file_of_a_key_that_was_not_offered_is_refused(place: Place) -> None:
    key, unknown = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    good = offer(point_of(key), signer_of(key, []))
    head, _, tail = good.splitlines()
    file = place.folder / "reference"
    for bad in (good[:60], head + b"\n" + b"A" * 88 + b"\n" + tail + b"\n", b"", good[1:]):
        file.write_bytes(bad)
        with pytest.raises(ssl.SSLError):
            place.client(VERSIONS[1]).load_cert_chain(place.certificate("pi-1", unknown), file)


@pytest.mark.parametrize(
    "other",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "RSA"],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_keys_in_files_are_used_as_before(
    place: Place, version: ssl.TLSVersion, other: Key | rsa.RSAPrivateKey
) -> None:
    key, calls = ec.generate_private_key(ec.SECP256R1()), []
    offer(point_of(key), signer_of(key, calls))
    file = place.folder / "key.pem"
    file.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    place.server_context = place._server(other)
    context = place.client(version)
    context.load_cert_chain(place.certificate("pi-2", other), file)
    assert place.meet(context) == "pi-2"
    assert not calls


def test_many_connect_at_once(place: Place) -> None:
    """From several threads, with several keys: each connection is of its own key."""
    contexts = []
    for number in range(4):
        key = ec.generate_private_key(ec.SECP256R1())
        file = place.folder / f"reference-{number}"
        file.write_bytes(offer(point_of(key), signer_of(key, [])))
        context = place.client(VERSIONS[number % 2])
        context.load_cert_chain(place.certificate(f"pi-{number}", key), file)
        contexts.append(context)
    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(lambda turn: place.meet(contexts[turn % 4]), range(80)))
    assert names == [f"pi-{turn % 4}" for turn in range(80)]


def test_a_process_ends_in_good_order(place: Place) -> None:
    """OpenSSL gives up what it holds after the interpreter has ended."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = place.certificate("pi-1", key)
    file = place.folder / "reference"
    program = f"""
import ssl, sys
from edgectl_agent.tls_key import offer
open({str(file)!r}, "wb").write(offer(bytes.fromhex({point_of(key).hex()!r}), lambda digest: b""))
sys.modules["kept"] = contexts = [ssl.create_default_context() for _ in range(20)]
for context in contexts:
    context.load_cert_chain({str(certificate)!r}, {str(file)!r})
ssl.kept = contexts[0]
"""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
