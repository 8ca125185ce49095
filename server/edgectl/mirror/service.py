"""The mirror's HTTP server: manifests and blobs by digest, for devices, and nothing else.

What is not in the cache is fetched from the server once and kept. Tags are not served: what they
mean may change, and devices do not use them. What refers to a bundle follows from its manifest.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO
from urllib.parse import unquote

from edgectl.errors import ApiError, EdgectlError, LocalError
from edgectl.mirror.cache import Busy, Cache
from edgectl.mirror.door import Door, Turned
from edgectl.mirror.upstream import Upstream
from edgectl_protocol import __version__
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import MANIFEST_BYTES_MAX, MANIFEST_MEDIA_TYPE, decode_manifest
from edgectl_protocol.ranges import Span, Unsatisfiable, is_not_modified, wanted_span
from edgectl_protocol.referrers import INDEX_MEDIA_TYPE, Referrer, list_of, referrers_of

__all__ = ["Mirror"]

REQUESTS_MAX = 64
CONNECTIONS_MAX = 256
STALL_S = 60.0
WAIT_S = 12.0
"""Shorter than devices wait for a head; then they are told to come again."""
RETRY_S = 4
_PIECE_BYTES = 64 * 1024
_PATH = re.compile(r"/v2/models/[a-z0-9][a-z0-9_-]{0,63}/(manifests|blobs)/(sha256:[0-9a-f]{64})")
_REFERRERS = re.compile(
    r"(/v2/models/[a-z0-9][a-z0-9_-]{0,63})/referrers/(sha256:[0-9a-f]{64})"
    r"(?:\?artifactType=([A-Za-z0-9.+/%-]{1,200}))?"
)
_CODES = {401: "UNAUTHORIZED", 404: "BLOB_UNKNOWN", 405: "UNSUPPORTED", 416: "SIZE_INVALID"}
logger = logging.getLogger(__name__)


class Mirror(ThreadingHTTPServer):
    """Listens on one address; a thread for each connection, `REQUESTS_MAX` answers at a time."""

    daemon_threads = True

    def __init__(
        self, host: str, port: int, *, cache: Cache, upstream: Upstream, door: Door | None
    ) -> None:
        """Bind; `door` is None where everybody may pull. Raises `OSError`."""
        self.cache = cache
        self.upstream = upstream
        self.door = door
        self._connections = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self.places = threading.BoundedSemaphore(REQUESTS_MAX)
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection where there is room for one."""
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with one connection, and go on."""
        del request
        error = sys.exception()
        if not isinstance(error, OSError):  # else the client has gone
            logger.error("serving %s failed", client_address[0], exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = f"edgectl-mirror/{__version__}"
    sys_version = ""
    timeout = STALL_S
    server: Mirror

    def do_GET(self) -> None:
        """Answer with content."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Answer without it."""
        self._answer(body=False)

    def __getattr__(self, name: str) -> Callable[[], None]:
        """Refuse every other method in the form of the specification."""
        if name.startswith("do_"):
            return lambda: self._refuse(405, "request.method", "a mirror is for pulling")
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called
        """Log a request where somebody wants to read it."""
        logger.debug("%s %s", self.address_string(), format % args)

    def _answer(self, *, body: bool) -> None:
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # what follows is not the next request
        if not self.server.places.acquire(blocking=False):
            self._refuse(503, "mirror.busy", "too many pull at the moment", retry_s=RETRY_S)
            return
        try:
            self._answer_in_place(body=body)
        finally:
            self.server.places.release()

    def _answer_in_place(self, *, body: bool) -> None:
        match = _PATH.fullmatch(self.path)
        try:
            if self.server.door is not None:
                self.server.door.check(self.headers, self.path)  # type: ignore[arg-type]
            referrers = _REFERRERS.fullmatch(self.path)
            if referrers is not None:
                self._send_referrers(*referrers.groups(default=""), body=body)
                return
            if match is None:
                self._refuse(404, "mirror.path", "there is nothing here", body=body)
                return
            kind, digest = match.groups()
            with self._open(self.path, digest) as file:
                self._send(file, kind, digest, body=body)
        except Turned as error:
            self._refuse(401, error.code, str(error), body=body)
        except Busy:
            self._refuse(503, "mirror.busy", "it is on its way", retry_s=RETRY_S, body=body)
        except ApiError as error:
            logger.warning("%s", error)
            status = 404 if error.status == 404 else 502  # noqa: PLR2004 - of HTTP
            self._refuse(status, error.code, error.detail, body=body)
        except EdgectlError as error:
            logger.warning("%s", error)
            self._refuse(502, error.code, error.detail, body=body)

    def _open(self, path: str, digest: str) -> BinaryIO:
        def fetch(write: Callable[[bytes], object]) -> None:
            self.server.upstream.fetch(path, digest, write)

        try:
            return self.server.cache.open(digest, fetch, wait_s=WAIT_S)
        except OSError as error:
            raise LocalError("mirror.disk", f"the mirror's disk: {error}") from error

    def _send_referrers(self, name: str, digest: str, asked_type: str, *, body: bool) -> None:
        """Answer with what refers to a bundle; nothing does to what is no bundle."""
        found: tuple[Referrer, ...] = ()
        artifact_type = unquote(asked_type)
        try:
            with self._open(f"{name}/manifests/{digest}", digest) as file:
                content = file.read(MANIFEST_BYTES_MAX + 1)
            found = referrers_of(content, decode_manifest(content))
        except ProtocolError:
            pass  # an index, or an artifact
        except ApiError as error:
            if error.status != 404:  # noqa: PLR2004 - of HTTP
                raise
        content = list_of(found, artifact_type)
        headers = {
            "Content-Type": INDEX_MEDIA_TYPE,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
        }
        if artifact_type:
            headers["OCI-Filters-Applied"] = "artifactType"
        self._start(200, headers)
        if body:
            self.wfile.write(content)

    def _send(self, file: BinaryIO, kind: str, digest: str, *, body: bool) -> None:
        size = file.seek(0, 2)
        etag = f'"{digest}"'
        headers = {
            "ETag": etag,
            "Docker-Content-Digest": digest,
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, max-age=31536000, immutable",
            "X-Content-Type-Options": "nosniff",
        }
        if is_not_modified(self.headers, etag):  # type: ignore[arg-type]
            self._start(304, headers)
            return
        headers["Content-Type"] = (
            MANIFEST_MEDIA_TYPE if kind == "manifests" else "application/octet-stream"
        )
        try:
            span = wanted_span(self.headers, size, etag) if body else None  # type: ignore[arg-type]
        except Unsatisfiable:
            more = {"Content-Range": f"bytes */{size}"}
            self._refuse(416, "mirror.range", "the range is not satisfiable", headers=more)
            return
        if span is not None:
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
        self._start(200 if span is None else 206, headers | _length(span or Span(0, size)))
        if body:
            self._copy(file, span or Span(0, size))

    def _copy(self, file: BinaryIO, span: Span) -> None:
        file.seek(span.start)
        left = span.length
        while left:
            piece = file.read(min(left, _PIECE_BYTES))
            if not piece:
                self.close_connection = True  # the disk has lost some of it: the length says so
                return
            self.wfile.write(piece)
            left -= len(piece)

    def _refuse(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        retry_s: int = 0,
        headers: dict[str, str] | None = None,
        body: bool = True,
    ) -> None:
        error = {"code": _CODES.get(status, "UNKNOWN"), "message": detail, "detail": {"code": code}}
        content = json.dumps({"errors": [error]}).encode()
        sent = {"Content-Type": "application/json", "Cache-Control": "no-store", **(headers or {})}
        sent["Content-Length"] = str(len(content))
        if retry_s:
            sent["Retry-After"] = str(retry_s)
        self._start(status, sent)
        if body and self.command != "HEAD":
            self.wfile.write(content)

    def _start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _length(span: Span) -> dict[str, str]:
    return {"Content-Length": str(span.length)}
