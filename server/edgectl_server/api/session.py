"""Logging in and out, and tokens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from edgectl_server.api.access import (
    Viewer,
    drop_session_cookie,
    get_services,
    give_session_cookie,
    proved,
    session_cookie,
    viewer,
)
from edgectl_server.api.paging import Paging
from edgectl_server.api.problems import responses
from edgectl_server.auth import SCOPES, Principal
from edgectl_server.schemas import (
    LoginRequest,
    Me,
    OwnPasswordRequest,
    Page,
    ProofGiven,
    ProofRequest,
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


@router.post("/session/proof", operation_id="prove", responses=responses(401, 403, 422, 429))
def prove(request: Request, principal: Viewer, body: ProofRequest) -> ProofGiven:
    """Show again to be the owner of this session or token, for what changes users.

    With the own password; without one, shortly after a login at the provider of single sign-on that
    was begun with `again`, or with a code of a browser in which that was. The proof goes into the
    header `X-Edgectl-Proof`, for five minutes, and is good with this session or token alone.
    """
    services = get_services(request)
    proofs = services.proofs
    if body.password is not None:
        given = proofs.by_password(principal, body.password, _address(request))
    elif body.handover is not None:
        services.handover.take_proof(principal, body.handover.code, body.handover.verifier)
        given = proofs.by_browser(principal)
    else:
        given = proofs.by_sign_on(principal)
    return ProofGiven(proof=given.text, expires_at=given.expires_at)


@router.put(
    "/me/password",
    operation_id="change_own_password",
    status_code=204,
    dependencies=[viewer, proved],
    responses=responses(401, 403, 422),
)
def change_own_password(request: Request, principal: Viewer, body: OwnPasswordRequest) -> None:
    """Take another password. All other sessions end; tokens stay as they are."""
    get_services(request).users.change_own_password(principal, body.password)


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
def list_tokens(
    request: Request,
    principal: Viewer,
    paging: Paging,
    *,
    user: Annotated[str | None, Query(max_length=64, description="Only of this user.")] = None,
    valid: Annotated[bool | None, Query(description="Not expired, or expired.")] = None,
) -> Page[TokenInfo]:
    """List the own tokens; an admin sees everybody's."""
    rows, total = get_services(request).auth.tokens(principal, paging, user=user, valid=valid)
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
