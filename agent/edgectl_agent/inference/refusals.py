"""Why a request gets no outputs, in words that every transport translates into its own codes."""

from __future__ import annotations

from enum import Enum

__all__ = ["Kind", "Refused"]


class Kind(Enum):
    """Whose turn it is to do something about it."""

    INVALID = "invalid"
    """Outside the protocol or the model's contract: the author of the request."""
    UNKNOWN = "unknown"
    """No such model, version or region: the author of the request."""
    FAILED = "failed"
    """The model failed on this input, which counts against the model."""
    FULL = "full"
    """The queue, or the client's share of it: the client asks again, and less often."""
    BUSY = "busy"
    """Not now, and not because of this client: it asks again."""
    FORBIDDEN = "forbidden"
    """Not by this way: a person, with another tool."""


class Refused(Exception):
    """The request gets no outputs; the message is for its author."""

    def __init__(self, sentence: str, kind: Kind = Kind.INVALID) -> None:
        super().__init__(sentence)
        self.kind = kind
