"""A broker that has been taken over, on a real socket: what it can do to a device's memory."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from edgectl_agent.clock import now
from edgectl_agent.connection import PACKET_BYTES_MAX, Connection, Endpoint
from edgectl_agent.device_key import FileKey
from edgectl_server.signing.authority import Authority, Identity

WAIT_S = 60
CONNACK = b"\x20\x03\x00\x00\x00"
LONGEST = b"\xff\xff\xff\x7f"
"""Remaining length of 268,435,455 bytes, the most that MQTT can say."""


def issue(authority: Authority, folder: Path) -> tuple[Path, Path]:
    """Return the files of a device's certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    pem = csr.public_bytes(serialization.Encoding.PEM).decode()
    certificate = folder / "device.pem"
    certificate.write_text(authority.issue_device(pem, "pi-1", now()).certificate_pem)
    private = folder / "device.key"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, private


class LyingBroker:
    """Answers CONNECT, sends `packet` and as much as the device takes, until it is hung up on."""

    def __init__(self, identity: Identity, packet: bytes) -> None:
        self.packet = packet
        self.connects: queue.Queue[bytes] = queue.Queue()
        self.hung_up_after: queue.Queue[int] = queue.Queue()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.certificate, identity.key)
        context.load_verify_locations(identity.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(WAIT_S)
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        with suppress(TimeoutError, ssl.SSLError):  # a device that refuses us
            raw, _ = self.listener.accept()
            with raw, self.context.wrap_socket(raw, server_side=True) as connection:
                connection.settimeout(WAIT_S)
                self.connects.put(connection.recv(4096))
                connection.sendall(CONNACK + self.packet)
                sent = 0
                with suppress(OSError):
                    while sent < 2**26:
                        sent += connection.send(bytes(2**14))
                self.hung_up_after.put(sent)

    def close(self) -> None:
        self.thread.join()
        self.listener.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "pki", now())


@pytest.fixture
def broker(authority: Authority) -> Iterator[LyingBroker]:
    lying = LyingBroker(authority.broker_identity([], now()), b"\x32" + LONGEST)
    yield lying
    lying.close()


def test_a_giant_packet_ends_the_connection_before_it_is_read(
    authority: Authority, broker: LyingBroker, tmp_path: Path
) -> None:
    certificate, key = issue(authority, tmp_path)
    endpoint = Endpoint(
        host="127.0.0.1",
        port=broker.listener.getsockname()[1],
        certificate=certificate,
        key=FileKey(key, key.read_bytes()),
        authority=tmp_path / "pki/authority.pem",
        device="pi-1",
    )
    changes: queue.Queue[bool] = queue.Queue()
    connection = Connection(endpoint, will=lambda: ("will", b"gone"), on_change=changes.put)
    connection.start()
    try:
        assert changes.get(timeout=WAIT_S) is True
        assert changes.get(timeout=WAIT_S) is False
        assert broker.hung_up_after.get(timeout=WAIT_S) < 2**25  # what the sockets' buffers take
    finally:
        connection.stop()
    told = b"\x27" + PACKET_BYTES_MAX.to_bytes(4, "big")  # MQTT 5 §3.1.2.11.4
    assert told in broker.connects.get(timeout=WAIT_S)
