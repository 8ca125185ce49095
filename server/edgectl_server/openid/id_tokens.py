"""Which ID token may be believed: OpenID Connect Core 1.0, 3.1.3.7, and stricter where it may be.

Order: signature by a key of the provider, with an algorithm of `ALGORITHMS` (nothing symmetric, not
``none``); issuer; audience, which is us and nobody else; authorised party; times; nonce; subject.
JOSE is joserfc's work; what a claim must be is said here. No clock and no network.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edgectl_server.errors import Unauthorized

if TYPE_CHECKING:
    from joserfc.jwk import Key, KeySet

__all__ = ["ALGORITHMS", "UnknownKey", "authenticated_at", "check_id_token", "import_keys"]

ALGORITHMS = tuple(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512))
"""Asymmetric ones alone: a public key can never be taken for a shared secret."""

SKEW_S = 60
"""How far the clocks of the provider and of this server may differ."""
AGE_S_MAX = 600
"""A token that answers a code was made a moment ago."""
_SUBJECT_CHARACTERS_MAX = 255  # Core, 2: sub
_KEYS_MAX = 64
_RSA_BITS_MIN = 2048


class UnknownKey(Exception):
    """The token names a key that is not among those at hand: they may have been rotated."""


def import_keys(document: Mapping[str, Any]) -> KeySet:
    """Return the public signing keys of a JWK set (RFC 7517); those of no use to us are left out.

    Raises:
        ValueError: it is no JWK set.
    """
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry, KeySet

    listed = document.get("keys")
    if not isinstance(listed, list) or len(listed) > _KEYS_MAX:
        raise ValueError(f"`keys` is no list of at most {_KEYS_MAX}")
    keys: list[Key] = []
    for entry in listed:
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC"):
            continue
        if entry.get("use", "sig") != "sig":
            continue
        try:
            if entry["kty"] == "EC" or _modulus_bits(entry) >= _RSA_BITS_MIN:
                keys.append(JWKRegistry.import_key(entry))
        except (JoseError, ValueError, TypeError, KeyError):
            continue  # RFC 7517, 5: a key that is not understood is ignored
    return KeySet(keys)


def _modulus_bits(entry: Mapping[str, Any]) -> int:
    """Return the size of an RSA key before joserfc warns of it."""
    modulus = urlsafe_b64decode(f"{entry['n']}==")
    return int.from_bytes(modulus).bit_length()


def check_id_token(
    text: str, keys: KeySet, *, issuer: str, client_id: str, nonce: str, at: datetime
) -> dict[str, Any]:
    """Return the claims of an ID token that may be believed.

    Args:
        text: the compact JWS.
        keys: of the provider.
        issuer: as configured.
        client_id: as configured.
        nonce: that was sent with this login.
        at: now.

    Raises:
        UnknownKey: none of `keys` is meant; look for new ones.
        Unauthorized: ``openid.token``.
    """
    from joserfc import jwt
    from joserfc.errors import InvalidKeyIdError, JoseError
    from joserfc.jws import JWSRegistry
    from joserfc.jwt import JWTClaimsRegistry

    registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
    wanted = JWTClaimsRegistry(
        now=int(at.timestamp()),
        leeway=SKEW_S,
        iss={"essential": True, "value": issuer},
        sub={"essential": True},
        aud={"essential": True, "value": client_id},
        exp={"essential": True},
        iat={"essential": True},
        nonce={"essential": True},
    )
    try:
        claims = jwt.decode(text, keys, registry=registry).claims
        wanted.validate(claims)
    except InvalidKeyIdError as error:
        raise UnknownKey from error
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise _refused("it is not valid") from error
    if claims["aud"] not in (client_id, [client_id]):
        raise _refused("it is for others, too")
    if claims.get("azp", client_id) != client_id:
        raise _refused("it was given to another program")
    if claims["iat"] < at.timestamp() - AGE_S_MAX - SKEW_S:
        raise _refused("it was made too long ago")
    if claims["nonce"] != nonce:
        raise _refused("it answers another login")
    subject = claims["sub"]
    if not (0 < len(subject) <= _SUBJECT_CHARACTERS_MAX and subject.isascii()):
        raise _refused("its subject is no identifier")
    return dict(claims)


def authenticated_at(claims: Mapping[str, Any], since: datetime) -> datetime:
    """Return when the provider has asked the person who they are (Core, 2: ``auth_time``).

    Args:
        claims: of a checked ID token.
        since: when it was told to ask.

    Raises:
        Unauthorized: ``openid.again``: it has not asked since then, or does not say so.
    """
    at = claims.get("auth_time")
    if type(at) is not int or not 0 <= at - since.timestamp() + SKEW_S <= AGE_S_MAX + 2 * SKEW_S:
        raise Unauthorized(
            "openid.again",
            "the provider did not ask who you are, or does not say when (`auth_time`)",
            hint="log out at the provider, and in again; or change users on the server's machine",
        )
    return datetime.fromtimestamp(at, UTC)


def _refused(why: str) -> Unauthorized:
    return Unauthorized(
        "openid.token",
        f"the provider's ID token is not believed: {why}",
        hint="log in again; if it stays so, compare the clocks, `oidc_issuer` and `oidc_client_id`",
    )
