"""One client of the inference endpoint: HTTP/1.1 bytes to requests, answers to bytes.

Requests are answered one at a time, in order, also when they were pipelined. What is refused is
refused as early as it can be, with a sentence, and ends the connection: after bytes that do not
parse nobody can say where the next request begins.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import httptools
import msgspec

from edgectl_agent.inference.bearer import Bearer
from edgectl_agent.inference.exchange import HEADERS, Answer, Limits, Request, as_bytes
from edgectl_agent.inference.heads import Heads, Known
from edgectl_agent.inference.peer import NOBODY, Peer

__all__ = ["Connection", "Handler", "Shared"]

log = logging.getLogger(__name__)

_FOREVER = float("inf")
_LINGER_S = 2.0
_PIPELINED_MAX = 4
_KEPT_HEADERS = frozenset(
    {b"host", b"origin", b"expect", b"content-encoding", b"inference-header-content-length",
     b"content-length", b"authorization"}
)  # fmt: skip


Handler = Callable[[Request], Answer | asyncio.Future[Answer]]


class Shared(Protocol):
    """What the connections of one endpoint share."""

    handler: Handler
    limits: Limits
    connections: set[Connection]
    buffered: int
    """Bytes of bodies that all of them keep in memory."""
    received: memoryview
    """Where what comes is put until it is parsed."""
    heads: dict[bool, Heads]
    """Heads that were admitted: over the Unix socket, and over TCP."""

    def names_us(self, host: bytes) -> bool:
        """Say whether a Host header names this machine."""
        ...

    def bearer(self, *, local: bool) -> Bearer | None:
        """Return what compares tokens; None where none is asked for."""
        ...

    def serves_page(self, origin: bytes, host: bytes) -> bool:
        """Say whether a page of `origin` comes from this machine, asked by the Host header."""
        ...

    def joined(self, connection: Connection) -> None:
        """Take a connection into `connections`, and watch for it being overdue."""
        ...


class _Stop(Exception):
    """Leaves the parser; what is to be answered is already queued."""


class Connection(asyncio.BufferedProtocol):
    """One client. Requests are answered one at a time, in order."""

    def __init__(self, endpoint: Shared, *, local: bool) -> None:
        self._endpoint = endpoint
        self._limits = endpoint.limits
        self._local = local
        self._peer = NOBODY
        self._transport: Any = None
        self._parser = httptools.HttpRequestParser(self)
        self._request: Request | None = None
        self._queue: deque[Request | Answer] = deque()
        self._head_bytes = 0
        self._headers = 0
        self._in_head = False
        self._held = 0
        """Bytes of bodies that this connection keeps in memory."""
        self._busy = False
        self._computing = 0
        """Bytes of the body that is being computed, held even when the client has gone."""
        self._half_closed = False
        self._writable = True
        self._deaf = False
        """The last answer is queued or written: what still comes is thrown away."""
        self._continue = False
        self._scheduled = False
        self._read_until = _FOREVER
        self._write_until = _FOREVER

    # ------------------------------------------------------------ asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the client in, or turn it away when there are too many."""
        self._transport = transport
        self._peer = Peer.of(transport.get_extra_info("socket"))
        self._read_until = time.monotonic() + self._limits.head_s_max
        others = len(self._endpoint.connections)
        self._endpoint.joined(self)
        if others >= 2 * self._limits.connections_max:
            self.abort()  # a flood: not even an answer
        elif others >= self._limits.connections_max:
            self._refuse(503, "too many connections: close some, or send requests one by one")
            self._next()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # the interface
        """Return where to put what comes: one place for all connections.

        It is parsed before anything else is received, and the parser copies what it keeps.
        """
        return self._endpoint.received

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what has come and answer what is complete."""
        if self._deaf:
            return
        begins = self._request is None and not self._queue and not self._busy
        if begins and self._writable:
            known = self._endpoint.heads[self._local].find(self._endpoint.received, nbytes)
            if known is not None and self._again(known, nbytes):
                return
        data = self._endpoint.received[:nbytes]
        try:
            self._parser.feed_data(data)
        except (_Stop, httptools.HttpParserCallbackError):
            assert self._deaf, "the parser was left without an answer"
        except httptools.HttpParserUpgrade:
            self._queue.pop()
            self._refuse(400, "Upgrade is not supported: speak HTTP/1.1 without it")
        except httptools.HttpParserError as error:
            self._refuse(400, f"not HTTP/1.1: {error}")
        if self._in_head and not self._deaf:
            self._head_bytes += len(data)
            if self._head_bytes > 2 * self._limits.head_bytes_max:
                self._refuse(431, "the request's head is too long")
        if begins and len(self._queue) == 1 and isinstance(self._queue[0], Request):
            self._endpoint.heads[self._local].learn(data, self._queue[0])
        self._next()

    def _again(self, known: Known, nbytes: int) -> bool:
        """Answer a request whose head has been admitted before; see `heads`."""
        length = known.length
        if self._endpoint.buffered + length > self._limits.buffered_bytes_max:
            return False  # the parser finds the words for it
        self._endpoint.buffered += length
        self._held += length
        self._read_until = time.monotonic() + self._limits.idle_s_max
        body = bytes(self._endpoint.received[nbytes - length : nbytes])
        self._handle(known.request.again(body, self._peer))
        return True

    def eof_received(self) -> bool:
        """Let a client that has half-closed still get its answers."""
        self._read_until = min(self._read_until, time.monotonic() + _LINGER_S)
        self._half_closed = True
        return self._busy or bool(self._queue)

    def pause_writing(self) -> None:
        """Stop answering a client that does not read."""
        self._writable = False
        self._write_until = time.monotonic() + self._limits.write_s_max

    def resume_writing(self) -> None:
        """Go on."""
        self._writable = True
        self._write_until = _FOREVER
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the interface
        """Forget the client; what it is still computing is thrown away when done."""
        self._deaf = True
        self._queue.clear()
        self._request = None
        self._release(self._held - self._computing)
        self._endpoint.connections.discard(self)

    # ------------------------------------------------------------ httptools callbacks

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._request = Request()
        self._request.peer = self._peer
        self._head_bytes = self._headers = 0
        self._in_head = True
        self._read_until = time.monotonic() + self._limits.head_s_max

    def on_url(self, url: bytes) -> None:
        """Part of the request target."""
        assert self._request is not None
        self._count_head(len(url))
        self._request.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, whole."""
        request = self._request
        assert request is not None
        self._headers += 1
        self._count_head(len(name) + len(value))
        name = name.lower()
        if name not in _KEPT_HEADERS:
            return
        if name == b"host":
            if request.host is not None:
                self._leave(400, "two Host headers")
            request.host = value
        elif name == b"origin":
            request.origin = value
        elif name == b"expect":
            request.expect = value.lower()
        elif name == b"content-encoding":
            request.content_encoding = value.lower()
        elif name == b"content-length":
            if not value.isdigit() or int(value[:20]) > self._limits.body_bytes_max:
                self._leave_too_large()
        elif name == b"authorization":
            if request.authorization is not None:
                self._leave(400, "two Authorization headers")
            request.authorization = value
        else:
            if request.header_length is not None or not value.isdigit():
                self._leave(400, "Inference-Header-Content-Length is no number of bytes")
            request.header_length = int(value[:20])

    def on_headers_complete(self) -> None:
        """Refuse before the body what can be refused."""
        request = self._request
        assert request is not None
        self._in_head = False
        request.method = self._parser.get_method()
        request.keep_alive = self._parser.should_keep_alive()
        version = self._parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            self._leave(400, f"HTTP/{version} is not supported: speak HTTP/1.1")
        request.old = version == "1.0"
        if not self._local:
            self._check_names(request)
        bearer = self._endpoint.bearer(local=self._local)
        if bearer is not None and not bearer.admits(request.authorization):
            self._leave(401, "this endpoint asks for a token: Authorization: Bearer <token>")
        if request.content_encoding not in {None, b"identity"}:
            self._leave(415, "compressed bodies are not supported: send it as it is")
        if request.expect is not None:
            if request.expect != b"100-continue":
                self._leave(417, "the only expectation that can be met is 100-continue")
            self._continue = not request.old
        self._read_until = time.monotonic() + self._limits.body_s_max

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        request = self._request
        assert request is not None
        self._continue = False
        if len(request.body) + len(body) > self._limits.body_bytes_max:
            self._leave_too_large()
        if self._endpoint.buffered + len(body) > self._limits.buffered_bytes_max:
            self._leave(503, "too many large requests at once: try again")
        self._endpoint.buffered += len(body)
        self._held += len(body)
        if not request.body:
            request.body = body  # nearly always the whole: no copy
        else:
            if isinstance(request.body, bytes):
                request.body = bytearray(request.body)
            request.body += body

    def on_message_complete(self) -> None:
        """The request is whole."""
        assert self._request is not None
        self._continue = False
        self._queue.append(self._request)
        self._request = None
        self._read_until = time.monotonic() + self._limits.idle_s_max
        if len(self._queue) == _PIPELINED_MAX:
            self._transport.pause_reading()

    # ------------------------------------------------------------ checks

    def _check_names(self, request: Request) -> None:
        if request.host is None and not request.old:
            self._leave(400, "no Host header")
        if request.host is not None and not self._endpoint.names_us(request.host):
            self._leave(
                403, "Host does not name this device: use localhost, an address or its set name"
            )
        if request.origin is not None and not self._endpoint.serves_page(
            request.origin, request.host or b""
        ):
            self._leave(403, "requests of foreign web pages are not answered")

    def _count_head(self, length: int) -> None:
        self._head_bytes += length
        if (
            self._head_bytes > self._limits.head_bytes_max
            or self._headers > self._limits.headers_max
        ):
            self._leave(
                431,
                f"the request's head is too long: at most {self._limits.head_bytes_max} bytes "
                f"in {self._limits.headers_max} headers",
            )

    def _leave_too_large(self) -> None:
        self._leave(413, f"a request body has at most {self._limits.body_bytes_max} bytes")

    def _leave(self, status: int, sentence: str) -> None:
        """Refuse from within a parser callback."""
        self._refuse(status, sentence)
        raise _Stop

    def _refuse(self, status: int, sentence: str) -> None:
        """Queue a last answer, after those to earlier requests, and hear no more."""
        self._deaf = True
        self._in_head = self._continue = False
        headers = HEADERS.get(status, b"")
        self._queue.append(Answer(status, msgspec.json.encode({"error": sentence}), headers))

    def check(self, now: float) -> None:
        """End what is overdue."""
        if now > self._write_until:
            self.abort()
        elif now > self._read_until and not self._busy and not self._queue:
            if self._deaf or self._request is None:
                self.abort()
            else:
                self._refuse(408, "the request did not arrive in time")
                self._next()

    def abort(self) -> None:
        """Drop the client."""
        self._transport.abort()

    # ------------------------------------------------------------ answers

    def _next(self) -> None:
        """Answer the next request, if its turn has come."""
        if self._busy or not self._writable or self._transport.is_closing():
            return
        if not self._queue:
            if self._continue:
                self._continue = False
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        item = self._queue.popleft()
        if isinstance(item, Answer):
            self._last(item, head_only=False)
            return
        if len(self._queue) == _PIPELINED_MAX - 1 and not self._deaf:
            self._transport.resume_reading()
        self._handle(item)

    def _handle(self, request: Request) -> None:
        """Answer a request, now or when it is computed."""
        try:
            outcome = self._endpoint.handler(request)
        except Exception:
            log.exception("a request could not be handled")
            outcome = _internal_error()
        if isinstance(outcome, Answer):
            self._answer(request, outcome)
        else:
            self._busy = True
            self._computing = len(request.body)
            outcome.add_done_callback(lambda future: self._computed(request, future))

    def _computed(self, request: Request, future: asyncio.Future[Answer]) -> None:
        self._busy = False
        self._computing = 0
        error = None if future.cancelled() else future.exception()
        if error is not None:
            log.error("a request could not be computed", exc_info=error)
        self._answer(request, _internal_error() if error or future.cancelled() else future.result())

    def _answer(self, request: Request, answer: Answer) -> None:
        self._release(len(request.body))
        if self._transport.is_closing():
            return
        if not request.keep_alive or (self._half_closed and not self._queue):
            self._last(answer, head_only=request.method == b"HEAD")
            return
        kept = b"Connection: keep-alive\r\n" if request.old else b""
        self._transport.write(as_bytes(answer, kept, head_only=request.method == b"HEAD"))
        if self._queue and not self._scheduled:
            self._scheduled = True  # others get their turn between two pipelined requests
            asyncio.get_running_loop().call_soon(self._turn)
        elif self._continue:
            self._next()

    def _turn(self) -> None:
        self._scheduled = False
        self._next()

    def _last(self, answer: Answer, *, head_only: bool) -> None:
        """Answer, then close: half first, because a reset could overtake the answer."""
        self._deaf = True
        self._queue.clear()
        self._transport.write(as_bytes(answer, b"Connection: close\r\n", head_only=head_only))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._read_until = time.monotonic() + _LINGER_S
        self._request = None
        self._release(self._held)
        self._transport.resume_reading()

    def _release(self, length: int) -> None:
        length = min(length, self._held)
        self._held -= length
        self._endpoint.buffered -= length


def _internal_error() -> Answer:
    return Answer(500, b'{"error":"internal error: see the agent\'s log"}')
