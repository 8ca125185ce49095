"""What supervisor and verifying process say to each other, over a pair of sockets.

A frame is its length, four bytes, big-endian, and that many bytes of MessagePack. Either side hangs
up on a frame that is too long, or is none of those it expects: the process parses hostile bytes,
and the supervisor believes no more of it than it must.

::

    supervisor                        process
        │ ── Begin ─────────────────▶ │   once
        │ ◀───────────────── Ready ── │
        │ ── Find | CheckOrder | … ─▶ │   `Question`
        │ ◀────────────────── Want ── │   as often as metadata is needed, at most `WANTS_MAX`
        │ ── Given ─────────────────▶ │
        │ ◀── Found | Good | Failed ─ │
"""

from __future__ import annotations

import socket
import time
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from edgectl_agent.core.record import Floor
from edgectl_protocol.messages import MESSAGE_BYTES_MAX

__all__ = [
    "FRAME_BYTES_MAX",
    "WANTS_MAX",
    "Answer",
    "Begin",
    "CheckOrder",
    "CheckRequest",
    "Failed",
    "Find",
    "Found",
    "Given",
    "Good",
    "Question",
    "Ready",
    "Want",
    "receive",
    "send",
]

FRAME_BYTES_MAX = MESSAGE_BYTES_MAX + 4096
WANTS_MAX = 320
"""Files of one question: 256 roots, 33 roles of targets, and the rest."""
_Text = Annotated[str, Meta(max_length=4096)]
_Name = Annotated[str, Meta(max_length=256)]
_Version = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Begin(Struct, frozen=True, tag=True):
    """Where the cache is, and the root that came with the enrolment."""

    directory: _Text
    bootstrap: bytes


class Ready(Struct, frozen=True, tag=True):
    """The process takes questions; `unconfined` are the means that this kernel does not give."""

    unconfined: tuple[_Name, ...] = ()


class Find(Struct, frozen=True, tag=True):
    """As `Verifier.find`."""

    target: _Text
    manifest: _Text
    floor: Floor


class CheckOrder(Struct, frozen=True, tag=True):
    """As `Verifier.check_order`."""

    payload: bytes


class CheckRequest(Struct, frozen=True, tag=True):
    """As `Verifier.check_request`."""

    payload: bytes


class Want(Struct, frozen=True, tag=True):
    """A metadata file is needed; without `role` it is the hint at the newest root."""

    role: _Name | None = None
    version: _Version | None = None


class Given(Struct, frozen=True, tag=True):
    """What the topic holds; None when nothing has come."""

    content: bytes | None = None


class Found(Struct, frozen=True, tag=True):
    """The answer to `Find`."""

    root: _Version
    timestamp: _Version
    snapshot: _Version


class Good(Struct, frozen=True, tag=True):
    """The answer to `CheckOrder` and `CheckRequest`, as of `Checked`."""

    payload: bytes
    key: _Name
    keys: Annotated[tuple[_Name, ...], Meta(max_length=16)]
    payload_type: _Name


class Failed(Struct, frozen=True, tag=True):
    """An error of the verifier, by its kind; with `error_number` one of the disk."""

    kind: Literal["failed", "rejected", "refused", "disk"]
    code: _Name = ""
    detail: _Text = ""
    hint: _Text = ""
    error_number: int = 0


Question = Find | CheckOrder | CheckRequest
Answer = Found | Good | Failed


def send(channel: socket.socket, frame: Struct, timeout_s: float | None = None) -> None:
    """Send one frame; raise `OSError` when nobody listens any more, or takes it in time."""
    channel.settimeout(timeout_s)
    content = msgspec.msgpack.encode(frame)
    channel.sendall(len(content).to_bytes(4, "big") + content)


def receive(channel: socket.socket, kind: Any, deadline_s: float | None = None) -> Any:
    """Return the next frame, of the type or union `kind`; None at the end.

    Args:
        channel: where it comes from.
        kind: what is expected.
        deadline_s: on the monotonic clock; None to wait without end.

    Raises:
        OSError: the channel, also `TimeoutError`.
        ValueError: not a frame of `kind`.
    """
    channel.settimeout(None)
    head = _read(channel, 4, deadline_s)
    if head is None:
        return None
    length = int.from_bytes(head, "big")
    if length > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {length} bytes")
    content = _read(channel, length, deadline_s)
    if content is None:
        raise ValueError("a frame that was cut short")
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("not a frame that is expected here") from error


def _read(channel: socket.socket, length: int, deadline_s: float | None) -> bytes | None:
    content = bytearray()
    while len(content) < length:
        if deadline_s is not None:
            channel.settimeout(max(0.001, deadline_s - time.monotonic()))
        part = channel.recv(min(65536, length - len(content)))
        if not part:
            if content:
                raise ValueError("a frame that was cut short")
            return None
        content += part
    return bytes(content)
