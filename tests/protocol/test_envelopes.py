"""Signed envelopes against their golden vectors, and against an implementation that is not ours."""

import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib import dsse

from edgectl_protocol.envelopes import (
    Envelope,
    Signature,
    decode_envelope,
    encode_envelope,
    signed_bytes,
)
from edgectl_protocol.errors import LimitExceeded, ProtocolError
from edgectl_protocol.messages import MESSAGE_BYTES_MAX, REPORT_BYTES_MAX

PUBLISHED = json.loads((Path(__file__).parent.parent / "vectors/envelopes.json").read_text())


def test_the_good_one_is_signed_over_what_it_says():
    good = PUBLISHED["good"]
    content = json.dumps(good["envelope"]).encode()
    envelope = decode_envelope(content, bytes_max=MESSAGE_BYTES_MAX)
    assert envelope.payload == good["payload"].encode()
    signed = signed_bytes(envelope.payload_type, envelope.payload)
    assert signed.hex() == good["signed_hex"]
    (signature,) = envelope.signatures
    assert signature.keyid == good["keyid"]
    key = load_pem_public_key(good["public_key_pem"].encode())
    key.verify(signature.sig, signed, ec.ECDSA(SHA256()))
    other = signed_bytes("application/vnd.edgectl.event.v1+json", envelope.payload)
    with pytest.raises(InvalidSignature):
        key.verify(signature.sig, other, ec.ECDSA(SHA256()))


@pytest.mark.parametrize("case", [pytest.param(one, id=one["name"]) for one in PUBLISHED["cases"]])
def test_envelopes(case):
    content = case["json"].encode()
    if case["error"] is None:
        envelope = decode_envelope(content, bytes_max=MESSAGE_BYTES_MAX)
        assert decode_envelope(encode_envelope(envelope), bytes_max=MESSAGE_BYTES_MAX) == envelope
    else:
        with pytest.raises(ProtocolError) as caught:
            decode_envelope(content, bytes_max=MESSAGE_BYTES_MAX)
        assert caught.value.code == case["error"]


def test_a_long_one_is_not_looked_at():
    with pytest.raises(LimitExceeded):
        decode_envelope(b"{}" * 100, bytes_max=199)


def test_the_longest_report_fits():
    signature = Signature(keyid="f" * 64, sig=b"s" * 72)
    longest = Envelope(
        payload_type="t" * 128, payload=b"p" * REPORT_BYTES_MAX, signatures=(signature,)
    )
    assert len(encode_envelope(longest)) <= MESSAGE_BYTES_MAX


@given(kind=st.text(max_size=40), payload=st.binary(max_size=200))
def test_what_is_signed_is_what_others_sign(kind, payload):
    signature = Signature(keyid="k", sig=b"s")
    ours = Envelope(payload_type=kind, payload=payload, signatures=(signature,))
    theirs = dsse.Envelope.from_dict(json.loads(encode_envelope(ours)))
    assert theirs.pae() == signed_bytes(kind, payload)
    assert decode_envelope(json.dumps(theirs.to_dict()).encode(), bytes_max=10_000) == ours
