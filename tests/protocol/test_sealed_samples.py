"""The file of a sealed sample: what it is bound to, what is refused before and after opening."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hypothesis import given
from hypothesis import strategies as st

from edgectl_protocol.errors import LimitExceeded, MalformedMessage, ProtocolError
from edgectl_protocol.names import digest_of
from edgectl_protocol.samples import (
    SAMPLE_BYTES_MAX,
    SampleNote,
    SampleTensor,
    encode_sample,
    read_sample_parts,
)
from edgectl_protocol.sealed_samples import (
    SEALED_HEAD_BYTES_MAX,
    SEALED_SAMPLE_BYTES_MAX,
    is_sealed,
    open_sample,
    read_sealed_head,
    sample_key_id,
    seal_sample,
)

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
KEY = X25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
NOTE = SampleNote(
    model="har",
    version="1",
    manifest=digest_of(b"manifest"),
    reason="uncertain",
    taken_at=datetime(2026, 11, 29, 12, tzinfo=UTC),
    request="r-1",
    redacted="yes",
)
PLAIN = encode_sample(NOTE, [(SampleTensor("input.x", "U8", (4,)), b"\1\2\3\4")])


def encrypt(plain: bytes, info: bytes) -> bytes:
    return SUITE.encrypt(plain, KEY.public_key(), info)


def decrypt(sealed: bytes, info: bytes) -> bytes:
    return SUITE.decrypt(sealed, KEY, info)


SEALED = seal_sample(PLAIN, device="pi-1", key=PUBLIC, encrypt=encrypt)


def test_what_was_sealed_is_what_is_opened_and_nothing_of_it_is_to_be_seen() -> None:
    assert is_sealed(SEALED)
    assert not is_sealed(PLAIN)
    head = read_sealed_head(SEALED[:SEALED_HEAD_BYTES_MAX], len(SEALED))
    assert (head.key, head.device, head.note) == (sample_key_id(PUBLIC), "pi-1", NOTE)
    assert head.length == len(PLAIN)
    assert open_sample(SEALED, decrypt) == PLAIN
    assert b"\1\2\3\4" not in SEALED
    assert b"input.x" not in SEALED


def test_the_longest_sample_can_be_sealed() -> None:
    size = SAMPLE_BYTES_MAX - 600
    plain = encode_sample(NOTE, [(SampleTensor("input.x", "U8", (size,)), bytes(size))])
    sealed = seal_sample(plain, device="d" * 64, key=PUBLIC, encrypt=encrypt)
    assert len(sealed) <= SEALED_SAMPLE_BYTES_MAX
    assert open_sample(sealed, decrypt) == plain


@pytest.mark.parametrize("field", ["key", "device", "model", "request", "reason", "redacted"])
def test_a_head_that_was_changed_opens_nothing(field: str) -> None:
    """Whoever has the broker may not say that a sample is of another device, model or key."""
    length = int.from_bytes(SEALED[24:26], "big")
    head = json.loads(SEALED[26 : 26 + length])
    other = {"key": "0" * 16, "device": "pi-2", "reason": "random", "redacted": ""}
    (head if field in {"key", "device"} else head["note"])[field] = other.get(field, "other")
    encoded = json.dumps(head, separators=(",", ":")).encode()
    changed = SEALED[:24] + len(encoded).to_bytes(2, "big") + encoded + SEALED[26 + length :]
    read_sealed_head(changed[:SEALED_HEAD_BYTES_MAX], len(changed))
    with pytest.raises(InvalidTag):
        open_sample(changed, decrypt)


def test_another_key_opens_nothing() -> None:
    other = X25519PrivateKey.generate()
    with pytest.raises(InvalidTag):
        open_sample(SEALED, lambda sealed, info: SUITE.decrypt(sealed, other, info))


@pytest.mark.parametrize("length", [0, 1, 23, 26, 60, len(SEALED) - 1])
def test_a_part_of_it_is_none(length: int) -> None:
    with pytest.raises(ProtocolError):
        read_sealed_head(SEALED[:length], length)


def test_what_is_longer_than_it_may_be_is_not_looked_at() -> None:
    with pytest.raises(LimitExceeded):
        read_sealed_head(SEALED[:SEALED_HEAD_BYTES_MAX], SEALED_SAMPLE_BYTES_MAX + 1)
    with pytest.raises(LimitExceeded):
        read_sealed_head(SEALED[:24] + b"\xff\xff" + bytes(70_000), 70_026)


def sealed_with(head: dict[str, object], plain: bytes) -> bytes:
    """What a hostile device may make, which has the public key too."""
    encoded = json.dumps(head).encode()
    before = SEALED[:24] + len(encoded).to_bytes(2, "big") + encoded
    return before + encrypt(plain, before)


def head_of(plain: bytes, **changes: object) -> dict[str, object]:
    length = int.from_bytes(SEALED[24:26], "big")
    return json.loads(SEALED[26 : 26 + length]) | {"length": len(plain)} | changes


def test_what_is_no_sample_inside_is_refused() -> None:
    other = encode_sample(
        SampleNote(
            **{name: getattr(NOTE, name) for name in NOTE.__struct_fields__} | {"model": "x"}
        ),
        [(SampleTensor("input.x", "U8", (1,)), b"\1")],
    )
    for plain in (b"\0" * 100, PLAIN[:-1], PLAIN + b"\0", other):
        with pytest.raises(ProtocolError):
            open_sample(sealed_with(head_of(plain), plain), decrypt)
    with pytest.raises(MalformedMessage, match="bytes, and the head tells"):
        open_sample(sealed_with(head_of(PLAIN, length=5), PLAIN), decrypt)
    bomb = head_of(PLAIN, length=2**40)
    with pytest.raises(MalformedMessage):
        read_sealed_head(sealed_with(bomb, PLAIN), 500)


@given(at=st.integers(0, len(SEALED) - 1), bit=st.integers(0, 7))
def test_no_bit_can_be_turned(at: int, bit: int) -> None:
    changed = bytearray(SEALED)
    changed[at] ^= 1 << bit
    with pytest.raises((ProtocolError, InvalidTag, ValueError)):
        open_sample(bytes(changed), decrypt)


@given(st.binary(max_size=300))
def test_noise_is_a_documented_error(noise: bytes) -> None:
    for content in (noise, SEALED[:26] + noise):
        with pytest.raises(ProtocolError):
            read_sealed_head(content, len(content))


def test_a_file_without_a_note_can_be_taken_apart() -> None:
    """Programs that redact write what their library writes."""
    header = json.dumps({"input.x": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}).encode()
    found = read_sample_parts(len(header).to_bytes(8, "little") + header + b"\1\2")
    assert found.note is None
    assert found.tensors == ((SampleTensor("input.x", "U8", (2,)), b"\1\2"),)
    assert read_sample_parts(PLAIN).note == NOTE
