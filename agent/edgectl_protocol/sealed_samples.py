r"""Sealed samples: the file of a sample as it lies on the device and travels, for one key's holder.

::

    24 bytes   b"edgectl-sealed-sample-1\n"
     2 bytes   length of the head, big-endian
    head       JSON, `SealedHead`: in the clear, and what the seal is bound to
    the rest   HPKE (RFC 9180, base mode; KEM X25519, HKDF-SHA256, ChaCha20-Poly1305):
               32 bytes one-time public key, the sample's file, 16 bytes tag

Rules:

1. The `info` of RFC 9180 is all that stands before the seal: a head that is changed opens nothing,
   so that a sample is of the device, the model and the moment that it says, or is not opened.
2. What is opened must be a sample (`edgectl_protocol.samples`) of the length and with the note that
   the head has. Nothing is compressed: it is as long as it was, and at most `SAMPLE_BYTES_MAX`.
3. Who has only the public key can make sealed samples. That a device has made one is said by the
   signed offer of its upload, which names the digest.

The ciphers are the callers' to call, as of `edgectl_protocol.encryption`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from edgectl_protocol.errors import LimitExceeded, MalformedMessage
from edgectl_protocol.fields import Message
from edgectl_protocol.names import DeviceId
from edgectl_protocol.samples import (
    SAMPLE_BYTES_MAX,
    SAMPLE_HEAD_BYTES_MAX,
    SampleNote,
    read_sample_head,
)

__all__ = [
    "KEY_BYTES",
    "SEALED_HEAD_BYTES_MAX",
    "SEALED_MEDIA_TYPE",
    "SEALED_SAMPLE_BYTES_MAX",
    "SampleKeyId",
    "SealedHead",
    "is_sealed",
    "open_sample",
    "read_sealed_head",
    "sample_key_id",
    "seal_sample",
]

SEALED_MEDIA_TYPE = "application/vnd.edgectl.sample.v1+sealed"
KEY_BYTES = 32
_MAGIC = b"edgectl-sealed-sample-1\n"
_LENGTH_BYTES = 2
_BEFORE_HEAD = len(_MAGIC) + _LENGTH_BYTES
SEALED_HEAD_BYTES_MAX = 4096
"""Of all that stands before the seal."""
_SEAL_BYTES = 32 + 16
SEALED_SAMPLE_BYTES_MAX = SEALED_HEAD_BYTES_MAX + _SEAL_BYTES + SAMPLE_BYTES_MAX
SampleKeyId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
"""How a public key is named; see `sample_key_id`."""


class SealedHead(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What is said of a sealed sample in the clear."""

    key: SampleKeyId
    """To which it is sealed."""
    device: DeviceId
    length: Annotated[int, Meta(ge=1, le=SAMPLE_BYTES_MAX)]
    """Of what is sealed."""
    note: SampleNote


def sample_key_id(public: bytes) -> str:
    """Return how a public key is named, 16 hexadecimal digits.

    Args:
        public: 32 bytes.
    """
    assert len(public) == KEY_BYTES, len(public)
    return hashlib.sha256(b"edgectl-sample-key-v1\0" + public).hexdigest()[:16]


def is_sealed(content: bytes) -> bool:
    """Say whether a file begins as a sealed sample does."""
    return content.startswith(_MAGIC)


def seal_sample(
    content: bytes, *, device: str, key: bytes, encrypt: Callable[[bytes, bytes], bytes]
) -> bytes:
    """Return a sample, sealed.

    Args:
        content: its file.
        device: our name.
        key: the public key, 32 bytes.
        encrypt: seals its first argument to that key, with the second as `info`.

    Raises:
        ProtocolError: it is no sample.
    """
    note = read_sample_head(content[:SAMPLE_HEAD_BYTES_MAX], len(content)).note
    head = SealedHead(key=sample_key_id(key), device=device, length=len(content), note=note)
    encoded = msgspec.json.encode(head)
    assert _BEFORE_HEAD + len(encoded) <= SEALED_HEAD_BYTES_MAX, len(encoded)
    before = _MAGIC + len(encoded).to_bytes(_LENGTH_BYTES, "big") + encoded
    sealed = before + encrypt(content, before)
    assert len(sealed) == len(before) + len(content) + _SEAL_BYTES, len(sealed)
    return sealed


def read_sealed_head(content: bytes, length: int) -> SealedHead:
    """Check what can be checked of a sealed sample without its key; raise what is wrong.

    Args:
        content: its first `SEALED_HEAD_BYTES_MAX` bytes, or all that it has.
        length: of the whole.

    Raises:
        LimitExceeded: longer than `SEALED_SAMPLE_BYTES_MAX`, or a longer head.
        MalformedMessage: no sealed sample, or one whose length is not what its head says.
    """
    if length > SEALED_SAMPLE_BYTES_MAX:
        raise LimitExceeded(f"a sealed sample of {length} bytes, at most {SEALED_SAMPLE_BYTES_MAX}")
    end = _end_of_head(content)
    try:
        head = msgspec.json.decode(content[_BEFORE_HEAD:end], type=SealedHead)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("not the head of a sealed sample") from error
    if end + head.length + _SEAL_BYTES != length:
        expected = end + head.length + _SEAL_BYTES
        raise MalformedMessage(f"{length} bytes, and the head tells of {expected}")
    return head


def open_sample(content: bytes, decrypt: Callable[[bytes, bytes], bytes]) -> bytes:
    """Return the file of a sealed sample.

    Args:
        content: the whole.
        decrypt: opens its first argument with the second as `info`; raises where it does not open.

    Raises:
        LimitExceeded: as `read_sealed_head`, and `read_sample_head` of what was sealed.
        MalformedMessage: it is none, or what was sealed is not what the head says.
    """
    head = read_sealed_head(content[:SEALED_HEAD_BYTES_MAX], len(content))
    end = _end_of_head(content)
    opened = decrypt(content[end:], content[:end])
    if len(opened) != head.length:
        raise MalformedMessage(f"{len(opened)} bytes were sealed, not {head.length}")
    note = read_sample_head(opened[:SAMPLE_HEAD_BYTES_MAX], len(opened)).note
    if note != head.note:
        raise MalformedMessage("what was sealed is another sample than its head says")
    return opened


def _end_of_head(content: bytes) -> int:
    """Return where the head ends, which the content holds whole."""
    if not is_sealed(content):
        raise MalformedMessage("not a sealed sample")
    end = _BEFORE_HEAD + int.from_bytes(content[len(_MAGIC) : _BEFORE_HEAD], "big")
    if end > SEALED_HEAD_BYTES_MAX:
        raise LimitExceeded(f"a head that ends at {end}, at most {SEALED_HEAD_BYTES_MAX}")
    if len(content) < end:
        raise MalformedMessage("the file ends within its head")
    return end
