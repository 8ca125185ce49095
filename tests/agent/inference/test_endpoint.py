"""The endpoint as an HTTP server: hostile and clumsy clients, limits, both listeners."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgectl_agent.inference.endpoint import Answer, Endpoint, Limits, Request

POST = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"


def echo(request: Request) -> Answer:
    text = {"url": request.url.decode(), "body": bytes(request.body).decode("latin-1")}
    return Answer(200, msgspec.json.encode(text))


async def until(condition: Callable[[], object]) -> None:
    """Wait for a level, bounded by the scenario's time."""
    while not condition():  # noqa: ASYNC110  # what is waited for raises no event
        await asyncio.sleep(0.001)


def serve(
    scenario: Callable[[Endpoint, int], Awaitable[None]],
    handler: Callable[[Request], Any] = echo,
    **limits: Any,
) -> None:
    """Run `scenario` with a listening endpoint and its port."""

    async def run() -> None:
        endpoint = Endpoint(handler, Limits(**limits))
        port = await endpoint.listen_tcp("127.0.0.1", 0)
        try:
            async with asyncio.timeout(30):
                await scenario(endpoint, port)
        finally:
            await endpoint.close()
        await until(lambda: not endpoint.connections)
        assert endpoint.buffered == 0, "memory of bodies is given back"

    asyncio.run(run())


class Peer:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Peer:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, content: bytes) -> None:
        self.writer.write(content)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")
        headers = dict(row.split(": ", 1) for row in head[1:-2])
        body = await self.reader.readexactly(int(headers["Content-Length"]))
        return int(head[0].split(" ")[1]), headers, json.loads(body)

    async def closed(self) -> bool:
        """Wait for the end of the stream; say whether nothing more came before it."""
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


def once(content: bytes, **limits: Any) -> tuple[int, dict[str, str], Any]:
    """Send `content` on a connection of its own and return the first answer."""
    found: list[tuple[int, dict[str, str], Any]] = []

    async def scenario(endpoint: Endpoint, port: int) -> None:
        peer = await Peer.to(port)
        await peer.send(content)
        found.append(await peer.answer())
        await peer.close()

    serve(scenario, **limits)
    return found[0]


def test_keep_alive_and_pipelining_answer_in_order() -> None:
    async def scenario(endpoint: Endpoint, port: int) -> None:
        peer = await Peer.to(port)
        requests = b"".join(
            b"POST /%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nab%d" % (i, i % 10)
            for i in range(200)
        )
        await peer.send(requests)
        for number in range(200):
            status, headers, body = await peer.answer()
            assert (status, body["url"], body["body"]) == (200, f"/{number}", f"ab{number % 10}")
            assert "Connection" not in headers
        await peer.close()

    serve(scenario)


def test_any_split_of_the_bytes_is_the_same_request() -> None:
    content = (
        b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\nTrailer: x\r\n\r\n"
    )

    async def scenario(endpoint: Endpoint, port: int) -> None:
        for at in range(1, len(content), 7):
            peer = await Peer.to(port)
            peer.writer.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
            )
            await peer.send(content[:at])
            await peer.send(content[at:])
            status, _, body = await peer.answer()
            assert (status, body["body"]) == (200, "abcdefg"), at
            await peer.close()

    serve(scenario)


def test_answers_of_a_slow_computation_keep_their_order() -> None:
    futures: list[asyncio.Future[Answer]] = []

    def handler(request: Request) -> Any:
        if request.url == b"/slow":
            futures.append(asyncio.get_running_loop().create_future())
            return futures[-1]
        return echo(request)

    async def scenario(endpoint: Endpoint, port: int) -> None:
        peer, other = await Peer.to(port), await Peer.to(port)
        await peer.send(GET.replace(b"/v2", b"/slow") + GET.replace(b"/v2", b"/fast"))
        await other.send(GET)
        assert (await other.answer())[0] == 200, "others are answered meanwhile"
        futures[0].set_result(Answer(200, b'"slow"'))
        assert (await peer.answer())[2] == "slow"
        assert (await peer.answer())[2]["url"] == "/fast"
        await peer.close()
        await other.close()

    serve(scenario, handler)


def test_a_client_that_leaves_during_a_computation_costs_nothing() -> None:
    futures: list[asyncio.Future[Answer]] = []

    def handler(request: Request) -> Any:
        futures.append(asyncio.get_running_loop().create_future())
        return futures[-1]

    async def scenario(endpoint: Endpoint, port: int) -> None:
        peer = await Peer.to(port)
        await peer.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody")
        await until(lambda: futures)
        # A reset: a mere end of the stream could be a client that still waits for its answer.
        peer.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        peer.writer.transport.abort()
        await until(lambda: not endpoint.connections)
        assert endpoint.buffered == 4, "the body is still computed with"
        futures[0].set_result(Answer(200, b"{}"))
        await until(lambda: not endpoint.buffered)

    serve(scenario, handler)


def test_a_client_that_half_closes_still_gets_its_answers() -> None:
    async def scenario(endpoint: Endpoint, port: int) -> None:
        peer = await Peer.to(port)
        peer.writer.write(GET * 3)
        peer.writer.write_eof()
        for _ in range(3):
            assert (await peer.answer())[0] == 200
        assert await peer.closed()
        await peer.close()

    serve(scenario)


def test_expect_100_continue() -> None:
    async def scenario(endpoint: Endpoint, port: int) -> None:
        peer = await Peer.to(port)
        await peer.send(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await peer.send(b"ok")
        assert (await peer.answer())[2]["body"] == "ok"
        await peer.close()

    serve(scenario)


def test_expect_of_a_body_that_is_too_long_is_refused_before_it_is_sent() -> None:
    status, headers, _ = once(
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n"
        b"Expect: 100-continue\r\n\r\n",
        body_bytes_max=100,
    )
    assert status == 413
    assert headers["Connection"] == "close"


HOSTILE: dict[str, tuple[bytes, int]] = {
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "no version": (b"GET /\r\n\r\n", 400),
    "no host": (b"GET /v2 HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
    "rebound host": (b"GET /v2 HTTP/1.1\r\nHost: attacker.example:8500\r\n\r\n", 403),
    "host that ends alike": (b"GET /v2 HTTP/1.1\r\nHost: x.localhost\r\n\r\n", 403),
    "host with user": (b"GET /v2 HTTP/1.1\r\nHost: localhost@evil.example\r\n\r\n", 403),
    "foreign page": (
        b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n",
        403,
    ),
    "foreign page on an address": (
        POST + b"Origin: http://203.0.113.5\r\nContent-Length: 0\r\n\r\n",
        403,
    ),
    "foreign page on another address": (
        b"GET /v2 HTTP/1.1\r\nHost: 192.0.2.7:8500\r\nOrigin: http://192.0.2.8:8500\r\n\r\n",
        403,
    ),
    "foreign page on an address in another form": (
        b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nOrigin: http://[2001:db8::1]:80\r\n\r\n",
        403,
    ),
    "page without origin": (
        b"POST /v2 HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\nContent-Length: 0\r\n\r\n",
        403,
    ),
    "two lengths": (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        400,
    ),
    "length and chunks": (
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "negative length": (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
    "long length": (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
        400,
    ),
    "body too long": (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000,
        413,
    ),
    "chunks too long": (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"258\r\n" + b"x" * 600 + b"\r\n258\r\n" + b"x" * 600 + b"\r\n0\r\n\r\n",
        413,
    ),
    "chunk size of another base": (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n",
        400,
    ),
    "long header": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 5000 + b"\r\n\r\n", 431),
    "endless header": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 9000, 431),
    "long target": (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
    "many headers": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 100 + b"\r\n",
        431,
    ),
    "compressed": (
        POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab",
        415,
    ),
    "other expectation": (b"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: money\r\n\r\n", 417),
    "upgrade": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        400,
    ),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "connect": (b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "header injection": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n", 400),
    "folded header": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_request_is_refused_and_the_connection_closed(name: str) -> None:
    content, expected = HOSTILE[name]

    async def scenario(endpoint: Endpoint, port: int) -> None:
        peer = await Peer.to(port)
        await peer.send(content)
        status, headers, body = await peer.answer()
        assert status == expected, body
        assert body["error"]
        assert headers["Connection"] == "close"
        assert await peer.closed()
        await peer.close()

    serve(scenario, body_bytes_max=1000, head_bytes_max=4000)


def test_answers_to_good_requests_come_before_the_refusal() -> None:
    async def scenario(endpoint: Endpoint, port: int) -> None:
        peer = await Peer.to(port)
        await peer.send(GET * 3 + b"garbage\r\n\r\n" + GET)
        assert [(await peer.answer())[0] for _ in range(4)] == [200, 200, 200, 400]
        assert await peer.closed()
        await peer.close()

    serve(scenario)


@pytest.mark.parametrize(
    "host",
    [b"localhost", b"LocalHost:8500", b"127.0.0.1:8500", b"[::1]:8500", b"[::1]", b"10.0.0.7"],
)
def test_own_names_are_answered(host: bytes) -> None:
    assert once(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")[0] == 200


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (b"localhost", b"http://localhost:8500"),
        (b"localhost", b"http://127.0.0.1:3000"),
        (b"localhost", b"http://[::1]:3000"),
        (b"192.0.2.7:8500", b"http://192.0.2.7:3000"),
    ],
)
def test_own_page_is_answered(host: bytes, origin: bytes) -> None:
    assert once(b"GET /v2 HTTP/1.1\r\nHost: %b\r\nOrigin: %b\r\n\r\n" % (host, origin))[0] == 200


@pytest.mark.parametrize(
    ("content", "connection"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "close"),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "keep-alive"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "close"),
    ],
)
def test_connection_is_what_the_client_asked_for(content: bytes, connection: str) -> None:
    assert once(content)[1]["Connection"] == connection


@pytest.mark.parametrize(
    "begun",
    [b"", b"\r\n", b"GET /v2 HT", b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: "],
    ids=["nothing", "blank", "line", "header"],
)
def test_a_slow_head_is_not_waited_for(begun: bytes) -> None:
    async def scenario(endpoint: Endpoint, port: int) -> None:
        peer = await Peer.to(port)
        await peer.send(begun)
        received = await peer.reader.read()
        assert received == b"" or received.startswith(b"HTTP/1.1 408 ")
        await peer.close()

    serve(scenario, head_s_max=0.1)


def test_dripping_bytes_do_not_extend_the_time() -> None:
    async def scenario(endpoint: Endpoint, port: int) -> None:
        peer = await Peer.to(port)
        await peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n")

        async def drip() -> None:
            while True:
                peer.writer.write(b"X: a\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        received = await peer.reader.readuntil(b"\r\n")
        dripping.cancel()
        assert received.startswith(b"HTTP/1.1 408 ")
        await peer.close()

    serve(scenario, head_s_max=0.5, headers_max=10_000)


def test_a_slow_body_is_not_waited_for() -> None:
    async def scenario(endpoint: Endpoint, port: int) -> None:
        peer = await Peer.to(port)
        await peer.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab")
        assert (await peer.answer())[0] == 408
        assert await peer.closed()
        await peer.close()

    serve(scenario, body_s_max=0.1)


def test_an_idle_connection_is_closed() -> None:
    async def scenario(endpoint: Endpoint, port: int) -> None:
        peer = await Peer.to(port)
        await peer.send(GET)
        assert (await peer.answer())[0] == 200
        assert await peer.closed()
        await peer.close()

    serve(scenario, idle_s_max=0.1)


def test_a_client_that_does_not_read_is_dropped() -> None:
    def large(request: Request) -> Answer:
        return Answer(200, b"[" + b"1," * 500_000 + b"1]")

    async def scenario(endpoint: Endpoint, port: int) -> None:
        peer = await Peer.to(port)
        peer.writer.write(GET * 100)
        await until(lambda: endpoint.connections)
        await until(lambda: not endpoint.connections)
        await peer.close()

    serve(scenario, large, write_s_max=0.2)


def test_too_many_connections_are_told_so() -> None:
    async def scenario(endpoint: Endpoint, port: int) -> None:
        peers = [await Peer.to(port) for _ in range(3)]
        for peer in peers:
            await peer.send(GET)
            assert (await peer.answer())[0] == 200
        more = await Peer.to(port)
        assert (await more.answer())[0] == 503
        await more.close()
        await peers[0].close()
        await until(lambda: len(endpoint.connections) <= 2)
        again = await Peer.to(port)
        await again.send(GET)
        assert (await again.answer())[0] == 200
        for peer in (*peers[1:], again):
            await peer.close()

    serve(scenario, connections_max=3)


def test_bodies_of_all_clients_together_are_bounded() -> None:
    async def scenario(endpoint: Endpoint, port: int) -> None:
        half = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 800\r\n\r\n" + b"x" * 700
        first, second = await Peer.to(port), await Peer.to(port)
        await first.send(half)
        await until(lambda: endpoint.buffered >= 700)
        await second.send(half)
        assert (await second.answer())[0] == 503
        await first.send(b"x" * 100)
        assert (await first.answer())[0] == 200
        await first.close()
        await second.close()

    serve(scenario, body_bytes_max=1000, buffered_bytes_max=1000)


def test_a_bug_in_the_handler_is_500_and_the_server_goes_on() -> None:
    def broken(request: Request) -> Answer:
        if request.url == b"/bug":
            raise ZeroDivisionError
        return echo(request)

    async def scenario(endpoint: Endpoint, port: int) -> None:
        peer = await Peer.to(port)
        await peer.send(GET.replace(b"/v2", b"/bug") + GET)
        assert (await peer.answer())[0] == 500
        assert (await peer.answer())[0] == 200
        await peer.close()

    serve(scenario, broken)


def test_unix_socket_has_its_mode_and_needs_no_host(tmp_path: Path) -> None:
    path = tmp_path / "inference.sock"

    async def run() -> None:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        endpoint = Endpoint(echo)
        await endpoint.listen_unix(path)
        try:
            assert stat.S_IMODE(path.stat().st_mode) == 0o660  # a test
            peer = Peer(*await asyncio.open_unix_connection(str(path)))
            await peer.send(b"GET /v2 HTTP/1.1\r\n\r\n")
            assert (await peer.answer())[0] == 200
            await peer.close()
        finally:
            await endpoint.close()

    asyncio.run(run())
    assert not path.exists()


def test_unix_socket_never_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(FileExistsError):
        asyncio.run(Endpoint(echo).listen_unix(path))
    assert path.read_text() == "data"
