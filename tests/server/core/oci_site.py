"""A server with bundles in it, on a real socket, and devices that may pull."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from edgectl_protocol.pulls import PullProof, format_pull, pull_text
from edgectl_server.running import _WebServer
from edgectl_server.service_manager import ServiceManager
from server.fleet.fleet_helpers import add_version, new_device

WAIT_S = 20


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes


class Site:
    """What a test talks to."""

    def __init__(self, services, port: int, token: str, clock) -> None:
        self.services = services
        self.port = port
        self.token = token
        self.clock = clock

    def version(self, version: str = "1", **options) -> dict[str, str]:
        repository = SimpleNamespace(add_targets=lambda *_: None)
        return add_version(
            self.services.database, self.services.blobs, repository, version=version, **options
        )

    def ask(
        self, path: str, headers: dict[str, str] | None = None, *, method: str = "GET"
    ) -> Answer:
        """Ask exactly for `path`, with the viewer's token unless the headers say otherwise."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            sent = {"Authorization": f"Bearer {self.token}"} if headers is None else headers
            if headers is not None and "Authorization" not in headers:
                sent = {"Authorization": f"Bearer {self.token}", **headers}
            connection.request(method, path, headers={k: v for k, v in sent.items() if v})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def device(self, name: str, **fields) -> Device:
        device = Device(name, self.clock)
        row = new_device(
            name, self.clock() + timedelta(days=1), certificate_pem=device.certificate, **fields
        )
        with self.services.database.write() as session:
            session.add(row)
        return device


class Device:
    """A key, its certificate, and the header that it makes."""

    def __init__(self, name: str, clock) -> None:
        self.name = name
        self.clock = clock
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(clock())
            .not_valid_after(clock() + timedelta(days=1))
            .sign(self.key, SHA256())
        )
        self.certificate = built.public_bytes(Encoding.PEM).decode()

    def proof(self, path: str, *, name: str = "", skew_s: int = 0, key=None) -> dict[str, str]:
        at = int(self.clock().timestamp()) + skew_s
        device = name or self.name
        said = pull_text(device=device, at=at, path=path)
        signature = (key or self.key).sign(said, ec.ECDSA(SHA256())).hex()
        return {"Authorization": format_pull(PullProof(device=device, at=at, proof=signature))}


@contextmanager
def running(services, people, clock) -> Iterator[Site]:
    """Serve on a free port of loopback."""
    ready = threading.Event()
    server = _WebServer(services, ready.set, ServiceManager({}))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert ready.wait(WAIT_S)
        token = people.viewer["Authorization"].removeprefix("Bearer ")
        yield Site(services, listener.getsockname()[1], token, clock)
        server.stop()
        thread.join()
