"""Labels of devices, and selectors with a name."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from edgectl_server.schemas.base import DeviceIdStr, Schema

__all__ = [
    "LABELS_MAX",
    "LabelRequest",
    "LabelResult",
    "SavedSelectorInfo",
    "SavedSelectorRequest",
    "SelectorNameStr",
    "SelectorOverlap",
    "SelectorText",
]

LABELS_MAX = 32
_TAKEN = frozenset(
    {
        *("agent", "class", "cpu", "desired", "device", "feature", "group", "machine", "os"),
        *("failing", "held", "online", "overdue", "security", "updating"),
        *("cores", "free_disk_mb", "memory_mb"),
        *("runs", "runtime", "and", "or", "not", "in", "reported"),
    }
)
"""Fields and words of selectors."""


def _check_free(name: str) -> str:
    if name in _TAKEN:
        raise ValueError(f"{name} means something in selectors: choose another name")
    return name


LabelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$"), AfterValidator(_check_free)]
LabelValue = Annotated[str, Field(pattern=r"^-?[A-Za-z0-9][A-Za-z0-9._:+/-]{0,62}$")]
SelectorText = Annotated[str, Field(max_length=1024)]
"""Such as ``site=porto and not tag=demo``; empty: none."""
SelectorNameStr = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class LabelRequest(Schema):
    """``POST /devices/labels``: of these devices, or of those that a selector means."""

    devices: list[DeviceIdStr] = Field(default=[], max_length=1000)
    where: SelectorText = ""
    set: dict[LabelName, LabelValue] = Field(default={}, max_length=LABELS_MAX)
    remove: list[LabelName] = Field(default=[], max_length=LABELS_MAX)
    expected: int | None = Field(default=None, ge=0)
    """How many devices it was said to be for; if it is another number by now, it is refused."""


class LabelResult(Schema):
    """What has come of it."""

    matched: int
    changed: int


class SavedSelectorRequest(Schema):
    """``PUT /selectors/{name}``."""

    text: Annotated[str, Field(min_length=1, max_length=1024)]


class SavedSelectorInfo(Schema):
    """Devices that have a name together."""

    name: str
    text: str
    devices: int
    """How many it means now."""
    changed_at: datetime
    changed_by: str


class SelectorOverlap(Schema):
    """Devices that a saved selector shares with another one, or with a group."""

    kind: Literal["selector", "group"]
    name: str
    devices: int
    """How many are in both now."""
    of: int
    """How many are in the other one."""
