"""Signatures as the Standard Webhooks specification has them (standardwebhooks.com).

HMAC-SHA256 over ``<webhook-id>.<webhook-timestamp>.<body>``, in base64 behind ``v1,``; the secret
is ``whsec_`` and the base64 of its bytes.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import b64decode, b64encode
from datetime import datetime
from hashlib import sha256

__all__ = ["make_secret", "signed_headers"]

_PREFIX = "whsec_"
_SECRET_BYTES = 32


def make_secret() -> str:
    """Return a new secret, as receivers are given it."""
    return _PREFIX + b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def signed_headers(secret: str, identity: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the headers by which a receiver knows who has sent `body`, and when.

    Args:
        secret: as `make_secret` made it.
        identity: of the delivery, the same at every attempt.
        at: now: a receiver refuses what is minutes old.
        body: exactly as it is sent.
    """
    timestamp = str(int(at.timestamp()))
    key = b64decode(secret.removeprefix(_PREFIX))
    signed = b".".join((identity.encode(), timestamp.encode(), body))
    signature = b64encode(hmac.new(key, signed, sha256).digest()).decode()
    return {
        "webhook-id": identity,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }
