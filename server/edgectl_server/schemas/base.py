"""What all of them share: names, pages, errors."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "DeviceIdStr",
    "DigestStr",
    "GroupStr",
    "ModelNameStr",
    "ModelVersionStr",
    "Page",
    "Problem",
    "Role",
    "Schema",
    "Scope",
    "Sha256",
    "VersionStr",
]

Role = Literal["viewer", "operator", "admin"]
Scope = Literal[
    "read",
    "metrics",
    "tokens",
    "models:write",
    "rollouts:write",
    "devices:write",
    "trust:write",
    "admin",
]
"""What a token is for; it never may more than the role of its user."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
DigestStr = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
ModelNameStr = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
VersionStr = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
ModelVersionStr = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}@[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")
]
GroupStr = Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9._-]{0,63})?$")]
"""Name of a group; empty: none."""
DeviceIdStr = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class Schema(BaseModel):
    """Unknown fields in a request are refused, so that a stale client is noticed."""

    model_config = ConfigDict(extra="forbid")


Item = TypeVar("Item")


class Page(Schema, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    total: int


class Problem(Schema):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    hint: str = ""
    """What to do next."""
    request_id: str = ""
    errors: list[dict[str, Any]] = []
    """One entry a wrong field."""
    data: dict[str, Any] = {}
