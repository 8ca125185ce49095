"""People, their sessions and tokens, and the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ForeignKey,
    String,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from edgectl_server.storage.tables.base import Base

__all__ = [
    "ApiToken",
    "AuditEntryRow",
    "AuditHeadRow",
    "LoginSession",
    "OpenIdPerson",
    "User",
]


class User(Base):
    """A person who may log in."""

    __tablename__ = "user_account"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    password_hash: Mapped[str] = mapped_column(String(256))  # argon2id; empty: has no password
    role: Mapped[str] = mapped_column(String(16))  # viewer, operator, admin
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]  # since then, nothing of theirs opens anything


class OpenIdPerson(Base):
    """Whom a user from an OpenID provider is: the pair of issuer and subject, and nothing else."""

    __tablename__ = "openid_person"
    issuer: Mapped[str] = mapped_column(String(255), primary_key=True)
    subject: Mapped[str] = mapped_column(String(255), primary_key=True)
    user: Mapped[str] = mapped_column(
        ForeignKey("user_account.name", ondelete="CASCADE"), unique=True
    )
    claimed: Mapped[list[Any]]  # values of the roles claim that gave the role
    last_login_at: Mapped[datetime]


class ApiToken(Base):
    """A bearer token; only the SHA-256 of its secret is kept."""

    __tablename__ = "api_token"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user: Mapped[str] = mapped_column(ForeignKey("user_account.name", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(128))
    role: Mapped[str] = mapped_column(String(16))
    scopes: Mapped[list[Any]]  # of edgectl_server.schemas.Scope
    made_by: Mapped[str | None] = mapped_column(  # the token it was made with, and goes with
        ForeignKey("api_token.id", ondelete="CASCADE"), index=True
    )
    secret_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class LoginSession(Base):
    """A browser's session; the cookie holds the secret, the row its SHA-256."""

    __tablename__ = "login_session"
    secret_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    user: Mapped[str] = mapped_column(ForeignKey("user_account.name", ondelete="CASCADE"))
    csrf: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    authenticated_at: Mapped[datetime | None]  # single sign-on: the provider was made to ask again


class LoginProof(Base):
    """Whoever uses a login has just shown again to be its owner; see `edgectl_server.proofs`."""

    __tablename__ = "login_proof"
    secret_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    user: Mapped[str] = mapped_column(
        ForeignKey("user_account.name", ondelete="CASCADE"), index=True
    )
    via: Mapped[str] = mapped_column(String(64))  # the session or token, as the audit log names it
    expires_at: Mapped[datetime]


class AuditEntryRow(Base):
    """What somebody did; see `edgectl_protocol.audit`. Triggers refuse changes and deletions."""

    __tablename__ = "audit_entry"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[str] = mapped_column(String(32))  # text, as it was hashed
    actor: Mapped[str] = mapped_column(String(128), index=True)
    via: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    object: Mapped[str] = mapped_column(String(256))
    outcome: Mapped[str] = mapped_column(String(16))
    details: Mapped[str] = mapped_column(Text)  # canonical JSON, as it was hashed
    previous: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class AuditHeadRow(Base):
    """The newest row, and the lock that puts writers in order; there is one row, number 1."""

    __tablename__ = "audit_head"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int]
    hash: Mapped[str] = mapped_column(String(64))
