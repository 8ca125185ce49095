"""What the messages of every module are made of: their base, and fields with their bounds."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["Code", "Count", "JobId", "Message", "Nonce", "Reason", "Text", "Time"]

Time = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=1024)]
Code = Annotated[str, Meta(pattern=r"^[a-z0-9]+(\.[a-z0-9_]+){1,3}$", max_length=64)]
Nonce = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
"""128 random bits in hexadecimal."""
JobId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$")]


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all messages: immutable, keyword-only, defaults left out on the wire."""


class Reason(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Why something failed, was rejected or rolled back."""

    code: Code
    detail: Text
