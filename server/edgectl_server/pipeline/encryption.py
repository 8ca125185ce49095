"""Encrypts a layer of a bundle, segment by segment, as `edgectl_protocol.encryption` describes.

A content key must be fresh for every bundle that is made, also when the same one is packed again
after a crash: under one key, two contents with the same nonces would show each other.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from edgectl_protocol.encryption import (
    CONTENT_KEY_BYTES,
    SEGMENT_BYTES,
    TAG_BYTES,
    encrypted_size,
    layer_key,
    segment_nonce,
)

__all__ = ["encrypt_layer", "make_content_key"]

_PLAIN_BYTES = SEGMENT_BYTES - TAG_BYTES


def make_content_key() -> bytes:
    """Return a new content key."""
    return secrets.token_bytes(CONTENT_KEY_BYTES)


def encrypt_layer(source: Path, target: Path, *, content_key: bytes, file: str) -> None:
    """Write the file `source`, encrypted, to `target`, which must not be there yet.

    Args:
        source: a file that nobody writes to any more.
        target: gets the ciphertext.
        content_key: the bundle's.
        file: the layer's name in the bundle.
    """
    cipher = ChaCha20Poly1305(layer_key(content_key, file))
    number = 0
    with source.open("rb") as plain, target.open("xb") as sealed:
        segment = plain.read(_PLAIN_BYTES)
        while True:
            following = plain.read(_PLAIN_BYTES) if len(segment) == _PLAIN_BYTES else b""
            nonce = segment_nonce(number, last=not following)
            sealed.write(cipher.encrypt(nonce, segment, None))
            if not following:
                break
            segment, number = following, number + 1
        size = plain.tell()
    assert target.stat().st_size == encrypted_size(size), file
