"""Which orders are believed: those that a key signed which the server's root lists for orders.

A real device walks the signed roots (`edgectl_agent.trust`). A fleet that is not there takes the
root that came with an enrolment, whose answer was proven, and asks again when an order comes that
none of its keys has signed: once for all devices, and at most every `_AGAIN_S`. That a bundle is
among the signed targets is not checked: nothing is installed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from edgectl_protocol.envelopes import Envelope, decode_envelope, signed_bytes
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.fields import Reason
from edgectl_protocol.messages import MESSAGE_BYTES_MAX, ORDER_PAYLOAD_TYPE, Order, decode
from edgectl_protocol.metadata import ORDER_KEYS_FIELD
from edgectl_simulator.errors import SimulatorError

__all__ = ["CLOCK_SKEW_MAX", "Trust", "parse_order_keys", "refuse"]

CLOCK_SKEW_MAX = timedelta(days=1)
"""As devices have it: an order may come from so far ahead of their clock."""
_KEYS_MAX = 16
_AGAIN_S = 60.0

_PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


class Trust:
    """The keys that count, for the whole fleet."""

    def __init__(self, root: str, ask_again: Callable[[], Awaitable[str]]) -> None:
        """Begin with a root; `ask_again` gives the newest."""
        self._keys = parse_order_keys(root)
        self._ask_again = ask_again
        self._asked_s = float("-inf")
        self._asking = asyncio.Lock()

    async def open(self, payload: bytes) -> Order | Reason:
        """Return the order in an envelope, or why it is none of ours."""
        try:
            envelope = decode_envelope(payload, bytes_max=MESSAGE_BYTES_MAX)
            if envelope.payload_type != ORDER_PAYLOAD_TYPE:
                return Reason(code="order.malformed", detail="an envelope of another type")
            if not self._signed(envelope):
                await self._renew()
                if not self._signed(envelope):
                    detail = "not signed by a key that the root lists"
                    return Reason(code="order.signature", detail=detail)
            return decode(Order, envelope.payload)
        except ProtocolError as error:
            return Reason(code="order.malformed", detail=str(error)[:1024])

    def _signed(self, envelope: Envelope) -> bool:
        content = signed_bytes(envelope.payload_type, envelope.payload)
        for signature in envelope.signatures:
            key = self._keys.get(signature.keyid)
            with suppress(InvalidSignature):
                if isinstance(key, ed25519.Ed25519PublicKey):
                    key.verify(signature.sig, content)
                    return True
                if key is not None:
                    key.verify(signature.sig, content, ec.ECDSA(SHA256()))
                    return True
        return False

    async def _renew(self) -> None:
        async with self._asking:
            now_s = asyncio.get_running_loop().time()
            if now_s - self._asked_s < _AGAIN_S:
                return
            self._asked_s = now_s
            with suppress(SimulatorError):
                self._keys = parse_order_keys(await self._ask_again())


def parse_order_keys(root: str) -> dict[str, _PublicKey]:
    """Return the keys that a root lists for orders; those of an unknown kind are left out."""
    keys: dict[str, _PublicKey] = {}
    try:
        listed = json.loads(root)["signed"][ORDER_KEYS_FIELD]
        for keyid, key in list(listed.items())[:_KEYS_MAX]:
            public = key["keyval"]["public"]
            if key["keytype"] == "ed25519":
                keys[keyid] = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
            elif key["keytype"] == "ecdsa":
                parsed = load_pem_public_key(public.encode())
                if isinstance(parsed, ec.EllipticCurvePublicKey):
                    keys[keyid] = parsed
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SimulatorError(
            "simulate.root",
            "the root that the server has given cannot be read",
            hint="the simulator and the server should be of one version",
        ) from error
    return keys


def refuse(order: Order, device: str, floor: int, now: datetime) -> Reason | None:
    """Say why an order with a good signature is not obeyed, as devices do; None: it is.

    Args:
        order: what has come.
        device: who this is.
        floor: only a higher number is new.
        now: by the device's clock.
    """
    if order.device != device:
        return Reason(code="order.device", detail=f"for {order.device}, this is {device}")
    if order.counter <= floor:
        detail = f"number {order.counter}, {floor} was accepted before"
        return Reason(code="order.replayed", detail=detail)
    if order.issued_at > now + CLOCK_SKEW_MAX:
        detail = f"issued at {order.issued_at}, the device's clock says {now}"
        return Reason(code="order.clock", detail=detail)
    if order.expires_at <= now:
        detail = f"expired at {order.expires_at}, the device's clock says {now}"
        return Reason(code="order.expired", detail=detail)
    return None
