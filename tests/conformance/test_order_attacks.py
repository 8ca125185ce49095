"""Attacks on orders: what is not signed by a key that the newest root lists is none of ours.

An order is checked before the update machine hears of it, so that a refused one can change nothing.
What the machine refuses of orders that are signed well (replayed, redirected, expired) is in
`tests/agent/core/test_device_faults.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import TargetFile

from agent.core.made import START, make_order
from agent.core.test_benchmarks import make_request
from conformance.attacked import V1, Topics
from conformance.repository import BASE_URL, Files, SignedRepository
from edgectl_agent.errors import Refused, StepFailed
from edgectl_agent.trust.process import Trust
from edgectl_agent.trust.verifier import Verifier
from edgectl_protocol.envelopes import Envelope, Signature, encode_envelope, signed_bytes
from edgectl_protocol.messages import (
    MESSAGE_BYTES_MAX,
    ORDER_PAYLOAD_TYPE,
    REQUEST_PAYLOAD_TYPE,
    decode,
    encode,
)
from edgectl_protocol.messages import Order as OrderMessage
from edgectl_protocol.metadata import ORDER_KEYS_FIELD
from edgectl_protocol.uploads import LOG_REQUEST_PAYLOAD_TYPE, LogRequest

ORDER = encode(make_order(7, [V1]))
REQUEST = encode(make_request(7))


class Server:
    """A repository whose root lists keys for orders."""

    def __init__(self) -> None:
        self.repository = SignedRepository()
        self.signer: Signer = CryptoSigner.generate_ecdsa()
        self.payload_type = ORDER_PAYLOAD_TYPE
        self.list_keys(self.signer)
        self.repository.root.version = 0
        self.repository.publish_root()
        self.repository.first_root = self.repository.files["1.root.json"]

    def list_keys(self, *signers: Signer) -> None:
        listed = {one.public_key.keyid: one.public_key.to_dict() for one in signers}
        self.repository.root.unrecognized_fields[ORDER_KEYS_FIELD] = listed

    def sign(
        self,
        payload: bytes = ORDER,
        *,
        signer: Signer | None = None,
        keyid: str | None = None,
        payload_type: str | None = None,
        signed_as: str | None = None,
    ) -> bytes:
        signer = signer or self.signer
        payload_type = payload_type or self.payload_type
        made = signer.sign(signed_bytes(signed_as or payload_type, payload))
        signature = Signature(
            keyid=keyid or signer.public_key.keyid, sig=bytes.fromhex(made.signature)
        )
        return encode_envelope(
            Envelope(payload_type=payload_type, payload=payload, signatures=(signature,))
        )


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def verifier(tmp_path: Path, server: Server) -> Verifier:
    files = Files(server.repository)
    return Verifier(tmp_path / "cache", server.repository.first_root, files, base_url=BASE_URL)


@pytest.fixture
def trust(tmp_path: Path, server: Server) -> Iterator[Trust]:
    trust = Trust(
        tmp_path / "of-process",
        server.repository.first_root,
        Topics(server.repository),
        timeout_s=0.5,
    )
    yield trust
    trust.close()


@dataclass(frozen=True)
class Case:
    """What the attacker sends, and the code by which it is refused."""

    name: str
    make: Callable[[Server], bytes]
    code: str


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Server], bytes]:
    """A good envelope as JSON, changed."""

    def make(server: Server) -> bytes:
        document = json.loads(server.sign())
        change(document)
        return json.dumps(document).encode()

    return make


def stranger_named_as_ours(server: Server) -> bytes:
    stranger = CryptoSigner.generate_ecdsa()
    return server.sign(signer=stranger, keyid=server.signer.public_key.keyid)


def first_signature(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["signatures"][0]
    return found


def other_payload(document: dict[str, Any]) -> None:
    from base64 import b64encode

    document["payload"] = b64encode(ORDER.replace(b'"counter":7', b'"counter":8')).decode()


SIGNATURE, MALFORMED = "order.signature", "order.malformed"
CASES = (
    Case("a stranger signs", lambda server: server.sign(signer=CryptoSigner.generate_ecdsa()),
         SIGNATURE),
    Case("a stranger under our key's name", stranger_named_as_ours, SIGNATURE),
    *(Case(f"the key of {role} signs",
           lambda server, role=role: server.sign(signer=server.repository.signers[role][0]),
           SIGNATURE)
      for role in ("root", "targets", "snapshot", "timestamp")),
    Case("another counter in a signed order", changed(other_payload), SIGNATURE),
    Case("signed as something else",
         lambda server: server.sign(signed_as="application/vnd.edgectl.state.v1+json"), SIGNATURE),
    Case("something else that is signed",
         lambda server: server.sign(payload_type="application/vnd.edgectl.state.v1+json"),
         MALFORMED),
    Case("no signature", changed(lambda one: one["signatures"].clear()), MALFORMED),
    Case("an empty signature", changed(lambda one: first_signature(one).update(sig="")), SIGNATURE),
    Case("half a signature",
         changed(lambda one: first_signature(one).update(sig=first_signature(one)["sig"][:40])),
         SIGNATURE),
    Case("a signature of nobody", changed(lambda one: first_signature(one).update(keyid="")),
         SIGNATURE),
    Case("seventeen signatures", changed(lambda one: one.update(signatures=one["signatures"] * 17)),
         MALFORMED),
    Case("a key named モデル", changed(lambda one: first_signature(one).update(keyid="モデル")),
         SIGNATURE),
    Case("not signed at all", lambda _server: ORDER, MALFORMED),
    Case("too long", lambda _server: b" " * (MESSAGE_BYTES_MAX + 1), MALFORMED),
    Case("too deep", lambda _server: b'{"payload":' * 20_000, MALFORMED),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_not_signed_for_is_refused(case: Case, server: Server, verifier: Verifier) -> None:
    with pytest.raises(Refused) as refused:
        verifier.check_order(case.make(server))
    assert refused.value.code == case.code
    assert verifier.check_order(server.sign()).payload == ORDER, "an honest one is taken as before"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_requests_are_checked_as_strictly(case: Case, server: Server, verifier: Verifier) -> None:
    """The same attacks, with the payload type of requests in the place of that of orders."""
    server.payload_type = REQUEST_PAYLOAD_TYPE
    with pytest.raises(Refused) as refused:
        verifier.check_request(case.make(server))
    assert refused.value.code == case.code.replace("order.", "request.")
    assert verifier.check_request(server.sign()).payload == ORDER, "an honest one is taken"


def test_neither_passes_for_the_other(server: Server, trust: Trust) -> None:
    order, request = server.sign(), server.sign(REQUEST, payload_type=REQUEST_PAYLOAD_TYPE)
    for check, payload, code in (
        (trust.check_request, order, "request.malformed"),
        (trust.check_order, request, MALFORMED),
        # Signed as one, sent as the other.
        (trust.check_request,
         server.sign(REQUEST, payload_type=REQUEST_PAYLOAD_TYPE, signed_as=ORDER_PAYLOAD_TYPE),
         "request.signature"),
        (trust.check_request, server.sign(payload_type=REQUEST_PAYLOAD_TYPE), "request.malformed"),
    ):  # fmt: skip
        with pytest.raises(Refused) as refused:
            check(payload, lambda: False)
        assert refused.value.code == code
    assert trust.check_request(request, lambda: False).request == make_request(7)
    asked = LogRequest(
        device="pi-1", job="0" * 16, counter=8, nonce="0" * 32, issued_at=START, expires_at=START
    )
    signed = server.sign(encode(asked), payload_type=LOG_REQUEST_PAYLOAD_TYPE)
    assert trust.check_request(signed, lambda: False).request == asked
    with pytest.raises(Refused) as refused:
        trust.check_request(
            server.sign(encode(asked), payload_type=REQUEST_PAYLOAD_TYPE), lambda: False
        )
    assert refused.value.code == "request.malformed", "neither passes for one to measure"
    for payload in (b"{}", b"null", REQUEST[:-1], REQUEST.replace(b'"runs":7', b'"runs":0')):
        with pytest.raises(Refused) as refused:
            trust.check_request(
                server.sign(payload, payload_type=REQUEST_PAYLOAD_TYPE), lambda: False
            )
        assert refused.value.code == "request.malformed"


def test_a_request_of_a_newer_server_is_no_attack(server: Server, trust: Trust) -> None:
    newer = server.sign(payload_type="application/vnd.edgectl.dance-request.v1+json")
    with pytest.raises(StepFailed) as failed:
        trust.check_request(newer, lambda: False)
    assert failed.value.code == "request.unknown"
    forged = newer.replace(b"dance", b"glide")
    with pytest.raises(Refused) as refused:
        trust.check_request(forged, lambda: False)
    assert refused.value.code == "request.signature"


def test_signed_and_no_order(server: Server, trust: Trust) -> None:
    for payload in (b"{}", b"null", ORDER[:-1], b"[" * 10_000, ORDER.replace(b'"pi-1"', b'"*"')):
        with pytest.raises(Refused) as refused:
            trust.check_order(server.sign(payload), lambda: False)
        assert refused.value.code == MALFORMED
    assert trust.check_order(server.sign(), lambda: False).order == decode(OrderMessage, ORDER)


def test_a_key_that_was_taken_out_signs_no_more(server: Server, trust: Trust) -> None:
    """Not even within the life of the process that has believed it."""
    assert trust.check_order(server.sign(), lambda: False).order.counter == 7
    old, server.signer = server.signer, CryptoSigner.generate_ecdsa()
    server.list_keys(server.signer)
    server.repository.publish_root()
    newer = encode(make_order(8, [V1]))
    with pytest.raises(Refused) as refused:
        trust.check_order(server.sign(newer, signer=old), lambda: False)
    assert refused.value.code == SIGNATURE
    assert trust.check_order(server.sign(newer), lambda: False).order.counter == 8


def test_two_keys_overlap_during_a_rotation(server: Server, verifier: Verifier) -> None:
    new = CryptoSigner.generate_ed25519()
    server.list_keys(server.signer, new)
    server.repository.publish_root()
    assert verifier.check_order(server.sign()).payload == ORDER
    assert verifier.check_order(server.sign(signer=new)).payload == ORDER


@pytest.mark.parametrize(
    "listed",
    [
        None,
        [],
        "x",
        {},
        {"a": None},
        {"a": {"keytype": "ecdsa"}},
        {"a": {"keytype": "new", "scheme": "new", "keyval": {"public": "x"}}},
        {"a": {"keytype": 1, "scheme": [], "keyval": "x"}},
    ],
    ids=repr,
)
def test_a_root_with_keys_that_are_none(server: Server, verifier: Verifier, listed: Any) -> None:
    """Signed by root's holders, perhaps for newer devices: no order is taken, nothing breaks."""
    server.repository.root.unrecognized_fields[ORDER_KEYS_FIELD] = listed
    server.repository.publish_root()
    with pytest.raises(Refused, match=r"order\.signature"):
        verifier.check_order(server.sign())


def test_without_metadata_no_order_is_taken(server: Server, verifier: Verifier) -> None:
    """The broker that withholds the metadata cannot keep a key alive that was taken out."""
    assert verifier.check_order(server.sign()).payload == ORDER
    withheld = server.repository.files.pop("timestamp.json")
    with pytest.raises(StepFailed, match=r"trust\.unreachable"):
        verifier.check_order(server.sign())
    server.repository.files["timestamp.json"] = withheld
    assert verifier.check_order(server.sign()).payload == ORDER


def test_an_order_for_what_nobody_signed_for_is_worth_nothing(
    server: Server, verifier: Verifier
) -> None:
    """The thief of the orders' key can order only what the owners of models have signed."""
    from edgectl_agent.core.record import Floor
    from edgectl_agent.errors import StepRejected

    path = V1.candidate.target
    info = TargetFile(len(V1.manifest), {"sha256": "0" * 64}, path)
    server.repository.targets["targets"].targets[path] = info
    server.repository.publish("targets")
    with pytest.raises(StepRejected, match=r"trust\.mismatch"):
        verifier.find(path, V1.digest, Floor())
    with pytest.raises(StepFailed, match=r"trust\.target"):
        verifier.find("models/other/1/fp32", V1.digest, Floor())
