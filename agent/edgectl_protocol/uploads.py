"""Uploads: what a device offers, what the server wants of it, and the chunks in between.

A device offers content by its digest; the server asks for a few chunks at a time; the device sends
those, and nothing that was not asked for. The offer is signed and names the digest of the chunk
index (`edgectl_protocol.chunks`), so that each chunk is checked on its own and none is signed.

A chunk on the wire is `HEADER_BYTES` of header and the raw chunk: 32 bytes SHA-256 of the whole
content, then the number, four bytes, big-endian, two's complement; number -1 is the chunk index.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from edgectl_protocol.chunks import CHUNK_BYTES, chunk_count
from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.fields import Count, JobId, Message, Nonce, Reason, Time
from edgectl_protocol.names import DeviceId, Digest, hex_of
from edgectl_protocol.samples import SampleNote

__all__ = [
    "HEADER_BYTES",
    "INDEX_NUMBER",
    "LOG_REQUEST_PAYLOAD_TYPE",
    "SINCE_S_MAX",
    "UPLOAD_BYTES_MAX",
    "UPLOAD_CHUNKS_MAX",
    "WANTED_MAX",
    "LogRequest",
    "UploadAnswer",
    "UploadChunk",
    "UploadKind",
    "UploadOffer",
    "UploadWanted",
    "decode_upload_chunk",
    "encode_upload_chunk",
]

UPLOAD_BYTES_MAX = 16 * 1024**2
UPLOAD_CHUNKS_MAX = chunk_count(UPLOAD_BYTES_MAX)
INDEX_NUMBER = -1
"""Stands for the chunk index among the numbers of chunks."""
WANTED_MAX = 8
"""Chunks that are asked for at a time."""
SINCE_S_MAX = 7 * 86400
HEADER_BYTES = 36
_DIGEST_BYTES = 32

LOG_REQUEST_PAYLOAD_TYPE = "application/vnd.edgectl.log-request.v1+json"
"""DSSE payload type of a request for logs; a signature on another request is none on it."""

UploadKind = Literal["logs", "sample"]


class UploadAnswer(Message, frozen=True, kw_only=True, omit_defaults=True):
    """The request that an upload answers."""

    job: JobId
    nonce: Nonce
    """Of that request."""


class UploadOffer(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/event``: the device has this and would send it, told until acknowledged."""

    device: DeviceId
    boot: Count
    seq: Count
    at: Time
    """When the content was made."""
    kind: UploadKind
    upload: Digest
    """Of the whole content."""
    length: Annotated[int, Meta(ge=1, le=UPLOAD_BYTES_MAX)]
    chunk_index: Digest | None = None
    """Digest of the chunk index; None for content of one chunk, whose digest is `upload`."""
    media_type: Annotated[str, Meta(pattern=r"^[a-z0-9.+/-]{1,64}$")]
    request: UploadAnswer | None = None
    sample: SampleNote | None = None
    """Of the kind ``sample``: what it is of, so that it can be refused before it is sent."""


class UploadWanted(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``down/want``: send these chunks now; or the upload is at its end.

    It is not signed, as an `Ack` is not: whoever forges it withholds content that they could
    withhold anyway, or has a device send what it offers, no faster than it would.
    """

    upload: Digest
    chunks: Annotated[
        tuple[Annotated[int, Meta(ge=-1, lt=UPLOAD_CHUNKS_MAX)], ...], Meta(max_length=WANTED_MAX)
    ] = ()
    """-1 is the chunk index."""
    done: bool = False
    """The server has it whole."""
    refused: Reason | None = None
    """The server does not take it, and will not."""


class LogRequest(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``down/cmd``, inside a DSSE envelope: offer the agent's last log lines.

    Numbered and judged as a `BenchmarkRequest`, in the same count.
    """

    device: DeviceId
    job: JobId
    counter: Count
    nonce: Nonce
    issued_at: Time
    expires_at: Time
    since_s: Annotated[int, Meta(ge=0, le=SINCE_S_MAX)] = 0
    """How far back, by the device's clock; 0: all that there is."""


class UploadChunk(NamedTuple):
    """One message on ``up/chunk``, taken apart; nothing of it is checked."""

    upload: str
    number: int
    content: bytes


def encode_upload_chunk(upload: str, number: int, content: bytes) -> bytes:
    """Return a chunk as it goes on the wire."""
    return bytes.fromhex(hex_of(upload)) + number.to_bytes(4, "big", signed=True) + content


def decode_upload_chunk(payload: bytes) -> UploadChunk:
    """Take a message apart; raise `MalformedMessage` where its header or its length is wrong."""
    if not HEADER_BYTES < len(payload) <= HEADER_BYTES + CHUNK_BYTES:
        raise MalformedMessage(f"a chunk of {len(payload)} bytes with its header")
    number = int.from_bytes(payload[_DIGEST_BYTES:HEADER_BYTES], "big", signed=True)
    if not INDEX_NUMBER <= number < UPLOAD_CHUNKS_MAX:
        raise MalformedMessage(f"a chunk with the number {number}")
    digest = f"sha256:{payload[:_DIGEST_BYTES].hex()}"
    return UploadChunk(digest, number, payload[HEADER_BYTES:])
