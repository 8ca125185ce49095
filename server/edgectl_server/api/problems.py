"""Errors as RFC 9457 problem details, every one of them, with a stable code and a request id.

Our own errors say everything themselves; what FastAPI and Starlette raise is put into the same
form. What nobody has foreseen is answered by `RequestIds`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import DataError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgectl_protocol.errors import ProtocolError
from edgectl_server.errors import ServerError
from edgectl_server.schemas import Problem

__all__ = ["RequestIds", "install", "problem_of", "responses"]

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_ERRORS_SHOWN_MAX = 20
_CODES = {
    400: "request.malformed",
    401: "auth.required",
    403: "auth.role",
    404: "route.unknown",
    405: "route.method",
    408: "request.too_slow",
    413: "request.too_large",
    415: "request.media_type",
}


class RequestIds:
    """ASGI middleware: gives every request an id, and answers for our bugs.

    The id is in the header ``X-Request-Id`` and in the log. An exception that nothing else has
    answered is logged with it, and the client sees the id alone.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id

        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if started:
                raise  # too late for an answer: the connection is closed
            answer = _response(_bug(request_id), {})
            await answer(scope, receive, send_with_id)


def problem_of(error: ServerError, request_id: str = "") -> Problem:
    """Return the problem details of one of our errors."""
    return Problem(
        title=error.title,
        status=error.status,
        code=error.code,
        detail=error.detail,
        hint=error.hint,
        request_id=request_id,
        data=error.data,
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entry of a route that may answer `statuses` with a problem."""
    return {
        status: {"description": HTTPStatus(status).phrase, "content": _CONTENT}
        for status in sorted({*statuses})
    }


_CONTENT = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


def install(app: FastAPI) -> None:
    """Make `app` answer every error as problem details."""
    app.add_exception_handler(ServerError, _handler(_from_server_error))
    app.add_exception_handler(ProtocolError, _handler(_from_protocol_error))
    app.add_exception_handler(RequestValidationError, _handler(_from_validation))
    app.add_exception_handler(HTTPException, _handler(_from_http))
    app.add_exception_handler(DataError, _handler(_from_data_error))
    for kind in (OperationalError, InterfaceError, NoConnection):
        app.add_exception_handler(kind, _handler(_from_no_database))


def _handler(
    make: Callable[[Request, Any], tuple[Problem, Mapping[str, str]]],
) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, error: Exception) -> Response:
        problem, headers = make(request, error)
        problem.request_id = getattr(request.state, "request_id", "")
        request.state.problem = problem.code
        return _response(problem, headers)

    return handle


def _response(problem: Problem, headers: Mapping[str, str]) -> JSONResponse:
    return JSONResponse(
        problem.model_dump(mode="json"),
        status_code=problem.status,
        headers=dict(headers),
        media_type=MEDIA_TYPE,
    )


def _from_server_error(_request: Request, error: ServerError) -> tuple[Problem, Mapping[str, str]]:
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("%s: %s", error.code, error.detail, exc_info=error)
    headers = {}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="edgectl"'
    if "retry_after_s" in error.data:
        headers["Retry-After"] = str(error.data["retry_after_s"])
    return problem_of(error), headers


def _from_protocol_error(
    _request: Request, error: ProtocolError
) -> tuple[Problem, Mapping[str, str]]:
    return Problem(title="Refused", status=422, code=error.code, detail=str(error)), {}


def _from_validation(
    _request: Request, error: RequestValidationError
) -> tuple[Problem, Mapping[str, str]]:
    errors = [
        {
            "field": ".".join(str(part) for part in one["loc"]),
            "message": str(one["msg"]).removeprefix("Value error, ")[:500],
        }
        for one in error.errors()[:_ERRORS_SHOWN_MAX]
    ]
    first = f"{errors[0]['field']}: {errors[0]['message']}" if errors else "the request"
    return (
        Problem(
            title="Refused",
            status=422,
            code="request.invalid",
            detail=first[:1000],
            errors=errors,
        ),
        {},
    )


def _from_data_error(_request: Request, _error: DataError) -> tuple[Problem, Mapping[str, str]]:
    # What the database says of it holds the statement and its values: not for the client.
    return (
        Problem(
            title="Refused",
            status=422,
            code="request.invalid",
            detail="a value cannot be stored: it has a NUL character, or is too long or too large",
        ),
        {},
    )


def _from_http(request: Request, error: HTTPException) -> tuple[Problem, Mapping[str, str]]:
    status = HTTPStatus(error.status_code)
    detail = str(error.detail)
    if status == HTTPStatus.NOT_FOUND:
        detail = f"there is no {request.method} {request.url.path[:200]}"
    return (
        Problem(
            title=status.phrase,
            status=status.value,
            code=_CODES.get(status.value, f"http.{status.value}"),
            detail=detail,
        ),
        error.headers or {},
    )


def _from_no_database(_request: Request, error: Exception) -> tuple[Problem, Mapping[str, str]]:
    # It restarts, is locked for long, or its disk is full; what it does not understand is a bug.
    if getattr(getattr(error, "orig", None), "sqlite_errorname", "") == "SQLITE_ERROR":
        raise error
    logger.error("the database does not answer: %s", type(error).__name__, exc_info=error)
    return (
        Problem(
            title="Service unavailable",
            status=503,
            code="database.unavailable",
            detail="the database does not answer now",
            hint="try again in a moment; `edgectl server check` on the server says what is wrong",
        ),
        {"Retry-After": "2"},
    )


def _bug(request_id: str) -> Problem:
    return Problem(
        title="Internal server error",
        status=500,
        code="server.bug",
        detail="Something went wrong that should not be able to.",
        hint=f"look for request {request_id} in the server's log",
        request_id=request_id,
    )
