"""What every answer may be made of, and what the server says of itself."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from msgspec import Struct, field

__all__ = [
    "Page",
    "Problem",
    "ReadyInfo",
    "VersionInfo",
]

Item = TypeVar("Item")


class Page(Struct, Generic[Item], frozen=True):
    """One page of a list."""

    items: list[Item]
    total: int


class Problem(Struct, frozen=True, kw_only=True):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    hint: str = ""
    request_id: str = ""
    errors: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


class VersionInfo(Struct, frozen=True):
    """``GET /version``."""

    version: str
    api: str = "v1"
    ui: bool = False


class ReadyInfo(Struct, frozen=True):
    """``GET /health/ready``: `checks` says ``ok`` or what is wrong."""

    ready: bool
    checks: dict[str, str]
