"""The supervisor's handle on the inference process."""

from __future__ import annotations

from pathlib import Path

from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.errors import InferenceDown, LoadFailed
from edgectl_protocol.messages import InferenceWindow
from msgspec import Struct

__all__ = ["InferenceDown", "InferenceProcess", "LoadFailed", "SlotHealth"]


class SlotHealth(Struct, frozen=True, kw_only=True):
    """Counts of what serves in a slot, since it was loaded."""

    manifest: str
    requests: int
    errors: int
    non_finite: int


class InferenceProcess:
    """Starts, commands and stops the child; safe to call from several threads."""

    endpoint: str

    def __init__(
        self, *, host: str, port: int, socket: Path | None, log: Path | None = None
    ) -> None:
        raise NotImplementedError

    def start(self, timeout_s: float = 30) -> None:
        raise NotImplementedError

    def load(self, bundle: Bundle, timeout_s: float = 60) -> float:
        raise NotImplementedError

    def unload(self, slot: str) -> None:
        raise NotImplementedError

    def health(self, slot: str) -> SlotHealth:
        raise NotImplementedError

    def windows(self) -> tuple[InferenceWindow, ...]:
        raise NotImplementedError

    def alive(self) -> bool:
        raise NotImplementedError

    def rss_bytes(self) -> int:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError
