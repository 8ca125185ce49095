"""Who may do what: a role for every route and a scope for its tag, checked in one place.

A route says its least role with `viewer`, `operator` or `admin` (``dependencies=[viewer]``), or
takes the principal with `Viewer`, `Operator`, `Admin` (``principal: Operator``); a route without
one is open, and a test holds the list of those. Which scope a token needs for it, `SCOPE_OF_TAG`
says; the OpenAPI document shows both. A request identifies itself by a bearer token, or by the
session cookie; with the cookie, changes need the header ``X-CSRF-Token``. Over HTTPS the cookie is
``__Host-…``: only this host can have set it, and only over HTTPS (RFC 6265bis, 4.1.3.2).
What changes users asks for a proof besides (``dependencies=[admin, proved]``): a login alone, be it
stolen, is not enough for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Depends, Header, Request, Response, Security
from fastapi.security import APIKeyCookie, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

from edgectl_server.audit import describe
from edgectl_server.auth import ROLES, Principal
from edgectl_server.errors import Forbidden, Unauthorized
from edgectl_server.proofs import HEADER as PROOF_HEADER
from edgectl_server.schemas import Role, Scope

if TYPE_CHECKING:
    from edgectl_server.services import Services

__all__ = [
    "READING",
    "SCOPE_OF_TAG",
    "SECURE_SESSION_COOKIE",
    "SESSION_COOKIE",
    "Admin",
    "Operator",
    "Principal",
    "RoleCheck",
    "Viewer",
    "admin",
    "drop_session_cookie",
    "get_services",
    "give_session_cookie",
    "is_secure",
    "is_still_allowed",
    "operator",
    "proved",
    "scope_of",
    "session_cookie",
    "viewer",
]

SCOPE_OF_TAG: dict[str, tuple[Scope, Scope]] = {
    "session": ("read", "tokens"),
    "models": ("read", "models:write"),
    "jobs": ("read", "models:write"),
    "uploads": ("models:write", "models:write"),
    "devices": ("read", "devices:write"),
    "rollouts": ("read", "rollouts:write"),
    "security": ("read", "devices:write"),
    "samples": ("read", "devices:write"),
    "alerts": ("read", "devices:write"),
    "metrics": ("metrics", "admin"),
    "datasets": ("read", "models:write"),
    "retraining": ("read", "models:write"),
    "loops": ("read", "models:write"),
    "telemetry": ("read", "models:write"),
    "events": ("read", "admin"),
    "trust": ("read", "trust:write"),
    "audit": ("admin", "admin"),
}
"""Which scope reads and which one writes, by the tag of the route; of other tags: ``admin``."""

SESSION_COOKIE = "edgectl_session"
SECURE_SESSION_COOKIE = f"__Host-{SESSION_COOKIE}"
CSRF_HEADER = "X-CSRF-Token"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
READING = frozenset({"plan_rollout"})
"""Operations that change nothing though they are sent as a change is."""

_bearer = HTTPBearer(
    auto_error=False, scheme_name="token", description="`Bearer edgectl_<id>_<secret>`"
)
_cookie = APIKeyCookie(
    name=SESSION_COOKIE,
    auto_error=False,
    scheme_name="session",
    description=f"Browsers; changes need the header `{CSRF_HEADER}` too.",
)


def get_services(request: Request) -> Services:
    """Return the services of the running server."""
    return cast("Services", request.app.state.services)


def is_secure(request: Request) -> bool:
    """Say whether the browser reaches us by HTTPS, be it through a proxy."""
    public = get_services(request).settings.public_url
    return request.url.scheme == "https" or public.startswith("https:")


def session_cookie(request: Request) -> str | None:
    """Return the session cookie that was sent, None without one."""
    name = SECURE_SESSION_COOKIE if is_secure(request) else SESSION_COOKIE
    return request.cookies.get(name)


def give_session_cookie(request: Request, response: Response, cookie: str) -> None:
    """Have the browser keep a session's cookie: not for scripts, not for other sites' requests."""
    secure = is_secure(request)
    response.set_cookie(
        SECURE_SESSION_COOKIE if secure else SESSION_COOKIE,
        cookie,
        max_age=get_services(request).settings.session_s,
        path="/",
        httponly=True,
        samesite="strict",
        secure=secure,
    )


def drop_session_cookie(request: Request, response: Response) -> None:
    """Have the browser forget it."""
    secure = is_secure(request)
    response.delete_cookie(
        SECURE_SESSION_COOKIE if secure else SESSION_COOKIE,
        path="/",
        httponly=True,
        samesite="strict",
        secure=secure,
    )


def scope_of(tags: Sequence[Any], method: str, operation: str | None) -> Scope:
    """Return the scope that a token needs for the `operation` of a route with `tags`."""
    reads, writes = SCOPE_OF_TAG.get(str(tags[0]) if tags else "", ("admin", "admin"))
    return reads if method in _READS or operation in READING else writes


class RoleCheck:
    """Lets a request pass when its principal has at least `role`, and its token the scope."""

    def __init__(self, role: Role) -> None:
        self.role = role

    def __call__(
        self,
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None,
        _sent: Annotated[str | None, Security(_cookie)] = None,
    ) -> Principal:
        """Return the principal.

        Raises:
            Unauthorized: ``auth.required``.
            Forbidden: ``auth.role``, ``auth.scope`` or ``auth.csrf``.
        """
        request.state.check_again = partial(self, request, bearer)
        request.state.guarded = True
        cookie = session_cookie(request)
        auth = get_services(request).auth
        if bearer is not None or "authorization" in request.headers:
            principal = auth.principal_of_token(bearer.credentials if bearer is not None else "")
        elif cookie is not None:
            csrf = None if request.method in _READS else request.headers.get(CSRF_HEADER, "")
            principal = auth.principal_of_session(cookie, csrf=csrf)
        else:
            principal = None
        if principal is None:
            raise Unauthorized(
                "auth.required",
                "this needs a login, and the one that was sent is missing, wrong or expired",
                hint="log in on the page, or with `edgectl login`",
            )
        describe(actor=principal.user, via=principal.via)
        if ROLES.index(principal.role) < ROLES.index(self.role):
            raise Forbidden(
                "auth.role",
                f"this needs the role {self.role}; {principal.user} has {principal.role}",
                hint=f"ask somebody with the role {self.role}",
            )
        route = request.scope["route"]
        operation = getattr(route, "operation_id", None)
        needed = scope_of(getattr(route, "tags", ()), request.method, operation)
        if principal.scopes is not None and needed not in principal.scopes:
            raise Forbidden(
                "auth.scope",
                f"this needs a token with the scope {needed}; "
                f"this one has: {', '.join(sorted(principal.scopes))}",
                hint=f"make one with `edgectl tokens create NAME --scope {needed}`",
            )
        request.state.principal = principal
        return principal


def _check_proof(
    request: Request,
    proof: Annotated[
        str,
        Header(
            alias=PROOF_HEADER,
            description="From `POST /session/proof`: the own password was given again.",
        ),
    ] = "",
) -> None:
    get_services(request).proofs.check(request.state.principal, proof)


def is_still_allowed(request: Request) -> bool:
    """Say whether a request that was let pass would be now; for answers that take long."""
    try:
        request.state.check_again()
    except (Unauthorized, Forbidden):
        return False
    return True


viewer = Depends(RoleCheck("viewer"))
operator = Depends(RoleCheck("operator"))
admin = Depends(RoleCheck("admin"))
proved = Depends(_check_proof)
"""After a role: whoever asks has shown again to be the owner of the login."""

Viewer = Annotated[Principal, viewer]
Operator = Annotated[Principal, operator]
Admin = Annotated[Principal, admin]
