"""Who may do what: a role for every route, checked in one place.

A route says its least role with `viewer`, `operator` or `admin` (``dependencies=[viewer]``), or
takes the principal with `Viewer`, `Operator`, `Admin` (``principal: Operator``); a route without
one is open, and a test holds the list of those. A request identifies itself by a bearer token, or
by the session cookie; with the cookie, changes need the header ``X-CSRF-Token``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

from edgectl_server.auth import ROLES, Principal
from edgectl_server.errors import Forbidden, Unauthorized
from edgectl_server.schemas import Role

if TYPE_CHECKING:
    from edgectl_server.services import Services

__all__ = [
    "SESSION_COOKIE",
    "Admin",
    "Operator",
    "Principal",
    "RoleCheck",
    "Viewer",
    "admin",
    "get_services",
    "is_still_allowed",
    "operator",
    "viewer",
]

SESSION_COOKIE = "edgectl_session"
CSRF_HEADER = "X-CSRF-Token"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})

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


class RoleCheck:
    """A dependency that lets a request pass when its principal has at least `role`."""

    def __init__(self, role: Role) -> None:
        self.role = role

    def __call__(
        self,
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None,
        cookie: Annotated[str | None, Security(_cookie)] = None,
    ) -> Principal:
        """Return the principal.

        Raises:
            Unauthorized: ``auth.required``.
            Forbidden: ``auth.role``, or ``auth.csrf``.
        """
        request.state.check_again = partial(self, request, bearer, cookie)
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
        if ROLES.index(principal.role) < ROLES.index(self.role):
            raise Forbidden(
                "auth.role",
                f"this needs the role {self.role}; {principal.user} has {principal.role}",
                hint=f"ask somebody with the role {self.role}",
            )
        return principal


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

Viewer = Annotated[Principal, viewer]
Operator = Annotated[Principal, operator]
Admin = Annotated[Principal, admin]
