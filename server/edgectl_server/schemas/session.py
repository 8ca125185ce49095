"""Logging in, and tokens."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from edgectl_server.schemas.base import Role, Schema, Scope

__all__ = [
    "HandoverCode",
    "HandoverLogin",
    "HandoverRequest",
    "LoginRequest",
    "Me",
    "SignOnInfo",
    "TokenCreated",
    "TokenInfo",
    "TokenRequest",
]


class LoginRequest(Schema):
    """``POST /session`` (browser: cookie) and ``POST /tokens:login`` (CLI: bearer token)."""

    username: str
    password: str


class Me(Schema):
    """Who is asking. `csrf` must be sent back as ``X-CSRF-Token`` with every change by cookie."""

    user: str
    role: Role
    scopes: list[Scope]
    csrf: str | None = None


class SignOnInfo(Schema):
    """``GET /openid``: what the login page shows of single sign-on."""

    enabled: bool
    name: str = ""
    """After "Log in with"."""
    available: bool = False
    """The provider answers."""
    logout_url: str = ""
    """Where the provider ends its own session; empty when it does not offer that."""


class HandoverRequest(Schema):
    """``POST /handover``: a person gives the login of the browser to a command line."""

    challenge: str = Field(pattern=r"^[A-Za-z0-9_-]{43}$")
    """BASE64URL of the SHA-256 of the command line's verifier (RFC 7636, S256)."""


class HandoverCode(Schema):
    """A code that is shown once, for the command line alone."""

    code: str
    expires_in_s: int


class HandoverLogin(Schema):
    """``POST /tokens:handover``: the command line takes the login."""

    code: str = Field(min_length=1, max_length=128)
    verifier: str = Field(pattern=r"^[A-Za-z0-9_-]{43,128}$")
    name: str = Field(default="login", min_length=1, max_length=128)
    expires_in_s: int | None = Field(default=None, ge=60)


class TokenRequest(Schema):
    """``POST /tokens``."""

    name: str = Field(min_length=1, max_length=128)
    role: Role | None = None
    """At most the own; left out, the least that `scopes` need."""
    scopes: list[Scope] | None = Field(default=None, min_length=1, max_length=16)
    """Left out: everything that the role may. A scope that writes brings ``read`` with it."""
    expires_in_s: int | None = Field(default=None, ge=60)


class TokenInfo(Schema):
    """An API token without its secret."""

    id: str
    name: str
    user: str
    role: Role
    scopes: list[Scope]
    made_by: str | None
    """The token with which it was made, and with which it is deleted."""
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class TokenCreated(Schema):
    """The only time that the token itself is shown."""

    token: str
    info: TokenInfo
