"""The audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from edgectl_server.schemas.base import Schema

__all__ = ["AuditEntryInfo", "AuditState"]


class AuditEntryInfo(Schema):
    """What somebody did; `edgectl_protocol.audit.AuditEntry` says more."""

    number: int
    at: datetime
    actor: str
    via: str
    address: str
    action: str
    object: str
    outcome: Literal["done", "refused", "failed"]
    details: dict[str, Any]
    previous: str
    hash: str


class AuditState(Schema):
    """``GET /audit/state``: the newest row, and what vouches for it."""

    number: int
    hash: str
    key: str
    """With which heads are signed now: raw Ed25519, hexadecimal."""
    anchored: int
    """The newest row that a signed head outside of the database vouches for."""
    alarm: str
    """What does not fit between the two; empty: nothing is known."""
