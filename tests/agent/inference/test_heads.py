"""A remembered head means what the parser would have made of it, and nothing more."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from edgectl_agent.inference.bearer import Bearer
from edgectl_agent.inference.endpoint import Answer, Endpoint, Limits, Request
from edgectl_agent.inference.heads import HEADS_MAX, Heads

TOKEN = "0123456789abcdef"
HEAD = b"POST /a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n"
FIVE = HEAD + b"Content-Length: 5\r\n\r\n"


class Forgetful(Heads):
    """Knows nothing: every request is the parser's."""

    def learn(self, received: memoryview, request: Request) -> None:
        pass


def show(request: Request) -> Answer:
    shown = {
        name: repr(bytes(value) if isinstance(value, bytearray) else value)
        for name in Request.__slots__
        if name != "peer"
        for value in [getattr(request, name)]
    }
    return Answer(200, json.dumps(shown).encode())


async def ask(port: int, *parts: bytes) -> bytes:
    """Send the parts, each after the answer to the one before has come, and return all answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        async with asyncio.timeout(10):
            for part in parts[:-1]:
                writer.write(part)
                received += await reader.readuntil(b"}")
            writer.write(parts[-1])
            writer.write_eof()
            received += await reader.read()
    except (ConnectionResetError, asyncio.IncompleteReadError):
        pass
    writer.close()
    return received


def endpoints() -> list[Endpoint]:
    made = [
        Endpoint(
            show, Limits(body_bytes_max=100, head_bytes_max=500), bearer=Bearer(TOKEN.encode())
        )
        for _ in range(2)
    ]
    made[1].heads = {False: Forgetful(), True: Forgetful()}
    return made


def run(scenario: Any) -> None:
    async def main() -> None:
        both = endpoints()
        ports = [await endpoint.listen_tcp("127.0.0.1", 0) for endpoint in both]
        try:
            await scenario(both, ports)
        finally:
            for endpoint in both:
                await endpoint.close()
        assert [endpoint.buffered for endpoint in both] == [0, 0]

    asyncio.run(main())


def test_it_is_remembered_and_answered_alike() -> None:
    async def scenario(both: list[Endpoint], ports: list[int]) -> None:
        parts = [FIVE + b"abcde", FIVE + b"fghij", FIVE + b"klmno"]
        answers = [await ask(port, *parts) for port in ports]
        assert answers[0] == answers[1]
        assert answers[0].count(b"HTTP/1.1 200 ") == 3
        for body in (b"abcde", b"fghij", b"klmno"):
            assert body in answers[0]
        head = bytearray(FIVE + b"vwxyz")
        assert both[0].heads[False].find(memoryview(head), len(head)) is not None
        assert both[1].heads[False].find(memoryview(head), len(head)) is None

    run(scenario)


@pytest.mark.parametrize(
    "after",
    [
        FIVE,
        FIVE + b"abcd",
        FIVE + b"abcdef",
        FIVE + b"abcde" + FIVE,
        FIVE + b"abcde" + FIVE + b"fghij",
        FIVE.replace(TOKEN.encode(), b"fedcba9876543210") + b"abcde",
        FIVE.replace(b"localhost", b"evil.test") + b"abcde",
        FIVE.replace(b"Authorization", b"authorization") + b"abcde",
        FIVE.replace(b": 5", b": 4") + b"abcde",
        FIVE.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"abcde",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\nabcde\r\n0\r\n\r\n",
        HEAD + b"\r\n",
        b"\r\n\r\n" + FIVE + b"abcde",
        b"x" + FIVE + b"abcde",
        FIVE[:-2] + b"X: y\r\n\r\n" + b"abcde",
    ],
)
def test_what_comes_after_it_is_read_as_the_parser_does(after: bytes) -> None:
    async def scenario(both: list[Endpoint], ports: list[int]) -> None:
        for parts in ([FIVE + b"abcde", FIVE + b"abcde", after], [after], [after]):
            answers = [await ask(port, *parts) for port in ports]
            assert answers[0] == answers[1], parts

    run(scenario)


def test_a_stranger_gains_nothing_from_an_admitted_head() -> None:
    async def scenario(both: list[Endpoint], ports: list[int]) -> None:
        for _ in range(3):
            assert b"HTTP/1.1 200 " in await ask(ports[0], FIVE + b"abcde")
        for token in ("", TOKEN[:-1], TOKEN + "0", TOKEN.upper()):
            wrong = FIVE.replace(TOKEN.encode(), token.encode())
            for _ in range(2):
                assert b"HTTP/1.1 401 " in await ask(ports[0], wrong + b"abcde")

    run(scenario)


def test_heads_that_are_not_remembered() -> None:
    async def scenario(both: list[Endpoint], ports: list[int]) -> None:
        for head in (
            HEAD + b"Connection: close\r\nContent-Length: 5\r\n\r\n",
            HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        ):
            await ask(ports[0], head + b"abcde")
            received = bytearray(head + b"abcde")
            assert both[0].heads[False].find(memoryview(received), len(received)) is None

    run(scenario)


def test_there_is_a_bound() -> None:
    heads = Heads()
    for number in range(3 * HEADS_MAX):
        received = bytearray(b"GET /%d HTTP/1.1\r\n\r\n" % number)
        heads.learn(memoryview(received), Request())
        assert heads.find(memoryview(received), len(received)) is not None
        assert len(heads._known) <= HEADS_MAX
    heads.forget()
    assert len(heads._known) == 0


def test_damaged_streams_are_answered_alike() -> None:
    """Against an endpoint that parses every one of them."""
    random = np.random.default_rng(20261129)

    async def scenario(both: list[Endpoint], ports: list[int]) -> None:
        for _ in range(150):
            stream = bytearray(FIVE + b"abcde")
            for _ in range(int(random.integers(0, 3))):
                at = int(random.integers(0, len(stream)))
                end = at + int(random.integers(0, 3))
                stream[at:end] = random.bytes(int(random.integers(0, 3)))
            parts = [FIVE + b"abcde", bytes(stream)]
            answers = [await ask(port, *parts) for port in ports]
            assert answers[0] == answers[1], parts

    run(scenario)
