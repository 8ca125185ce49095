"""Single sign-on for browsers, and from a browser to a command line.

``/openid/login`` and ``/openid/callback`` are opened by a browser, not by a program: what goes
wrong there leads back to the login page as ``/?login=<code>``, and is in the log. They are open,
as logging in with a password is; what protects them is in `edgectl_server.openid`.
"""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from edgectl_server.api.access import (
    Viewer,
    get_services,
    give_session_cookie,
    is_secure,
    session_cookie,
)
from edgectl_server.api.problems import responses
from edgectl_server.audit import current_act
from edgectl_server.errors import NotFound, Refused, ServerError
from edgectl_server.openid.handover import CODE_S
from edgectl_server.openid.provider import is_safe_address
from edgectl_server.openid.sign_on import LOGIN_S, SignOn
from edgectl_server.schemas import (
    HandoverCode,
    HandoverLogin,
    HandoverRequest,
    SignOnInfo,
    TokenCreated,
    TokenInfo,
)

__all__ = ["CALLBACK", "router"]

logger = logging.getLogger(__name__)
router = APIRouter(tags=["session"])

CALLBACK = "/api/v1/openid/callback"
LOGIN_COOKIE = "edgectl_openid"
_OWN_PATH = r"^/(?:[A-Za-z0-9~_.%@:,+-][A-Za-z0-9~_.%@:,+/-]*)?(?:\?[A-Za-z0-9~_.%@:,+/=&-]*)?$"
"""A path of ours with its query: no second slash at the start, no backslash, no control character,
so that no browser can read another host into it."""


def _sign_on(request: Request) -> SignOn:
    sign_on = get_services(request).sign_on
    if sign_on is None:
        raise NotFound(
            "openid.off",
            "single sign-on is not set up on this server",
            hint="log in with a user name and a password",
        )
    return sign_on


def _public_url(request: Request) -> str:
    """Return the address by which browsers reach us; the Host header counts on loopback alone."""
    public = get_services(request).settings.public_url.rstrip("/")
    if public:
        return public
    address = str(request.base_url).rstrip("/")
    if request.url.scheme == "http" and is_safe_address(address, loopback=True):
        return address
    raise Refused(
        "openid.address",
        "the server does not know by which address browsers reach it",
        hint="set `public_url`",
    )


def _cookie_name(request: Request) -> str:
    # With the prefix, no neighbour under the same domain can set it (RFC 6265bis, 4.1.3.2).
    return f"__Host-{LOGIN_COOKIE}" if is_secure(request) else LOGIN_COOKIE


@router.get("/openid", operation_id="sign_on_info")
def sign_on_info(request: Request) -> SignOnInfo:
    """Say whether there is single sign-on, and whether the provider answers."""
    sign_on = get_services(request).sign_on
    if sign_on is None:
        return SignOnInfo(enabled=False)
    try:
        logout = sign_on.logout_address(f"{_public_url(request)}/")
    except ServerError as error:
        logger.warning("single sign-on: %s: %s", error.code, error.detail)
        return SignOnInfo(enabled=True, name=sign_on.name)
    return SignOnInfo(enabled=True, name=sign_on.name, available=True, logout_url=logout)


@router.get("/openid/login", operation_id="sign_on", status_code=303, responses=responses(404, 422))
def begin_sign_on(
    request: Request,
    return_to: Annotated[str, Query(pattern=_OWN_PATH, max_length=512)] = "/",
    *,
    again: Annotated[bool, Query(description="Have it ask, even if it knows who it is.")] = False,
) -> Response:
    """Send the browser to the provider; `return_to` is the page of ours to come back to."""
    sign_on = _sign_on(request)
    source = request.client.host if request.client is not None else ""
    try:
        begun = sign_on.begin(f"{_public_url(request)}{CALLBACK}", return_to, source, again=again)
    except ServerError as error:
        return _back(error)
    response = RedirectResponse(begun.address, status_code=303)
    response.set_cookie(
        _cookie_name(request),
        begun.cookie,
        max_age=LOGIN_S,
        path="/",
        httponly=True,
        samesite="lax",  # the provider's redirect is a navigation from another site
        secure=is_secure(request),
    )
    return response


@router.get(
    "/openid/callback",
    operation_id="sign_on_callback",
    status_code=303,
    responses=responses(404),
)
def finish_sign_on(request: Request) -> Response:
    """Take the browser back from the provider and start its session."""
    sign_on = _sign_on(request)
    auth = get_services(request).auth
    # RFC 6749, 3.1: a parameter that is there twice counts as none; unknown ones are ignored.
    query = request.query_params
    answer = {name: query[name] for name in query if len(query.getlist(name)) == 1}
    try:
        finished = sign_on.finish(answer, request.cookies.get(_cookie_name(request), ""))
        started = auth.start_session(finished.user, authenticated_at=finished.authenticated_at)
    except ServerError as error:
        act = current_act()
        if act is not None:  # the answer is a redirect, which does not show that it is a refusal
            get_services(request).audit.end(act, "refused", code=error.code)
        response: Response = _back(error)
    else:
        former = session_cookie(request)
        if former is not None:
            auth.end_session(former)
        response = RedirectResponse(finished.return_to, status_code=303)
        give_session_cookie(request, response, started.cookie)
    response.delete_cookie(_cookie_name(request), path="/", secure=is_secure(request))
    return response


def _back(error: ServerError) -> Response:
    logger.warning("login by OpenID Connect: %s: %s", error.code, error.detail)
    return RedirectResponse(f"/?login={error.code}", status_code=303)


@router.post("/handover", operation_id="offer_handover", responses=responses(401, 403, 422))
def offer_handover(request: Request, principal: Viewer, body: HandoverRequest) -> HandoverCode:
    """Give the login of this browser to the command line that made the challenge.

    With the purpose `proof`, which takes a login at the provider within five minutes, the code
    makes no token: it shows that the owner of the command line's token is there
    (`POST /session/proof`).
    """
    services = get_services(request)
    if body.purpose == "proof":
        services.proofs.check_signed_on(principal)
    code = services.handover.offer(principal, body.challenge, body.purpose)
    return HandoverCode(code=code, expires_in_s=CODE_S)


@router.post("/tokens:handover", operation_id="take_handover", responses=responses(401, 422))
def take_handover(request: Request, body: HandoverLogin) -> TokenCreated:
    """Exchange a code of a browser for a token with the role of its user."""
    services = get_services(request)
    principal = services.handover.take(body.code, body.verifier)
    issued = services.auth.create_token(principal, body.name, principal.role, body.expires_in_s)
    return TokenCreated(
        token=issued.text, info=TokenInfo.model_validate(issued.row, from_attributes=True)
    )
