"""Labels of devices, and selectors with a name."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct, field

__all__ = ["LabelRequest", "LabelResult", "SavedSelectorInfo", "SelectorOverlap"]


class LabelRequest(Struct, frozen=True):
    """``POST /devices/labels``: of these devices, or of those that a selector means."""

    devices: list[str] = field(default_factory=list)
    where: str = ""
    set: dict[str, str] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    expected: int | None = None


class LabelResult(Struct, frozen=True):
    """What has come of it."""

    matched: int
    changed: int


class SavedSelectorInfo(Struct, frozen=True):
    """Devices that have a name together."""

    name: str
    text: str
    devices: int
    changed_at: datetime
    changed_by: str


class SelectorOverlap(Struct, frozen=True):
    """Devices that a saved selector shares with another one, or with a group."""

    kind: str
    name: str
    devices: int
    of: int
