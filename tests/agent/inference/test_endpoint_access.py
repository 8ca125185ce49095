"""Who is answered by the endpoint: tokens, names, and a fair share of the queue."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from agent.inference.models import counted_bundle, make_bundle
from edgectl_agent.inference.bearer import Bearer, TokenUnusable, read_token
from edgectl_agent.inference.endpoint import Answer, Request
from edgectl_agent.inference.options import Options
from edgectl_agent.inference.peer import Peer
from edgectl_agent.inference.process import InferenceDown, InferenceProcess
from edgectl_agent.inference.routes import Routes
from edgectl_agent.inference.service import Service, Shares
from edgectl_agent.inference.slots import Slots

TOKEN = "correct-horse.battery_staple"
INFER = "/v2/models/activity/infer"


def token_file(directory: Path, content: str = TOKEN + "\n", mode: int = 0o600) -> Path:
    path = directory / "endpoint.token"
    path.write_text(content)
    path.chmod(mode)
    return path


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[InferenceProcess]:
    running = InferenceProcess(
        host="127.0.0.1",
        port=0,
        socket=tmp_path / "s",
        options=Options(token_file=str(token_file(tmp_path)), names=("gateway.local",)),
    )
    running.start()
    running.load(make_bundle(tmp_path))
    yield running
    running.stop()


def send(process: InferenceProcess, content: bytes) -> bytes:
    port = urlsplit(process.endpoint).port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(content)
        return connection.recv(65536)


def get(process: InferenceProcess, *headers: str, path: str = "/v2") -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *headers]
    return send(process, "\r\n".join([*lines, "", ""]).encode())


@pytest.mark.parametrize(
    "header",
    [
        "X: y",
        "Authorization:",
        "Authorization: Bearer",
        "Authorization: Bearer ",
        f"Authorization: {TOKEN}",
        f"Authorization: Basic {TOKEN}",
        f"Authorization: Bearer {TOKEN[:-1]}",
        f"Authorization: Bearer {TOKEN}x",
        f"Authorization: Bearer {TOKEN.upper()}",
        f"Authorization: Bearer {TOKEN} x",
        f"Authorization: Bearer x {TOKEN}",
        f"Authorization: Bearer {TOKEN},Bearer x",
        f"Proxy-Authorization: Bearer {TOKEN}",
        f"Cookie: Authorization=Bearer {TOKEN}",
        "Authorization: Bearer \xe9\xe9",
    ],
)
def test_what_is_not_the_token_is_401(guarded: InferenceProcess, header: str) -> None:
    answer = get(guarded, header)
    assert answer.startswith(b"HTTP/1.1 401 "), answer
    assert b'\r\nWWW-Authenticate: Bearer realm="edgectl"\r\n' in answer
    assert TOKEN.encode() not in answer


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/models/activity", "/nowhere"])
def test_every_route_asks_for_it(guarded: InferenceProcess, path: str) -> None:
    assert get(guarded, path=path).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER  "])
def test_the_token_is_answered(guarded: InferenceProcess, scheme: str) -> None:
    assert get(guarded, f"Authorization: {scheme} {TOKEN}").startswith(b"HTTP/1.1 200 ")


def test_two_tokens_are_no_token(guarded: InferenceProcess) -> None:
    headers = f"Authorization: Bearer {TOKEN}", "Authorization: Bearer x"
    assert get(guarded, *headers).startswith(b"HTTP/1.1 400 ")
    assert get(guarded, *reversed(headers)).startswith(b"HTTP/1.1 400 ")


def test_the_body_of_a_stranger_is_not_read(guarded: InferenceProcess) -> None:
    """The answer comes before the body, and the connection ends."""
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    answer = send(guarded, head.encode())
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"Connection: close" in answer


def test_a_request_after_an_admitted_one_needs_it_again(guarded: InferenceProcess) -> None:
    first = f"GET /v2 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    second = "GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    port = urlsplit(guarded.endpoint).port
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall((first + second).encode())
        received = b""
        while part := connection.recv(65536):
            received += part
    assert received.count(b"HTTP/1.1 200 ") == 1
    assert received.count(b"HTTP/1.1 401 ") == 1


def ask_socket(path: Path, *headers: str) -> int:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", "/v2", headers=dict(header.split(": ") for header in headers))
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_socket_is_guarded_by_its_mode(guarded: InferenceProcess, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660
    assert ask_socket(tmp_path / "s") == 200


def test_the_socket_can_ask_for_it_too(tmp_path: Path) -> None:
    options = Options(token_file=str(token_file(tmp_path)), token_on_socket=True)
    process = InferenceProcess(host="127.0.0.1", port=0, socket=tmp_path / "s", options=options)
    process.start()
    assert ask_socket(tmp_path / "s") == 401
    assert ask_socket(tmp_path / "s", f"Authorization: Bearer {TOKEN}") == 200
    process.stop()


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [
        (TOKEN, 0o644, "chmod 600"),
        (TOKEN, 0o620, "chmod 600"),
        (TOKEN, 0o604, "chmod 600"),
        ("", 0o600, "16 to 512"),
        ("short", 0o600, "16 to 512"),
        ("x" * 513, 0o600, "16 to 512"),
        ("x" * 5000, 0o600, "16 to 512"),
        (f"{TOKEN} {TOKEN}", 0o600, "16 to 512"),
        (f"{TOKEN}\n{TOKEN}", 0o600, "16 to 512"),
        ("\u00e9" * 20, 0o600, "16 to 512"),
    ],
)
def test_a_file_that_gives_no_token(tmp_path: Path, content: str, mode: int, sentence: str) -> None:
    with pytest.raises(TokenUnusable, match=sentence):
        read_token(token_file(tmp_path, content, mode))


def test_what_is_no_token_file(tmp_path: Path) -> None:
    with pytest.raises(TokenUnusable, match="cannot read"):
        read_token(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(TokenUnusable, match="no regular file"):
            read_token(path)
    if os.geteuid() == 0:
        path = token_file(tmp_path)
        os.chown(path, 12345, 12345)
        with pytest.raises(TokenUnusable, match="another user"):
            read_token(path)


def test_without_its_token_the_endpoint_does_not_start(tmp_path: Path) -> None:
    """Rather none than one that is open to everybody."""
    options = Options(token_file=str(token_file(tmp_path, mode=0o644)))
    process = InferenceProcess(host="127.0.0.1", port=0, socket=None, options=options)
    with pytest.raises(InferenceDown) as down:
        process.start()
    assert down.value.code == "inference.token"
    assert "chmod 600" in down.value.detail
    assert not process.alive()


def test_comparing_takes_the_whole_token() -> None:
    bearer = Bearer(b"a" * 20)
    assert bearer.admits(b"Bearer " + b"a" * 20)
    for wrong in (None, b"", b"Bearer " + b"a" * 19, b"Bearer " + b"a" * 21, b"a" * 20):
        assert not bearer.admits(wrong)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("gateway.local", 200), ("GATEWAY.local:8500", 200), ("127.0.0.1", 200), ("[::1]", 200),
        ("gateway.local.evil.example", 403), ("evil.example", 403), ("", 403),
    ],
)  # fmt: skip
def test_names_of_this_machine(guarded: InferenceProcess, host: str, status: int) -> None:
    request = f"GET /v2 HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    assert send(guarded, request.encode()).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_client_gets_its_share_of_the_queue_and_no_more(tmp_path: Path) -> None:
    def request_of(who: str, rounds: int = 2**50) -> Request:
        request = Request()
        request.method, request.url = b"POST", b"/v2/models/counted/infer"
        request.peer = Peer(who)
        given = {"name": "rounds", "shape": [1], "datatype": "INT64", "data": [rounds]}
        request.body = json.dumps({"inputs": [given]}).encode()
        return request

    async def run() -> None:
        slots = Slots()
        shares = Shares(queue_max=3, client_max=2)
        service = Service(slots, ThreadPoolExecutor(1), shares=shares, run_seconds_max=0.3)
        routes = Routes(service)
        await slots.load(counted_bundle(tmp_path), time.monotonic() + 60)
        waiting: list[asyncio.Future[Answer]] = []
        for who, full in [("a", ""), ("a", ""), ("a", "of this client"), ("b", ""), ("c", "3 req")]:
            answer = routes(request_of(who))
            if isinstance(answer, Answer):
                assert answer.status == 429
                assert answer.headers == b"Retry-After: 1\r\n"
                assert full, who
                assert full.encode() in answer.body
            else:
                assert not full, who
                waiting.append(answer)
        for answer in await asyncio.wait_for(asyncio.gather(*waiting), 30):
            assert answer.status == 500
        last = routes(request_of("a", 3))
        assert isinstance(last, asyncio.Future)
        assert (await last).status == 200

    asyncio.run(run())


def test_more_connections_than_are_allowed(tmp_path: Path) -> None:
    options = Options(connections_max=2, body_bytes_max=2048)
    process = InferenceProcess(host="127.0.0.1", port=0, socket=None, options=options)
    process.start()
    process.load(make_bundle(tmp_path))
    port = urlsplit(process.endpoint).port
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
    for connection in held:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1024).startswith(b"HTTP/1.1 200 ")
    answer = get(process)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in answer
    held[0].sendall(
        f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2049\r\n\r\n".encode()
    )
    assert held[0].recv(1024).startswith(b"HTTP/1.1 413 ")
    for connection in held:
        connection.close()
    process.stop()


def test_who_is_at_the_other_end() -> None:
    found: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        peer = Peer.of(server)
        found.append((peer.share, peer.user))
        address, port = client.getsockname(), listener.getsockname()[1]
        assert Peer("x", address, port).user == os.geteuid()
        assert Peer("x", address, port + 1).user is None
        assert Peer("x", ("192.0.2.1", address[1]), port).user is None
        assert Peer("x", ("::1", address[1]), port).user is None
        # An end that was closed belongs to nobody any more: the kernel shows user 0 for it.
        client.close()
        assert Peer.of(server).user is None
        server.close()
    assert found == [("127.0.0.1", os.geteuid())]
    ours, theirs = socket.socketpair()
    assert Peer.of(ours).user == os.geteuid()
    ours.close()
    theirs.close()
