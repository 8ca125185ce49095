"""Samples: single inputs and answers of a model that leave a device, where somebody has said so.

What `edgectl_protocol.watching` sends are counts; a sample is the raw thing. So it is off until the
server's `SamplePolicy` for that very model comes in a signed order, and a device's own setting wins
over that.

A sample is one file of the safetensors layout, which numpy reads without running anything: eight
bytes, little-endian, length of the header; the header, JSON; then the elements of all tensors, one
after the other, little-endian, in the order of their offsets. Tensors are named ``input.NAME`` and
``output.NAME``; ``__metadata__`` is the `SampleNote`. Source: the format's description in
huggingface/safetensors. What is checked here needs no numpy: `read_sample_head` proves that names,
datatypes, sizes and offsets fit one another and the length of the file to the byte.

Where a policy has a key, what leaves the device is that file sealed to it
(`edgectl_protocol.sealed_samples`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from edgectl_protocol.errors import LimitExceeded, MalformedMessage
from edgectl_protocol.fields import Message, Time
from edgectl_protocol.names import Digest, ModelName, Version

__all__ = [
    "SAMPLE_BYTES_MAX",
    "SAMPLE_HEAD_BYTES_MAX",
    "SAMPLE_MEDIA_TYPE",
    "SAMPLE_REASONS",
    "RequestName",
    "SampleHead",
    "SampleKey",
    "SampleNote",
    "SampleParts",
    "SamplePolicy",
    "SampleReason",
    "SampleTensor",
    "encode_sample",
    "read_sample_head",
    "read_sample_parts",
    "sample_datatype",
]

SAMPLE_MEDIA_TYPE = "application/vnd.edgectl.sample.v1+safetensors"
SAMPLE_BYTES_MAX = 8 * 1024**2
"""Of a whole file; an image of 640 x 640 in three channels of FP32 has 4.7 MiB."""
SAMPLE_HEAD_BYTES_MAX = 64 * 1024
"""Of the length and the header together."""
TENSORS_MAX = 64
BYTES_PER_DAY_MAX = 1024**3
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_DATATYPES = {
    "BOOL": "BOOL", "UINT8": "U8", "UINT16": "U16", "UINT32": "U32", "UINT64": "U64",
    "INT8": "I8", "INT16": "I16", "INT32": "I32", "INT64": "I64",
    "FP16": "F16", "FP32": "F32", "FP64": "F64",
}  # fmt: skip
"""Names of the Open Inference Protocol, and of safetensors; texts (BYTES) are in no sample."""
_ELEMENT_BYTES = {
    "BOOL": 1, "U8": 1, "U16": 2, "U32": 4, "U64": 8, "I8": 1, "I16": 2, "I32": 4, "I64": 8,
    "F16": 2, "F32": 4, "F64": 8,
}  # fmt: skip

SampleReason = Literal["uncertain", "out-of-reference", "disagreeing", "diverse", "random", "asked"]
SAMPLE_REASONS: tuple[SampleReason, ...] = (
    "uncertain",
    "out-of-reference",
    "disagreeing",
    "diverse",
    "random",
    "asked",
)
RequestName = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{0,64}$")]
"""How an application names a request; empty: it does not."""
SampleKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""A public key of X25519 (RFC 7748); base64 on the wire."""
T = TypeVar("T")
_Size = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Offset = Annotated[int, Meta(ge=0, le=SAMPLE_BYTES_MAX)]


class SampleNote(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What a sample is of, and why it was taken; also the metadata in its file."""

    model: ModelName
    version: Version
    manifest: Digest
    reason: SampleReason
    taken_at: Time
    request: RequestName = ""
    """As the application has named it, with the number of the row where it had more than one."""
    redacted: Literal["", "yes"] = ""
    """The device's owner has had it changed before anything was written; a text, as all that the
    layout's metadata may hold."""


class SamplePolicy(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What of one model may leave a device as it is; nothing, where nobody says otherwise."""

    bytes_per_day: Annotated[int, Meta(ge=0, le=BYTES_PER_DAY_MAX)] = 0
    """Of one device, in a day of UTC by its own clock; 0: nothing leaves."""
    reasons: Annotated[tuple[SampleReason, ...], Meta(max_length=len(SAMPLE_REASONS))] = ()
    """Why samples may be taken; empty: nothing leaves."""
    random_share: Annotated[float, Meta(ge=0, le=1)] = 0.2
    """Of all samples, those that are taken whatever was answered, for comparison."""
    key: SampleKey | None = None
    """Samples leave, and lie on the device, sealed to it; None: as they are."""

    @property
    def on(self) -> bool:
        """Whether anything may leave."""
        return self.bytes_per_day > 0 and bool(self.reasons)


class SampleTensor(NamedTuple):
    """One tensor of a sample."""

    name: str
    """``input.NAME`` or ``output.NAME``."""
    datatype: str
    """As safetensors names it."""
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """How many bytes its elements take."""
        return math.prod(self.shape) * _ELEMENT_BYTES[self.datatype]


class SampleHead(NamedTuple):
    """What a file says of itself."""

    note: SampleNote
    tensors: tuple[SampleTensor, ...]
    """In the order of their elements."""


class SampleParts(NamedTuple):
    """A file taken apart."""

    note: SampleNote | None
    """None: it says nothing of itself, or something else."""
    tensors: tuple[tuple[SampleTensor, bytes], ...]
    """With their elements, in the order that these lie in."""


class _Layout(NamedTuple):
    metadata: Raw
    tensors: tuple[SampleTensor, ...]
    begin: int
    """Of the elements."""


class _Entry(Struct, forbid_unknown_fields=True):
    dtype: str
    shape: Annotated[tuple[_Size, ...], Meta(max_length=8)]
    data_offsets: tuple[_Offset, _Offset]


def sample_datatype(datatype: str) -> str | None:
    """Return how safetensors names a datatype of a bundle; None where it cannot be in a sample."""
    return _DATATYPES.get(datatype)


def encode_sample(note: SampleNote, tensors: Sequence[tuple[SampleTensor, bytes]]) -> bytes:
    """Return the file.

    Args:
        note: what it is of.
        tensors: each with its elements, little-endian, the last axis fastest.

    Raises:
        LimitExceeded: it would be longer than `SAMPLE_BYTES_MAX`, or its header too long.
    """
    header: dict[str, object] = {_METADATA: note}
    end = 0
    for tensor, content in tensors:
        begin, end = end, end + len(content)
        header[tensor.name] = {
            "dtype": tensor.datatype,
            "shape": tensor.shape,
            "data_offsets": (begin, end),
        }
    encoded = msgspec.json.encode(header)
    encoded += b" " * (-len(encoded) % 8)  # so that elements lie where they can be read in place
    whole = _LENGTH_BYTES + len(encoded) + end
    if _LENGTH_BYTES + len(encoded) > SAMPLE_HEAD_BYTES_MAX or whole > SAMPLE_BYTES_MAX:
        raise LimitExceeded(f"a sample of {whole} bytes, at most {SAMPLE_BYTES_MAX}")
    length = len(encoded).to_bytes(_LENGTH_BYTES, "little")
    return b"".join((length, encoded, *(content for _, content in tensors)))


def read_sample_head(content: bytes, length: int) -> SampleHead:
    """Check a file by its beginning and its length; raise what is wrong.

    Args:
        content: its first `SAMPLE_HEAD_BYTES_MAX` bytes, or all that it has.
        length: of the whole file.

    Raises:
        LimitExceeded: longer than `SAMPLE_BYTES_MAX`, a longer header, or too many tensors.
        MalformedMessage: not such a file, or one whose parts do not fit one another.
    """
    layout = _read_layout(content, length)
    return SampleHead(_decode(bytes(layout.metadata), SampleNote), layout.tensors)


def read_sample_parts(content: bytes) -> SampleParts:
    """Take a whole file apart, also one that does not say what it is of; raise what is wrong.

    Raises:
        LimitExceeded: as `read_sample_head`.
        MalformedMessage: as `read_sample_head`, but for what it says of itself.
    """
    layout = _read_layout(content[:SAMPLE_HEAD_BYTES_MAX], len(content))
    try:
        note = _decode(bytes(layout.metadata), SampleNote)
    except MalformedMessage:
        note = None
    parts, at = [], layout.begin
    for tensor in layout.tensors:
        end = at + tensor.length
        parts.append((tensor, content[at:end]))
        at = end
    return SampleParts(note, tuple(parts))


def _read_layout(content: bytes, length: int) -> _Layout:
    if length > SAMPLE_BYTES_MAX:
        raise LimitExceeded(f"a sample of {length} bytes, at most {SAMPLE_BYTES_MAX}")
    begin = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    if begin > SAMPLE_HEAD_BYTES_MAX:
        raise LimitExceeded(f"a header that ends at {begin}, at most {SAMPLE_HEAD_BYTES_MAX}")
    if len(content) < begin:
        raise MalformedMessage("the file ends within its header")
    entries = _decode(content[_LENGTH_BYTES:begin], dict[str, Raw])
    metadata = entries.pop(_METADATA, Raw(b"null"))
    if not 0 < len(entries) <= TENSORS_MAX:
        raise LimitExceeded(f"{len(entries)} tensors, one at least and at most {TENSORS_MAX}")
    decoded = {name: _decode(bytes(entry), _Entry) for name, entry in entries.items()}
    placed = sorted(decoded.items(), key=lambda one: one[1].data_offsets)
    end = 0
    for name, entry in placed:
        if not name.startswith(("input.", "output.")) or entry.dtype not in _ELEMENT_BYTES:
            raise MalformedMessage(f"{name[:300]!r} of the datatype {entry.dtype[:16]!r}")
        expected = (end, end + math.prod(entry.shape) * _ELEMENT_BYTES[entry.dtype])
        if entry.data_offsets != expected:
            raise MalformedMessage(f"{name[:300]!r} lies at {entry.data_offsets}, not {expected}")
        end = expected[1]
    if begin + end != length:
        raise MalformedMessage(f"{length} bytes, and the header tells of {begin + end}")
    tensors = tuple(SampleTensor(name, entry.dtype, entry.shape) for name, entry in placed)
    return _Layout(metadata, tensors, begin)


def _decode(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("not the header of a sample") from error
