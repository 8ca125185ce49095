"""Logging in, and tokens."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from edgectl_server.schemas.base import Role, Schema

__all__ = ["LoginRequest", "Me", "TokenCreated", "TokenInfo", "TokenRequest"]


class LoginRequest(Schema):
    """``POST /session`` (browser: cookie) and ``POST /tokens:login`` (CLI: bearer token)."""

    username: str
    password: str


class Me(Schema):
    """Who is asking. `csrf` must be sent back as ``X-CSRF-Token`` with every change by cookie."""

    user: str
    role: Role
    csrf: str | None = None


class TokenRequest(Schema):
    """``POST /tokens``."""

    name: str = Field(min_length=1, max_length=128)
    role: Role = "operator"
    expires_in_s: int | None = Field(default=None, ge=60)


class TokenInfo(Schema):
    """An API token without its secret."""

    id: str
    name: str
    user: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class TokenCreated(Schema):
    """The only time that the token itself is shown."""

    token: str
    info: TokenInfo
