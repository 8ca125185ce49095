"""Signed orders and requests: DSSE envelopes (secure-systems-lab/dsse, protocol.md).

The key is named in the signed TUF root (`ORDER_KEYS_FIELD`), so that a device which trusts the root
can check an order, and nobody who only runs the broker or the database can make one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import msgspec
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Signer

from edgectl_protocol.messages import (
    ORDER_PAYLOAD_TYPE,
    REQUEST_PAYLOAD_TYPES,
    Order,
    Request,
    encode,
)
from edgectl_server.signing.keys import Keys

__all__ = ["OrderSigner"]


class OrderSigner:
    """Signs with the newest key of the role ``orders`` that devices know of."""

    def __init__(self, keys: Keys, listed: Callable[[], Collection[str]] | None = None) -> None:
        """Take the keys.

        Args:
            keys: of the server.
            listed: gives the ids of the keys that the published root lists; None: any counts.
        """
        self._keys = keys
        self._listed = listed

    def envelope(self, order: Order | Request) -> dict[str, Any]:
        """Return the signed envelope as a JSON document, as it is kept in the database."""
        if isinstance(order, Order):
            kind = ORDER_PAYLOAD_TYPE
        else:
            kind = REQUEST_PAYLOAD_TYPES[type(order)]
        envelope = Envelope(encode(order), kind, {})
        envelope.sign(self._signer())
        document: dict[str, Any] = envelope.to_dict()
        return document

    def _signer(self) -> Signer:
        if self._listed is not None:
            signers = self._keys.signers("orders", self._listed())
            if signers:
                return signers[-1]
        return self._keys.signer("orders")

    def sign(self, order: Order | Request) -> bytes:
        """Return the signed envelope as it goes on the wire."""
        return msgspec.json.encode(self.envelope(order))
