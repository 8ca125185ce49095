"""HPKE put together from its parts: the same as the library's, both ways, and as strict."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hypothesis import given
from hypothesis import strategies as st

from edgectl_agent import hpke

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
KEY = X25519PrivateKey.generate()
PUBLIC = KEY.public_key()


@given(st.binary(max_size=2000), st.binary(max_size=300))
def test_each_opens_what_the_other_seals(plain: bytes, info: bytes) -> None:
    assert hpke.open_with_parts(SUITE.encrypt(plain, PUBLIC, info), KEY, info) == plain
    assert SUITE.decrypt(hpke.seal_with_parts(plain, PUBLIC, info), KEY, info) == plain


def test_it_is_used_where_the_library_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hpke, "_suite", None)
    assert SUITE.decrypt(hpke.seal(b"key", PUBLIC, b"info"), KEY, b"info") == b"key"
    assert hpke.open_sealed(SUITE.encrypt(b"key", PUBLIC, b"info"), KEY, b"info") == b"key"


@given(st.data())
def test_what_was_changed_does_not_open(data: st.DataObject) -> None:
    sealed = bytearray(hpke.seal_with_parts(b"the content key", PUBLIC, b"info"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 127))
    with pytest.raises(InvalidTag):
        hpke.open_with_parts(bytes(sealed), KEY, b"info")


@pytest.mark.parametrize(
    ("sealed", "info"),
    [
        (hpke.seal_with_parts(b"key", PUBLIC, b"info"), b"other"),
        (b"", b"info"),
        (bytes(31), b"info"),
    ],
    ids=["for another purpose", "nothing", "too short"],
)
def test_what_is_not_for_it_does_not_open(sealed: bytes, info: bytes) -> None:
    with pytest.raises((InvalidTag, ValueError)):
        hpke.open_with_parts(sealed, KEY, info)


def test_a_point_of_small_order_is_refused_both_ways() -> None:
    zero = bytes(32)
    with pytest.raises(ValueError, match="shared key"):
        hpke.seal_with_parts(b"key", X25519PublicKey.from_public_bytes(zero), b"info")
    with pytest.raises(ValueError, match="shared key"):
        hpke.open_with_parts(zero + bytes(19), KEY, b"info")
    assert hpke.seal_with_parts(b"key", PUBLIC, b"") != hpke.seal_with_parts(b"key", PUBLIC, b"")
