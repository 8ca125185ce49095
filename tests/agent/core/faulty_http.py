"""An HTTP server that does, request by request, what a test wants of it."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Asked(NamedTuple):
    path: str
    headers: dict[str, str]

    @property
    def span(self) -> tuple[int, int] | None:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        return (int(match[1]), int(match[2]) + 1) if match else None


Behaviour = Callable[["FaultyHttp", socket.socket, Asked], None]


class FaultyHttp:
    """Listens on loopback; `faults` are used up one a request, then it behaves."""

    def __init__(self, content: Mapping[str, bytes]) -> None:
        self.content = dict(content)
        self.faults: list[Behaviour] = []
        self.asked: list[Asked] = []
        self._body_bytes = 0
        self._sending: list[threading.Event] = []
        self.over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.over.set()
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join(5)
        self._listener.close()

    def _run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self.over.is_set():
                connection.close()
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                received = connection.recv(65536)
                if not received:
                    return
                head += received
            first, *lines = head.decode("latin-1").split("\r\n")
            pairs = (line.split(": ", 1) for line in lines if ": " in line)
            asked = Asked(first.split(" ")[1], {name.lower(): value for name, value in pairs})
            self.asked.append(asked)
            behaviour = self.faults.pop(0) if self.faults else good
            with contextlib.suppress(OSError):  # the device has gone
                behaviour(self, connection, asked)

    @property
    def body_bytes(self) -> int:
        """What was sent of bodies; waits for those that are on their way."""
        for one in list(self._sending):
            one.wait(5)
        return self._body_bytes

    def body(self, connection: socket.socket, content: bytes) -> None:
        sent = threading.Event()
        self._sending.append(sent)
        try:
            connection.sendall(content)
            self._body_bytes += len(content)
        finally:
            sent.set()


def head(status: int, **headers: object) -> bytes:
    lines = [f"HTTP/1.1 {status} x", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def good(server: FaultyHttp, connection: socket.socket, asked: Asked) -> None:
    content = server.content.get(asked.path)
    if content is None:
        connection.sendall(head(404, Content_Length=0))
    elif asked.span is None:
        connection.sendall(head(200, Content_Length=len(content)))
        server.body(connection, content)
    else:
        _partial(server, connection, asked, content)


def _partial(server, connection, asked, content, **changes) -> None:
    start, stop = asked.span
    part = content[start:stop]
    headers = {
        "Content_Range": f"bytes {start}-{start + len(part) - 1}/{len(content)}",
        "Content_Length": len(part),
    }
    connection.sendall(head(206, **(headers | changes)))
    server.body(connection, part)


def partial(**changes: object) -> Behaviour:
    """The right part under other headers."""
    return lambda server, connection, asked: _partial(
        server, connection, asked, server.content[asked.path], **changes
    )


def answer(status: int, **headers: object) -> Behaviour:
    """A status and headers, without content."""
    return lambda _server, connection, _asked: connection.sendall(
        head(status, **{"Content_Length": 0, **headers})
    )


def whole(server: FaultyHttp, connection: socket.socket, asked: Asked) -> None:
    """All of it, though a part was asked for."""
    content = server.content[asked.path]
    connection.sendall(head(200, Content_Length=len(content), ETag='"other"'))
    server.body(connection, content)


def truncated(after: int) -> Behaviour:
    """Break off in the middle."""

    def behave(server: FaultyHttp, connection: socket.socket, asked: Asked) -> None:
        start, stop = asked.span or (0, len(server.content[asked.path]))
        content = server.content[asked.path][start:stop]
        total = len(server.content[asked.path])
        connection.sendall(
            head(
                206,
                Content_Range=f"bytes {start}-{stop - 1}/{total}",
                Content_Length=len(content),
            )
        )
        server.body(connection, content[:after])

    return behave


def altered(server: FaultyHttp, connection: socket.socket, asked: Asked) -> None:
    """The right form, and other bytes."""
    content = server.content[asked.path]
    server.content[asked.path] = bytes(len(content))
    try:
        good(server, connection, asked)
    finally:
        server.content[asked.path] = content


def silent(server: FaultyHttp, connection: socket.socket, _asked: Asked) -> None:
    """Take the question and say nothing."""
    server.over.wait(30)


def silent_in_the_body(server: FaultyHttp, connection: socket.socket, asked: Asked) -> None:
    """Begin, and say nothing more."""
    truncated(70_000)(server, connection, asked)
    server.over.wait(30)


def drip(of: bytes, every_s: float = 0.05) -> Behaviour:
    """One byte at a time, for ever: no socket's own timeout ever passes."""

    def behave(server: FaultyHttp, connection: socket.socket, _asked: Asked) -> None:
        connection.sendall(of)
        for _ in range(2000):
            if server.over.is_set():
                return
            connection.sendall(b"x")
            time.sleep(every_s)

    return behave


def endless(server: FaultyHttp, connection: socket.socket, asked: Asked) -> None:
    """The whole, and then more of it for ever, without a length."""
    connection.sendall(head(200))
    server.body(connection, server.content[asked.path])
    while not server.over.is_set():
        connection.sendall(bytes(65536))


def many_headers(server: FaultyHttp, connection: socket.socket, _asked: Asked) -> None:
    """Headers without end."""
    connection.sendall(b"HTTP/1.1 206 x\r\n")
    for number in range(100_000):
        connection.sendall(b"X-%d: y\r\n" % number)


def long_header(server: FaultyHttp, connection: socket.socket, _asked: Asked) -> None:
    """One header of 16 MiB."""
    connection.sendall(b"HTTP/1.1 206 x\r\nX: ")
    for _ in range(256):
        connection.sendall(b"y" * 65536)


def garbage(_server: FaultyHttp, connection: socket.socket, _asked: Asked) -> None:
    """Something that is no HTTP."""
    connection.sendall(b"\x00\xff SSH-2.0-OpenSSH\r\n\r\n")


def hang_up(_server: FaultyHttp, _connection: socket.socket, _asked: Asked) -> None:
    """End without an answer."""
