"""What the device has to say and the server has not yet acknowledged, on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

__all__ = ["Spool", "Spooled"]


class Spooled(Struct, frozen=True, kw_only=True):
    """One message that waits for its acknowledgement."""

    kind: Literal["event", "telemetry"]
    boot: int
    seq: int
    payload: bytes


class Spool:
    """A durable queue within a byte budget."""

    def __init__(self, directory: Path, *, bytes_max: int, boot: int) -> None:
        raise NotImplementedError

    def put(self, kind: Literal["event", "telemetry"], make: Callable[[int], Any]) -> int:
        raise NotImplementedError

    def pending(self, limit: int = 32) -> list[Spooled]:
        raise NotImplementedError

    def acknowledge(self, boot: int, seq: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
