"""Requests and answers of the inference endpoint over HTTP, and the bounds of both."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

from msgspec import Struct

from edgectl_agent.inference.bearer import CHALLENGE
from edgectl_agent.inference.peer import NOBODY, Peer

__all__ = ["HEADERS", "RETRY_AFTER", "Answer", "Limits", "Request", "as_bytes"]

_REASONS = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 408: "Request Timeout", 413: "Content Too Large",
    415: "Unsupported Media Type", 417: "Expectation Failed", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error",
    503: "Service Unavailable",
}  # fmt: skip
_STATUS_LINES = {
    status: (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: "
    ).encode()
    for status, reason in _REASONS.items()
}
_BINARY_LINE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
    b"Inference-Header-Content-Length: %d\r\nContent-Length: "
)
RETRY_AFTER = b"Retry-After: 1\r\n"
"""Header of the answers after which a client should ask again: 429 and 503."""
HEADERS = {401: f"WWW-Authenticate: {CHALLENGE}\r\n".encode(), 503: RETRY_AFTER}


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds of the endpoint."""

    body_bytes_max: int = 16 * 1024 * 1024
    buffered_bytes_max: int = 64 * 1024 * 1024
    """Bodies of all connections together."""
    head_bytes_max: int = 16 * 1024
    headers_max: int = 64
    connections_max: int = 128
    head_s_max: float = 10.0
    body_s_max: float = 30.0
    idle_s_max: float = 75.0
    write_s_max: float = 30.0


class Answer(NamedTuple):
    """Status and JSON body."""

    status: int
    body: bytes
    headers: bytes = b""
    """Further header lines, each ended."""
    tail: Sequence[bytes | memoryview] = ()
    """Tensors in binary form, which follow the JSON body."""


class Request(Struct, gc=False):
    """One request; the headers that matter, and the body."""

    method: bytes = b""
    url: bytes = b""
    host: bytes | None = None
    origin: bytes | None = None
    expect: bytes | None = None
    content_encoding: bytes | None = None
    authorization: bytes | None = None
    header_length: int | None = None
    """Bytes of the body's JSON object, when tensors in binary form follow it."""
    keep_alive: bool = True
    old: bool = False
    """HTTP/1.0, which closes unless told otherwise."""
    body: bytes | bytearray = b""
    peer: Peer = NOBODY

    def again(self, body: bytes, peer: Peer) -> Request:
        """Return a request with the same head and another body."""
        request = copy(self)
        request.body, request.peer = body, peer
        return request


def as_bytes(answer: Answer, connection: bytes, *, head_only: bool) -> bytes:
    """Return an answer as it travels.

    Args:
        answer: with at most the headers of `HEADERS` and those of its own.
        connection: a Connection header, ended, or nothing.
        head_only: the request was a HEAD.
    """
    length = len(answer.body)
    if not answer.tail:
        body = b"" if head_only else answer.body
        line = _STATUS_LINES[answer.status]
        return b"%b%d\r\n%b%b\r\n%b" % (line, length, connection, answer.headers, body)
    line = _BINARY_LINE % length
    length += sum([len(part) for part in answer.tail])
    head = b"%b%d\r\n%b%b\r\n" % (line, length, connection, answer.headers)
    return head if head_only else b"".join([head, answer.body, *answer.tail])
