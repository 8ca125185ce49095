"""Logging in and out, and tokens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from edgectl_server.api.access import (
    Viewer,
    drop_session_cookie,
    get_services,
    give_session_cookie,
    session_cookie,
    viewer,
)
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.auth import SCOPES, Principal
from edgectl_server.schemas import (
    LoginRequest,
    Me,
    Page,
    TokenCreated,
    TokenInfo,
    TokenRequest,
)
from edgectl_server.storage.tables import ApiToken

__all__ = ["router"]

router = APIRouter(tags=["session"])


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _me(principal: Principal) -> Me:
    may = SCOPES[principal.role]
    scopes = [one for one in may if principal.scopes is None or one in principal.scopes]
    return Me(user=principal.user, role=principal.role, scopes=scopes, csrf=principal.csrf)


def _info(row: ApiToken) -> TokenInfo:
    return TokenInfo.model_validate(row, from_attributes=True)


@router.post("/session", operation_id="login", responses=responses(401, 422, 429))
def login(request: Request, response: Response, body: LoginRequest) -> Me:
    """Log in with a browser: sets the session cookie."""
    services = get_services(request)
    principal = services.auth.check_password(body.username, body.password, _address(request))
    started = services.auth.start_session(principal.user)
    give_session_cookie(request, response, started.cookie)
    return _me(started.principal)


@router.delete(
    "/session",
    operation_id="logout",
    status_code=204,
    dependencies=[viewer],
    responses=responses(401, 403),
)
def logout(request: Request, response: Response) -> None:
    """End the session of the cookie that was sent."""
    cookie = session_cookie(request)
    if cookie is not None:
        get_services(request).auth.end_session(cookie)
    drop_session_cookie(request, response)


@router.get("/me", operation_id="me", responses=responses(401))
def me(principal: Viewer) -> Me:
    """Say who is asking."""
    return _me(principal)


@router.post("/tokens:login", operation_id="login_token", responses=responses(401, 422, 429))
def login_token(
    request: Request,
    body: LoginRequest,
    name: Annotated[str, Query(min_length=1, max_length=128)] = "login",
    expires_in_s: Annotated[int | None, Query(ge=60)] = None,
) -> TokenCreated:
    """Exchange a name and password for a token with the user's own role."""
    auth = get_services(request).auth
    principal = auth.check_password(body.username, body.password, _address(request))
    issued = auth.create_token(principal, name, principal.role, expires_in_s)
    return TokenCreated(token=issued.text, info=_info(issued.row))


@router.post(
    "/tokens", operation_id="create_token", status_code=201, responses=responses(401, 403, 422)
)
def create_token(request: Request, principal: Viewer, body: TokenRequest) -> TokenCreated:
    """Make a token with at most the own role and scopes."""
    issued = get_services(request).auth.create_token(
        principal, body.name, body.role, body.expires_in_s, body.scopes
    )
    return TokenCreated(token=issued.text, info=_info(issued.row))


@router.get("/tokens", operation_id="list_tokens", responses=responses(401))
def list_tokens(request: Request, principal: Viewer, paging: Paging) -> Page[TokenInfo]:
    """List the own tokens; an admin sees everybody's."""
    rows, total = get_services(request).auth.tokens(principal, paging)
    return Page(items=[_info(row) for row in rows], total=total)


@router.delete(
    "/tokens/{token_id}",
    operation_id="delete_token",
    status_code=204,
    responses=responses(401, 403, 404),
)
def delete_token(request: Request, principal: Viewer, token_id: str) -> None:
    """Delete an own token, and what was made with it; an admin deletes any."""
    get_services(request).auth.delete_token(principal, token_id)
