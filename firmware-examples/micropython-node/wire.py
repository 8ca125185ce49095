"""What the node says and understands: signed orders, signed reports. docs/protocol.md."""

import binascii
import json
import time

import p256
from ed25519 import verify

_KIND = "application/vnd.edgectl.%s.v1+json"


class OrderRefused(Exception):
    """An order that is not obeyed; counter: its number, where the signature is good."""

    def __init__(self, code, counter=None):
        super().__init__(code)
        self.code, self.counter = "order." + code, counter


def _prefix(kind, length):
    """DSSE's pre-authentication encoding."""
    return ("DSSEv1 %d %s %d " % (len(kind), kind, length)).encode()


def _base64(content):
    return binascii.b2a_base64(content).decode().strip()


def date(seconds):
    """Return a date of UTC as messages have it."""
    return "%04d-%02d-%02dT%02d:%02d:%02dZ" % tuple(time.gmtime(seconds)[:6])


def seal(identity, what, message):
    """Return a message in an envelope, signed by the device's key; what: state or seed."""
    kind, payload = _KIND % what, json.dumps(message).encode()
    signature = p256.sign(identity.secret(), _prefix(kind, len(payload)) + payload)
    return json.dumps(
        {
            "payloadType": kind,
            "payload": _base64(payload),
            "signatures": [{"keyid": identity.key_id, "sig": _base64(signature)}],
        }
    ).encode()


def _open(identity, content):
    """Return the payload of an order's envelope; raise `OrderRefused`."""
    try:
        envelope = json.loads(content)
        kind, payload = envelope["payloadType"], binascii.a2b_base64(envelope["payload"])
        signatures = [binascii.a2b_base64(one["sig"]) for one in envelope["signatures"][:4]]
    except (ValueError, KeyError, TypeError):
        raise OrderRefused("malformed") from None
    if kind != _KIND % "order":
        raise OrderRefused("malformed")
    message = _prefix(kind, len(payload)) + payload
    for signature in signatures:
        if any(verify(signature, key, message) for key in identity.order_keys):
            return payload
    raise OrderRefused("signature")


def read_order(identity, name, floor, content):
    """Read an order; name: of the device's model, floor: number of the newest that was accepted.

    Returns its counter, its nonce, and the release that is wanted, or None. Raises `OrderRefused`.
    """
    payload = _open(identity, content)
    try:
        order = json.loads(payload)
        counter, nonce, expires = order["counter"], order["nonce"], order["expires_at"]
        slot = order["slots"].get(name)
        release = None
        if slot is not None:
            candidate = slot["candidates"][0]
            release = {
                "version": slot["version"],
                "variant": candidate["variant"],
                "manifest": candidate["manifest"],
            }
            if slot.get("rollout"):
                release["rollout"] = slot["rollout"]
        whole = isinstance(counter, int) and isinstance(nonce, str) and isinstance(expires, str)
        if not whole or counter < 1 or not expires.endswith("Z"):
            raise ValueError
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise OrderRefused("malformed") from None
    if order.get("device") != identity.device:
        raise OrderRefused("device", counter)
    if counter < floor:
        raise OrderRefused("replayed", counter)
    if expires[:19] <= date(time.time())[:19]:
        raise OrderRefused("expired", counter)
    return counter, nonce, release


def read_layer(manifest):
    """Return digest, size and digest of the chunk index (or None) of the bundle in a manifest."""
    for layer in json.loads(manifest)["layers"]:
        notes = layer["annotations"]
        if notes.get("org.opencontainers.image.title") == "model.emb":
            return layer["digest"], layer["size"], notes.get("io.edgectl.chunks")
    raise KeyError("model.emb")
