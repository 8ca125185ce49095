"""Who may do what, and what was done."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct

__all__ = [
    "AuditEntryInfo",
    "AuditState",
    "Me",
    "ProofGiven",
    "TokenCreated",
    "TokenInfo",
    "UserCreated",
    "UserInfo",
]


class Me(Struct, frozen=True):
    """Who is asking."""

    user: str
    role: str
    scopes: tuple[str, ...] = ()
    csrf: str | None = None


class TokenInfo(Struct, frozen=True):
    """An API token without its secret."""

    id: str
    name: str
    user: str
    role: str
    scopes: tuple[str, ...]
    made_by: str | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class TokenCreated(Struct, frozen=True):
    """The only time that the token itself is shown."""

    token: str
    info: TokenInfo


class UserInfo(Struct, frozen=True):
    """Somebody who may log in."""

    name: str
    role: str
    by: str
    created_at: datetime
    last_login_at: datetime | None
    sessions: int
    tokens: int
    disabled_at: datetime | None = None


class UserCreated(Struct, frozen=True):
    """The only time that the password is shown."""

    user: UserInfo
    password: str


class ProofGiven(Struct, frozen=True):
    """That the owner of a token is there."""

    proof: str
    expires_at: datetime


class AuditEntryInfo(Struct, frozen=True):
    """What somebody did; `edgectl_protocol.audit.AuditEntry` says more."""

    number: int
    at: datetime
    actor: str
    via: str
    address: str
    action: str
    object: str
    outcome: str
    details: dict[str, Any]
    previous: str
    hash: str


class AuditState(Struct, frozen=True):
    """How far the audit log goes, and how far it is vouched for."""

    number: int
    hash: str
    key: str
    anchored: int
    alarm: str
