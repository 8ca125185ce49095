"""Sealing and opening with HPKE (RFC 9180): X25519, HKDF-SHA256, ChaCha20-Poly1305, base mode.

`cryptography` has HPKE from version 47 on. Debian 13 has version 43, with the parts: where the
whole is not there, it is put together from them here, for this one suite and one message a key.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

try:
    from cryptography.hazmat.primitives import hpke as _hpke
except ImportError:  # before 47
    _suite: Any = None
else:
    _suite = _hpke.Suite(_hpke.KEM.X25519, _hpke.KDF.HKDF_SHA256, _hpke.AEAD.CHACHA20_POLY1305)

__all__ = ["open_sealed", "open_with_parts", "seal", "seal_with_parts"]

_KEM, _KDF, _AEAD = b"\x00\x20", b"\x00\x01", b"\x00\x03"
_OF_KEM, _OF_HPKE = b"KEM" + _KEM, b"HPKE" + _KEM + _KDF + _AEAD
_BASE = b"\x00"
_KEY_BYTES = 32
_NONCE_BYTES = 12


def seal(plain: bytes, public: X25519PublicKey, info: bytes) -> bytes:
    """Seal `plain` to a public key, bound to `info`.

    Raises:
        ValueError: nothing can be sealed to that key: it is a point of small order.
    """
    if _suite is None:
        return seal_with_parts(plain, public, info)
    sealed: bytes = _suite.encrypt(plain, public, info)
    return sealed


def open_sealed(sealed: bytes, private: X25519PrivateKey, info: bytes) -> bytes:
    """Open what was sealed to the public half of `private` with `info`.

    Raises:
        InvalidTag: it was sealed to another key, with another `info`, or is damaged.
        ValueError: it is too short, or begins with a point of small order.
    """
    if _suite is None:
        return open_with_parts(sealed, private, info)
    plain: bytes = _suite.decrypt(sealed, private, info)
    return plain


def seal_with_parts(plain: bytes, public: X25519PublicKey, info: bytes) -> bytes:
    """As `seal`, by what older versions of `cryptography` have."""
    once = X25519PrivateKey.generate()
    head = once.public_key().public_bytes_raw()
    shared = _shared(once.exchange(public), head, public.public_bytes_raw())
    cipher, nonce = _schedule(shared, info)
    return head + cipher.encrypt(nonce, plain, None)


def open_with_parts(sealed: bytes, private: X25519PrivateKey, info: bytes) -> bytes:
    """As `open_sealed`, by what older versions of `cryptography` have."""
    head, rest = sealed[:_KEY_BYTES], sealed[_KEY_BYTES:]
    exchanged = private.exchange(X25519PublicKey.from_public_bytes(head))
    shared = _shared(exchanged, head, private.public_key().public_bytes_raw())
    cipher, nonce = _schedule(shared, info)
    return cipher.decrypt(nonce, rest, None)


def _shared(exchanged: bytes, head: bytes, public: bytes) -> bytes:
    """RFC 9180, 4.1: ``ExtractAndExpand`` of the key encapsulation."""
    secret = _extract(_OF_KEM, b"", b"eae_prk", exchanged)
    return _expand(_OF_KEM, secret, b"shared_secret", head + public, _KEY_BYTES)


def _schedule(shared: bytes, info: bytes) -> tuple[ChaCha20Poly1305, bytes]:
    """RFC 9180, 5.1: ``KeySchedule`` of the base mode; the nonce of the first message."""
    context = _BASE
    context += _extract(_OF_HPKE, b"", b"psk_id_hash", b"")
    context += _extract(_OF_HPKE, b"", b"info_hash", info)
    secret = _extract(_OF_HPKE, shared, b"secret", b"")
    key = _expand(_OF_HPKE, secret, b"key", context, _KEY_BYTES)
    return ChaCha20Poly1305(key), _expand(_OF_HPKE, secret, b"base_nonce", context, _NONCE_BYTES)


def _extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    """RFC 9180, 4: ``LabeledExtract``."""
    return _hmac(salt or bytes(32), b"HPKE-v1" + suite + label + material)


def _expand(suite: bytes, secret: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """RFC 9180, 4: ``LabeledExpand``, for one block of RFC 5869's expansion and no more."""
    assert length <= hashlib.sha256().digest_size
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return _hmac(secret, labelled + b"\x01")[:length]


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
