"""What supervisor and sample process say to each other, over its standard input and output.

A frame is two lengths, four bytes each, big-endian, then so much JSON and so much raw content.
Either side ends on one that is longer than it may be. One `Begin`; then a `Task` and its `Outcome`,
one after the other.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeVar

import msgspec
from msgspec import Struct

from edgectl_protocol.samples import SAMPLE_BYTES_MAX, SampleKey
from edgectl_protocol.sealed_samples import SEALED_SAMPLE_BYTES_MAX

__all__ = ["MARK", "Begin", "Outcome", "Task", "frame", "read_frame"]

MARK = "EDGECTL_REDACTION_RUN"
"""In the environment of all that the process starts, so that it can be found."""
_LENGTHS = struct.Struct(">II")
_JSON_BYTES_MAX = 64 * 1024
_CONTENT_BYTES_MAX = max(SAMPLE_BYTES_MAX, SEALED_SAMPLE_BYTES_MAX)
T = TypeVar("T")


class Begin(Struct, frozen=True, kw_only=True):
    """How samples are redacted; as the settings say."""

    device: str
    hidden: str
    """The state directory, of which the process must see nothing."""
    steps: str
    command: tuple[str, ...]
    timeout_s: float
    memory_bytes_max: int


class Task(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A sample, which is the content of the frame."""

    key: SampleKey | None = None
    """To which it is sealed; None: not at all."""


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What has become of it: the content of the frame is what may be written; none with a code."""

    code: str = ""
    detail: str = ""
    unconfined: tuple[str, ...] = ()
    """Means that this kernel does not give."""


def frame(message: Struct, content: bytes = b"") -> bytes:
    """Return a message as it travels."""
    encoded = msgspec.json.encode(message)
    return _LENGTHS.pack(len(encoded), len(content)) + encoded + content


def read_frame(read: Callable[[int], bytes], kind: type[T]) -> tuple[T, bytes] | None:
    """Return the next message and its content; None: the stream has ended.

    Args:
        read: returns exactly so many bytes, fewer only at the end of the stream.
        kind: what is expected.

    Raises:
        ValueError: it is none of that kind, or too long; also as `msgspec.MsgspecError`.
        EOFError: the stream ends within it.
    """
    head = read(_LENGTHS.size)
    if not head:
        return None
    if len(head) < _LENGTHS.size:
        raise EOFError("the stream ends within a frame")
    lengths = _LENGTHS.unpack(head)
    if lengths[0] > _JSON_BYTES_MAX or lengths[1] > _CONTENT_BYTES_MAX:
        raise ValueError(f"a frame of {lengths} bytes")
    encoded, content = read(lengths[0]), read(lengths[1])
    if (len(encoded), len(content)) != lengths:
        raise EOFError("the stream ends within a frame")
    return msgspec.json.decode(encoded, type=kind), content
