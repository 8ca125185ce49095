"""``/v2/``: a pull-only registry as the OCI distribution specification 1.1 has it.

An application of its own beside the REST API, because its errors and its challenge are those of the
specification. Everything needs somebody who may pull (`edgectl_server.pullers`), the first question
included. What is pushed is refused: versions are made by ``edgectl push`` alone.

A blob is read and sent in pieces; a client that takes none for `PIECE_S_MAX` is hung up on.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from edgectl_protocol.ranges import Span, Unsatisfiable, is_not_modified, wanted_span
from edgectl_server.errors import NotFound, Refused, ServerError
from edgectl_server.oci_registry import INDEX_MEDIA_TYPE, Content
from edgectl_server.pullers import Puller
from edgectl_server.services import Services

logger = logging.getLogger(__name__)

__all__ = ["OCI_PREFIX", "make_oci_application"]

OCI_PREFIX = "/v2"
READ_BYTES = 512 * 1024
"""What is read at a time, in a thread."""
PIECE_BYTES = 64 * 1024
"""What is sent at a time: whoever takes one in `PIECE_S_MAX` is not hung up on."""
PIECE_S_MAX = 60.0
TAGS_MAX = 1000
_VERSION = {"Docker-Distribution-API-Version": "registry/2.0"}
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="edgectl", charset="UTF-8"'}
_CODES = {
    "oci.name": "NAME_INVALID",
    "oci.repository": "NAME_UNKNOWN",
    "oci.reference": "TAG_INVALID",
    "oci.manifest": "MANIFEST_UNKNOWN",
    "oci.digest": "DIGEST_INVALID",
    "oci.blob": "BLOB_UNKNOWN",
    "blob.missing": "BLOB_UNKNOWN",
    "pull.busy": "TOOMANYREQUESTS",
}
_CODES_OF_STATUS = {401: "UNAUTHORIZED", 403: "DENIED", 405: "UNSUPPORTED", 429: "TOOMANYREQUESTS"}
Handler = Callable[[Request, Services, Puller], Response]


def make_oci_application(services: Services | None) -> Starlette:
    """Return the application; `services` is None only to look at the routes."""

    def route(path: str, handler: Handler) -> Route:
        return Route(path, _guarded(services, handler), methods=["GET", "HEAD"])

    application = Starlette(
        routes=[
            route("/", _base),
            route("/{name:path}/manifests/{reference}", _manifest),
            route("/{name:path}/blobs/{digest}", _blob),
            route("/{name:path}/tags/list", _tags),
            route("/{name:path}/referrers/{digest}", _referrers),
        ],
        exception_handlers={ServerError: _from_server_error, HTTPException: _from_http},
    )
    application.router.redirect_slashes = False  # an address is right or wrong
    return application


def _guarded(
    services: Services | None, handler: Handler
) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        assert services is not None

        def answer() -> Response:
            authorization = request.headers.get("authorization", "")
            puller = services.pullers.identify(authorization, request.url.path)
            return handler(request, services, puller)

        return await run_in_threadpool(answer)

    return handle


def _base(_request: Request, _services: Services, _puller: Puller) -> Response:
    return Response(b"{}", media_type="application/json", headers=_VERSION)


def _manifest(request: Request, services: Services, puller: Puller) -> Response:
    reference = request.path_params["reference"]
    found = services.oci.manifest(request.path_params["name"], reference)
    return _content(request, services, puller, found, by_digest=":" in reference)


def _blob(request: Request, services: Services, puller: Puller) -> Response:
    found = services.oci.blob(request.path_params["name"], request.path_params["digest"])
    return _content(request, services, puller, found, by_digest=True)


def _tags(request: Request, services: Services, _puller: Puller) -> Response:
    name = request.path_params["name"]
    tags = [one for one in services.oci.tags(name) if one > request.query_params.get("last", "")]
    asked = request.query_params.get("n", str(TAGS_MAX))
    if not asked.isascii() or not asked.isdigit():
        raise Refused("oci.reference", f"n is {asked[:20]!r}, not a number")
    shown = tags[: min(int(asked[:9]), TAGS_MAX)]
    headers = dict(_VERSION)
    if len(shown) < len(tags) and shown:
        headers["Link"] = (
            f'<{OCI_PREFIX}/{name}/tags/list?n={len(shown)}&last={shown[-1]}>; rel="next"'
        )
    return _json({"name": name, "tags": shown}, headers=headers)


def _referrers(request: Request, services: Services, _puller: Puller) -> Response:
    kind = request.query_params.get("artifactType", "")
    name, digest = request.path_params["name"], request.path_params["digest"]
    content = services.oci.referrers(name, digest, kind)
    headers = {**_VERSION, "OCI-Filters-Applied": "artifactType"} if kind else _VERSION
    return Response(content, media_type=INDEX_MEDIA_TYPE, headers=headers)


# ------------------------------------------------------------ content


def _content(
    request: Request, services: Services, puller: Puller, found: Content, *, by_digest: bool
) -> Response:
    etag = f'"{found.digest}"'
    headers = {
        **_VERSION,
        "Docker-Content-Digest": found.digest,
        "ETag": etag,
        "Accept-Ranges": "bytes",
        # What a digest names never changes; shared caches must not give it to just anybody.
        "Cache-Control": "private, max-age=31536000, immutable" if by_digest else "no-cache",
    }
    if is_not_modified(request.headers, etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    headers["Content-Type"] = found.media_type
    if request.method == "HEAD":
        headers["Content-Length"] = str(found.size)
        return Response(headers=headers)
    try:
        span = wanted_span(request.headers, found.size, etag)
    except Unsatisfiable:
        headers["Content-Range"] = f"bytes */{found.size}"
        return _error("SIZE_INVALID", "the range is not satisfiable", 416, headers)
    status = HTTPStatus.OK
    if span is not None:
        status = HTTPStatus.PARTIAL_CONTENT
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{found.size}"
    span = span or Span(0, found.size)
    headers["Content-Length"] = str(span.length)
    return _Body(services, puller, found, span, status=status, headers=headers)


class _Body(Response):
    """Content that is read while it is sent."""

    def __init__(
        self,
        services: Services,
        puller: Puller,
        found: Content,
        span: Span,
        *,
        status: int,
        headers: dict[str, str],
    ) -> None:
        super().__init__(status_code=status, headers=headers)
        self._services = services
        self._puller = puller
        self._found = found
        self._span = span

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, counted; raises `TooMany` or `ServerError` before anything is sent."""
        del scope
        with self._services.pullers.sending(self._puller) as count:
            pieces = self._pieces()
            piece: bytes | None = await anext(pieces, b"")  # what cannot be read has a status
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            gone = asyncio.ensure_future(_disconnect(receive))
            try:
                while piece and not gone.done():
                    count(len(piece))
                    async with asyncio.timeout(PIECE_S_MAX):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                    piece = await anext(pieces, None)
            except TimeoutError:
                logger.info("%s takes nothing and is hung up on", self._puller.name)
                return
            finally:
                gone.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pieces(self) -> AsyncIterator[bytes]:
        if self._found.content is not None:
            yield self._found.content[self._span.start : self._span.stop]
            return
        start, stop = self._span
        stream: Iterator[bytes] = self._services.blobs.stream_range(
            self._found.digest, start, stop, READ_BYTES
        )
        async for read in iterate_in_threadpool(stream):
            for at in range(0, len(read), PIECE_BYTES):
                yield read[at : at + PIECE_BYTES]


async def _disconnect(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


# ------------------------------------------------------------ errors


def _from_server_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ServerError)
    status = error.status
    if isinstance(error, Refused):
        status = HTTPStatus.BAD_REQUEST
    code = _CODES.get(error.code) or _CODES_OF_STATUS.get(status, "UNKNOWN")
    if isinstance(error, NotFound) and code == "UNKNOWN":
        code = "NAME_UNKNOWN"
    headers = dict(_VERSION)
    if status == HTTPStatus.UNAUTHORIZED:
        headers |= _CHALLENGE
    if "retry_after_s" in error.data:
        headers["Retry-After"] = str(error.data["retry_after_s"])
    return _error(code, error.detail, status, headers, {"code": error.code, "hint": error.hint})


def _from_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES_OF_STATUS.get(error.status_code, "NAME_UNKNOWN")
    detail = "this registry is for pulling" if code == "UNSUPPORTED" else "there is nothing here"
    return _error(code, detail, error.status_code, {**_VERSION, **(error.headers or {})})


def _error(
    code: str,
    message: str,
    status: int,
    headers: dict[str, str],
    detail: dict[str, str] | None = None,
) -> Response:
    document = {"errors": [{"code": code, "message": message, "detail": detail or {}}]}
    return _json(document, status=status, headers={**headers, "Cache-Control": "no-store"})


def _json(document: Any, *, headers: dict[str, str], status: int = 200) -> Response:
    headers = {**headers, "Content-Type": "application/json"}
    return Response(json.dumps(document), status_code=status, headers=headers)
