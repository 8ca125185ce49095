"""A small real HTTP server that speaks the API's schemas, and can be made to fail.

State is kept apart from the listener, so that the listener can be killed and started again on the
same port, as a restarting server would. `test_cli_real_server.py` runs the same client against the
real one.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel

TOKEN = "edgectl_0123456789abcdef_" + "s" * 43
PASSWORD = "correct horse battery staple"
READ_BYTES = 16 * 1024

Answer = tuple[int, Any]


def problem(status: int, code: str, detail: str = "it is so", **more: Any) -> Answer:
    return status, {"title": "Problem", "status": status, "code": code, "detail": detail, **more}


class FakeServer:
    """Uploads, events, and whatever routes a test gives it."""

    def __init__(self) -> None:
        self.uploads: dict[str, bytearray] = {}
        self.routes: dict[tuple[str, str], Callable[[Request], Answer] | Answer] = {}
        self.streams: list[list[dict[str, Any]]] = []
        """One list of events a connection to /events; the connection then ends."""
        self.seen: list[Request] = []
        self.drop_upload_at: list[int] = []
        """Stored sizes at which a PATCH is cut off, used one after another."""
        self.dropped = threading.Event()
        self.port = 0
        self._listener: _Listener | None = None
        self._thread: threading.Thread | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._listener = _Listener(("127.0.0.1", self.port), _Handler)
        self._listener.fake = self
        self.port = self._listener.server_address[1]
        # Between polls, shutdown() waits; 10 ms keeps the tests quick.
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.01,))
        self._thread.start()

    def kill(self) -> None:
        """Close the listener and every connection, without a word."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown()
            listener.cut_all()
            listener.server_close()
            self._thread.join(10)

    def requests(self, method: str, path: str = "") -> list[Request]:
        return [one for one in self.seen if one.method == method and one.path.startswith(path)]


class Request:
    def __init__(self, method: str, target: str, headers: Any, body: bytes) -> None:
        parts = urlsplit(target)
        self.method = method
        self.path = parts.path.removeprefix("/api/v1")
        self.query = parse_qsl(parts.query)
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)


class _Listener(ThreadingHTTPServer):
    daemon_threads = False
    allow_reuse_address = True
    fake: FakeServer

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut_all(self) -> None:
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that a test has cut is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def _handle(self) -> None:
        fake = self.server.fake
        if self.command == "PATCH" and self.path.startswith("/api/v1/uploads/"):
            self._patch(fake)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(self.command, self.path, self.headers, body)
        fake.seen.append(request)
        if request.path == "/events":
            self._events(fake)
        elif self.command == "HEAD":
            self._offset(fake, request.path.rpartition("/")[2], 200)
        else:
            route = fake.routes.get((request.method, request.path), problem(404, "route.unknown"))
            self._answer(*(route(request) if callable(route) else route))

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = _handle  # noqa: N815 - its names

    def _answer(self, status: int, value: Any) -> None:
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json")
        if isinstance(value, list):
            value = [
                one.model_dump(mode="json") if isinstance(one, BaseModel) else one for one in value
            ]
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        if status == 204:
            content = b""
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _offset(self, fake: FakeServer, sha256: str, status: int) -> None:
        stored = fake.uploads.get(sha256, bytearray())
        complete = hashlib.sha256(stored).hexdigest() == sha256
        self.send_response(status)
        self.send_header("Upload-Offset", str(len(stored)))
        self.send_header("Upload-Complete", "?1" if complete else "?0")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _patch(self, fake: FakeServer) -> None:
        sha256 = re.fullmatch(r"/api/v1/uploads/([0-9a-f]{64})", self.path)[1]
        fake.seen.append(Request("PATCH", self.path, self.headers, b""))
        stored = fake.uploads.setdefault(sha256, bytearray())
        left = int(self.headers["Content-Length"])
        if int(self.headers["Upload-Offset"]) != len(stored):
            self.rfile.read(left)
            code, value = problem(409, "upload.offset", data={"offset": len(stored)})
            self._answer(code, value)
            return
        while left:
            piece = self.rfile.read(min(left, READ_BYTES))
            if not piece:
                self.close_connection = True
                return
            stored += piece
            left -= len(piece)
            if fake.drop_upload_at and len(stored) >= fake.drop_upload_at[0]:
                fake.drop_upload_at.pop(0)
                fake.dropped.set()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
        complete = len(stored) == int(self.headers["Upload-Length"])
        if complete and hashlib.sha256(stored).hexdigest() != sha256:
            stored.clear()
            self._answer(*problem(422, "upload.digest"))
            return
        self._offset(fake, sha256, 204)

    def _events(self, fake: FakeServer) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b": welcome\nretry: 2000\n\n")
        for number, event in enumerate(fake.streams.pop(0) if fake.streams else []):
            kind = event["topic"].partition(":")[0]
            text = f"event: {kind}\nid: {number}\ndata: {json.dumps(event)}\n\n"
            self.wfile.write(text.encode())
        self.close_connection = True
