"""Who signs what, what waits for signatures, and what needs attention."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from edgectl_server.schemas.base import Schema

__all__ = [
    "AlertInfo",
    "StagedInfo",
    "SubmitResult",
    "TrustInfo",
    "TrustKey",
    "TrustRole",
    "TrustSummary",
]


class TrustKey(Schema):
    """A key that signs for a role."""

    keyid: str
    name: str
    """Whose it is; may be empty."""
    scheme: str
    online: bool
    """The server can sign with it."""


class TrustRole(Schema):
    """A role. ``models`` stands for its bins too; ``orders`` has no version of its own."""

    name: str
    version: int | None
    expires: datetime | None
    threshold: int
    keys: list[TrustKey]
    online: bool
    """The server alone can sign it."""
    patterns: list[str]
    """Of a model family: the paths of its bundles."""
    targets: int
    """How many bundles it has signed for."""


class StagedInfo(Schema):
    """A change that waits."""

    role: str
    version: int
    expires: datetime
    summary: list[str]
    """What changes, in words."""
    signed_by: list[str]
    unsigned: list[TrustKey]
    """Who could sign."""
    missing: int
    """How many more signatures suffice; 0: it waits for other staged changes."""
    threshold: int


class AlertInfo(Schema):
    """What somebody should look at."""

    code: str
    severity: Literal["warning", "critical"]
    detail: str
    hint: str


class TrustInfo(Schema):
    """Everything."""

    roles: list[TrustRole]
    staged: list[StagedInfo]
    alerts: list[AlertInfo]
    """The critical ones first."""


class TrustSummary(Schema):
    """The SSE snapshot ``trust``."""

    staged: int
    """How many changes wait."""
    alerts: list[AlertInfo]


class SubmitResult(Schema):
    """What has become of a document that was signed elsewhere."""

    published: list[str]
    """Roles with a new version that devices see."""
    staged: list[StagedInfo]
    """What waits now."""
