"""ASGI middleware without a dependency on FastAPI: bounds of bodies, headers of pages."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from time import monotonic
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgectl_server.schemas import Problem

__all__ = ["BODY_BYTES_MAX", "BodyLimit", "PageHeaders"]

BODY_BYTES_MAX = 1024**2
"""Of every request but uploads, which have their own limit."""
BODY_S_MAX = 30.0
"""From the head of a request to the end of its body; of an upload, between two pieces."""
_UPLOADS = "/api/v1/uploads/"
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
}
_POLICY = (
    # Styles are set by scripts of ours, element by element; scripts come from our files alone.
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; worker-src 'self'; manifest-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""What pages may do; a route may answer with a stricter policy of its own."""
_STRICT_TRANSPORT = "max-age=31536000"
"""A year of HTTPS alone (RFC 6797); browsers heed it only where they trust the certificate."""


class BodyLimit:
    """Refuses bodies that are too long, by what is announced and by what comes, or too slow."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = _is_upload(scope)
        for name, value in () if is_upload else scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > BODY_BYTES_MAX:
                await _too_large(scope)(scope, receive, send)
                return
        received = 0
        complete = False
        until = monotonic() + BODY_S_MAX

        async def receive_limited() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()  # it waits for the client to go
            wait_s = BODY_S_MAX if is_upload else until - monotonic()
            try:
                async with asyncio.timeout(max(0.0, wait_s)):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, "the body did not come in time") from error
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > BODY_BYTES_MAX and not is_upload:
                raise HTTPException(413, _DETAIL)
            return message

        await self._app(scope, receive_limited, send)


_DETAIL = f"the body has more than {BODY_BYTES_MAX} bytes"


def _is_upload(scope: MutableMapping[str, Any]) -> bool:
    return scope["method"] == "PATCH" and str(scope["path"]).startswith(_UPLOADS)


def _too_large(scope: MutableMapping[str, Any]) -> JSONResponse:
    problem = Problem(
        title="Content Too Large",
        status=413,
        code="request.too_large",
        detail=_DETAIL,
        hint="files are sent with PATCH /api/v1/uploads/{sha256}",
        request_id=scope.get("state", {}).get("request_id", ""),
    )
    return JSONResponse(
        problem.model_dump(mode="json"),
        status_code=413,
        media_type="application/problem+json",
        headers={"Connection": "close"},
    )


class PageHeaders:
    """Sets the headers that keep pages safe and fresh, and built assets cached."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Content-Security-Policy", _POLICY)
                if scope["scheme"] == "https":
                    headers["Strict-Transport-Security"] = _STRICT_TRANSPORT
                if scope["path"].startswith("/assets/") and message["status"] < 400:  # noqa: PLR2004
                    headers["Cache-Control"] = "public, max-age=31536000, immutable"
                else:  # the names of assets change with their content, other names do not
                    headers.setdefault(
                        "Cache-Control",
                        "no-store" if scope["path"].startswith("/api/") else "no-cache",
                    )
            await send(message)

        await self._app(scope, receive, send_with_headers)
