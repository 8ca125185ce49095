"""What comes from a provider is accepted, or refused with a documented error; nothing else."""

import contextlib
import json
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import KeySet

from edgectl_server.errors import Unauthorized
from edgectl_server.openid.id_tokens import UnknownKey, check_id_token, import_keys
from edgectl_server.openid.roles import claim_values
from server.openid.openid_providers import by_hand, elliptic_key

AT = datetime(2026, 1, 1, tzinfo=UTC)
KEY = elliptic_key("one")
KEYS = KeySet([KEY])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
CLAIMS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("iss", "sub", "aud", "azp", "exp", "iat", "nbf", "nonce"), VALUES),
)
KEY_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "kty": st.sampled_from(["RSA", "EC", "oct", "OKP"]) | VALUES,
        **dict.fromkeys(("n", "e", "x", "y", "use", "kid", "alg", "d", "key_ops"), VALUES),
        "crv": st.sampled_from(["P-256", "P-521", "secp256k1"]) | VALUES,
    },
)


def check(text):
    with contextlib.suppress(Unauthorized, UnknownKey):
        check_id_token(text, KEYS, issuer="i", client_id="c", nonce="n", at=AT)
        raise AssertionError(text)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200) | st.from_regex(r"[\w-]{0,40}\.[\w-]{0,40}\.[\w-]{0,40}"))
def test_any_text_as_token(text):
    check(text)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), VALUES))
def test_any_header(header):
    check(by_hand(header, "{}", lambda text: b"x" * 64))


@settings(max_examples=60, deadline=None)
@given(CLAIMS)
def test_any_claims_that_are_signed(claims):
    check(jws.serialize_compact({"alg": "ES256", "kid": "one"}, json.dumps(claims), KEY))


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.just("keys"), st.lists(KEY_FIELDS, max_size=4) | VALUES) | st.just({}))
def test_any_key_set(document):
    with contextlib.suppress(ValueError):
        import_keys(document)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "a.b", "b"]), VALUES))
def test_any_claim_of_roles(claims):
    assert all(isinstance(one, str) for one in claim_values(claims, "a.b"))
