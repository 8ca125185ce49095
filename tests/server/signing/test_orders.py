"""Signed orders: accepted with the key that the root names, refused with anything altered."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError

from edgectl_protocol.messages import (
    ORDER_PAYLOAD_TYPE,
    Candidate,
    Order,
    SlotOrder,
    decode,
)
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.orders import OrderSigner

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
ORDER = Order(
    device="pi-1",
    counter=7,
    nonce="0" * 32,
    issued_at=NOW,
    expires_at=NOW + timedelta(days=30),
    slots={
        "har": SlotOrder(
            model="har",
            version="1",
            candidates=(
                Candidate(
                    variant="int8", target="models/har/1/int8", manifest="sha256:" + 64 * "a"
                ),
            ),
        )
    },
)


def test_an_order_comes_back_as_it_was_signed(tmp_path: Path) -> None:
    keys = Keys.open(tmp_path)
    envelope = Envelope.from_dict(json.loads(OrderSigner(keys).sign(ORDER)))
    assert envelope.payload_type == ORDER_PAYLOAD_TYPE
    envelope.verify([keys.signer("orders").public_key], 1)
    assert decode(Order, envelope.payload) == ORDER


@pytest.mark.parametrize("role", ["timestamp", "models", "root"])
def test_no_other_key_signs_orders(tmp_path: Path, role: str) -> None:
    keys = Keys.open(tmp_path)
    envelope = Envelope.from_dict(json.loads(OrderSigner(keys).sign(ORDER)))
    with pytest.raises(VerificationError):
        envelope.verify([keys.signer(role).public_key], 1)


@pytest.mark.parametrize("field", ["payload", "payloadType"])
def test_altered_envelopes_are_refused(tmp_path: Path, field: str) -> None:
    keys = Keys.open(tmp_path)
    document = json.loads(OrderSigner(keys).sign(ORDER))
    document[field] = "QUJD" if field == "payload" else "application/vnd.edgectl.order.v2+json"
    with pytest.raises(VerificationError):
        Envelope.from_dict(document).verify([keys.signer("orders").public_key], 1)
