"""Logging in, and tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from edgectl_server.schemas.base import Role, Schema, Scope

__all__ = [
    "HandoverCode",
    "HandoverLogin",
    "HandoverProof",
    "HandoverRequest",
    "LoginRequest",
    "Me",
    "OwnPasswordRequest",
    "ProofGiven",
    "ProofRequest",
    "SignOnInfo",
    "TokenCreated",
    "TokenInfo",
    "TokenRequest",
    "UserChange",
    "UserCreated",
    "UserInfo",
    "UserRequest",
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
    purpose: Literal["login", "proof"] = "login"
    """What the code is good for: a token, or a proof for the token that the command line has."""


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


class HandoverProof(Schema):
    """What the command line has of a browser whose owner has just logged in again."""

    code: str = Field(min_length=1, max_length=128)
    verifier: str = Field(pattern=r"^[A-Za-z0-9_-]{43,128}$")


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


class UserInfo(Schema):
    """Somebody who may log in."""

    name: str
    role: Role
    by: Literal["password", "sign-on"]
    """How they log in: with a password that this server knows, or by single sign-on."""
    created_at: datetime
    last_login_at: datetime | None
    """By single sign-on, or of the newest session that has not ended."""
    sessions: int
    """Logins of browsers that have not ended."""
    tokens: int
    disabled_at: datetime | None
    """Since then, neither password, session nor token opens anything; None: may log in."""


class ProofRequest(Schema):
    """``POST /session/proof``: the own password; none after a login at the provider."""

    password: str | None = Field(default=None, max_length=1024)
    handover: HandoverProof | None = None
    """In place of a password: a code of a browser in which that login was."""


class ProofGiven(Schema):
    """The only time that the proof is shown; it goes into the header ``X-Edgectl-Proof``."""

    proof: str
    expires_at: datetime


class UserRequest(Schema):
    """``POST /users``."""

    name: str = Field(min_length=1, max_length=64)
    role: Role = "viewer"


class UserChange(Schema):
    """``PATCH /users/{user}``: what is left out stays as it is."""

    role: Role | None = None
    disabled: bool | None = None


class UserCreated(Schema):
    """The only time that the password is shown."""

    user: UserInfo
    password: str


class OwnPasswordRequest(Schema):
    """``PUT /me/password``."""

    password: str = Field(max_length=1024)
