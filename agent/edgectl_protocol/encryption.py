"""Encrypted bundles: what both sides must agree on. The ciphers themselves are theirs to call.

Rules:

1. A bundle has one *content key*, 32 random bytes, used for this bundle and never again. Each of
   its encrypted layers has a key of its own, derived from it by the file's name (`layer_key`).
2. A layer is cut into segments, each sealed by ChaCha20-Poly1305 under a nonce that counts them and
   marks the last (`segment_nonce`): the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár,
   "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015). A segment that is
   changed, left out, repeated, moved or cut off does not open.
3. A sealed segment is as long as a chunk of the wire, so that the two are the same pieces.
4. A content key travels sealed to one X25519 key by HPKE (RFC 9180, base mode, DHKEM(X25519,
   HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305). The `info` of RFC 9180 says for whom and for which
   bundle (`device_context`, `storage_context`), so that it opens nowhere else.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

from msgspec import Meta

from edgectl_protocol.chunks import CHUNK_BYTES
from edgectl_protocol.errors import MalformedMessage

__all__ = [
    "CONTENT_KEY_BYTES",
    "ENCRYPTED_SUFFIX",
    "ENCRYPTION_ANNOTATION",
    "ENCRYPTION_KEY_BYTES",
    "ENCRYPTION_KEY_OID",
    "SCHEME",
    "SEALED_KEY_BYTES",
    "SEGMENT_BYTES",
    "TAG_BYTES",
    "SealedKey",
    "device_context",
    "encrypted_size",
    "layer_key",
    "plain_size",
    "segment_nonce",
    "storage_context",
]

SCHEME = "stream-chacha20poly1305-v1"
ENCRYPTION_ANNOTATION = "io.edgectl.encryption"
"""Annotation of an encrypted layer; its value is `SCHEME`."""
ENCRYPTED_SUFFIX = "+encrypted"
"""End of an encrypted layer's media type, as in OCI image encryption."""

CONTENT_KEY_BYTES = 32
TAG_BYTES = 16
SEGMENT_BYTES = CHUNK_BYTES
"""Of a sealed segment; only the last may be shorter."""
SEALED_KEY_BYTES = 32 + CONTENT_KEY_BYTES + TAG_BYTES
"""The sender's one-time public key, the content key, the tag."""
SealedKey = Annotated[bytes, Meta(min_length=SEALED_KEY_BYTES, max_length=SEALED_KEY_BYTES)]
"""A sealed content key; base64 on the wire."""

ENCRYPTION_KEY_BYTES = 32
ENCRYPTION_KEY_OID = "2.25.299834229779964515110888661127654262984"
"""Extension of a device's signing request: its X25519 public key, 32 bytes (RFC 7748). Under the
arc of random UUIDs (ITU-T X.667), so that it is nobody else's."""

_PLAIN_BYTES = SEGMENT_BYTES - TAG_BYTES
_COUNTER_BYTES = 11


def layer_key(content_key: bytes | bytearray, file: str) -> bytes:
    """Return the key of the layer that is `file`, 32 bytes.

    HKDF-Expand with SHA-256 (RFC 5869, 2.3), one block; the content key is uniformly random, so
    that nothing needs to be extracted first (3.3).
    """
    assert len(content_key) == CONTENT_KEY_BYTES, len(content_key)
    info = b"edgectl-layer-v1\0" + file.encode()
    return hmac.new(content_key, info + b"\x01", hashlib.sha256).digest()


def segment_nonce(number: int, *, last: bool) -> bytes:
    """Return the nonce of segment `number`, from 0: 11 bytes that count, 1 that marks the last."""
    return number.to_bytes(_COUNTER_BYTES, "big") + (b"\x01" if last else b"\x00")


def encrypted_size(size: int) -> int:
    """Return the length of a layer, sealed; an empty one is one empty segment."""
    return size + TAG_BYTES * max(1, -(-size // _PLAIN_BYTES))


def plain_size(size: int) -> int:
    """Return the length of what a sealed layer of `size` bytes holds.

    Raises:
        MalformedMessage: no sealed layer has that length.
    """
    plain = size - TAG_BYTES * -(-size // SEGMENT_BYTES)
    if plain < 0 or encrypted_size(plain) != size:
        raise MalformedMessage(f"no encrypted layer is {size} bytes long")
    return plain


def device_context(*, device: str, target: str, manifest: str) -> bytes:
    """Return what a content key is bound to on its way to a device.

    Args:
        device: its name.
        target: path of the bundle in the signed TUF targets.
        manifest: digest of the bundle's manifest.
    """
    return b"\0".join(
        (b"edgectl-content-key-device-v1", device.encode(), target.encode(), manifest.encode())
    )


def storage_context(*, manifest: str) -> bytes:
    """Return what a content key is bound to in the server's database."""
    return b"edgectl-content-key-storage-v1\0" + manifest.encode()
