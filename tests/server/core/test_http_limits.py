"""Clients who are slow, endless or many, on the real web server and real sockets."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from edgectl_server import http_connection
from edgectl_server.api import limits
from edgectl_server.running import _WebServer
from edgectl_server.service_manager import ServiceManager

WAIT_S = 20
LOGIN = b"POST /api/v1/session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture
def port(services) -> Iterator[int]:
    """The port on which the web server answers."""
    ready = threading.Event()
    server = _WebServer(services, ready.set, ServiceManager({}))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert ready.wait(WAIT_S)
        yield listener.getsockname()[1]
        server.stop()
        thread.join()


def answer(port: int, *pieces: bytes) -> bytes:
    """Send `pieces` and return everything that comes until the server hangs up."""
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as client:
        received = b""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                client.sendall(piece)
            while content := client.recv(65536):
                received += content
        return received


def code(received: bytes) -> str:
    return str(json.loads(received.partition(b"\r\n\r\n")[2])["code"])


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HT", b"GET /api/v1/version HTTP/1.1\r\nHost: x\r\n\r\nGET"],
    ids=["nothing", "half a head", "half a second head"],
)
def test_a_head_that_does_not_come(monkeypatch, port, sent):
    monkeypatch.setattr(http_connection, "HEAD_S_MAX", 0.3)
    received = answer(port, sent)
    assert received.startswith(b"HTTP/1.1 200" if b"Host" in sent else b"")


def test_a_head_without_end(monkeypatch, port):
    monkeypatch.setattr(http_connection, "HEAD_S_MAX", 10 * WAIT_S)
    received = answer(port, b"GET / HTTP/1.1\r\nHost: x\r\n", *[b"X: y\r\n" * 1000] * 100)
    assert received[:12] in {b"HTTP/1.1 400", b""}  # a reset may overtake the answer


def test_a_body_that_does_not_come(monkeypatch, port):
    monkeypatch.setattr(limits, "BODY_S_MAX", 0.3)
    received = answer(port, LOGIN + b"Content-Length: 10\r\nConnection: close\r\n\r\n{")
    assert received.startswith(b"HTTP/1.1 408")
    assert code(received) == "request.too_slow"


def test_an_upload_that_stalls_keeps_what_came_and_lets_go(monkeypatch, port, people, services):
    monkeypatch.setattr(limits, "BODY_S_MAX", 0.3)
    upload = (
        f"PATCH /api/v1/uploads/{'a' * 64} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Authorization: {people.operator['Authorization']}\r\n"
        "Upload-Offset: 0\r\nUpload-Length: 10\r\nContent-Length: 10\r\n\r\n12345"
    ).encode()
    assert code(answer(port, upload)) == "request.too_slow"
    assert not services.uploads._open


def test_one_address_does_not_take_all_connections(monkeypatch, port):
    monkeypatch.setattr(http_connection, "CONNECTIONS_PER_ADDRESS_MAX", 3)
    monkeypatch.setattr(http_connection, "_speaks_for_others", lambda *_: False)
    request = b"GET /api/v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with contextlib.ExitStack() as opened:
        for _ in range(3):
            client = socket.create_connection(("127.0.0.1", port), WAIT_S)
            opened.enter_context(client).sendall(b"GET /api/v1/version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
        assert answer(port, request) == b""
    while not (received := answer(port, request)):
        pass
    assert received.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("address", "speaks"),
    [("127.0.0.1", True), ("::1", True), ("192.0.2.1", True), ("192.0.2.2", False), ("", True)],
)
def test_who_speaks_for_others(address, speaks):
    assert http_connection._speaks_for_others(address, frozenset({"192.0.2.1"})) is speaks
