"""Who signs what, what waits for signatures, what needs attention."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

__all__ = [
    "AlertInfo",
    "StagedInfo",
    "SubmitResult",
    "TrustInfo",
    "TrustKey",
    "TrustRole",
]


class TrustKey(Struct, frozen=True):
    """A key that signs for a role."""

    keyid: str
    name: str
    scheme: str
    online: bool


class TrustRole(Struct, frozen=True):
    """A role of the signed metadata."""

    name: str
    version: int | None
    expires: datetime | None
    threshold: int
    keys: list[TrustKey]
    online: bool
    patterns: list[str]
    targets: int


class StagedInfo(Struct, frozen=True):
    """A change that waits for signatures."""

    role: str
    version: int
    expires: datetime
    summary: list[str]
    signed_by: list[str]
    unsigned: list[TrustKey]
    missing: int
    threshold: int


class AlertInfo(Struct, frozen=True):
    """What somebody should look at."""

    code: str
    severity: str
    detail: str
    hint: str


class TrustInfo(Struct, frozen=True):
    """Who signs what, what waits, what needs attention."""

    roles: list[TrustRole]
    staged: list[StagedInfo]
    alerts: list[AlertInfo]


class SubmitResult(Struct, frozen=True):
    """What has become of a document that was signed elsewhere."""

    published: list[str]
    staged: list[StagedInfo]
