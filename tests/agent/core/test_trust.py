"""What the device believes: the server's real repository against a transport that may lie."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from agent.core.made import make_order, simple_bundle
from edgectl_agent.clock import now
from edgectl_agent.core.record import Floor
from edgectl_agent.errors import Refused, StepCancelled, StepFailed, StepRejected
from edgectl_agent.trust.process import Trust
from edgectl_agent.trust.verifier import parse_envelope
from edgectl_protocol import topics
from edgectl_protocol.messages import MetadataHead, encode
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.orders import OrderSigner
from edgectl_server.signing.repository import Repository, Target

BUNDLE = simple_bundle("1")
TARGET = BUNDLE.candidate.target
NOW = now()


class Retained:
    """A transport that answers from a dictionary, at once."""

    def __init__(self) -> None:
        self.messages: dict[str, bytes] = {}
        self.bytes = 0
        self._next: list[tuple[str, bytes]] = []

    def connected(self) -> bool:
        return True

    def subscribe(self, names: Sequence[str]) -> None:
        for name in names:
            if name in self.messages:
                self.bytes += len(self.messages[name])
                self._next.append((name, self.messages[name]))

    def unsubscribe(self, names: Sequence[str]) -> None:
        self._next.clear()

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None:
        return self._next.pop(0) if self._next else None

    def publish(self, topic: str, payload: bytes) -> None:
        raise AssertionError("trust publishes nothing")


class Publisher:
    """The server's side."""

    def __init__(self, directory: Path, now: datetime = NOW) -> None:
        self.keys = Keys.open(directory / "keys")
        self.repository = Repository.open(directory / "tuf", self.keys, now)
        self.add(now)

    def add(self, now: datetime = NOW, version: str = "1") -> None:
        bundle = simple_bundle(version)
        target = Target(bundle.candidate.target, bundle.digest, len(bundle.manifest))
        self.repository.add_targets([target], now)

    def messages(self) -> dict[str, bytes]:
        found = {
            topics.metadata(role, version): content
            for role, version, content in self.repository.metadata()
        }
        found[topics.head()] = encode(MetadataHead(root=self.repository.root_version))
        return found


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "server")


MakeTrust = Callable[[Publisher], tuple[Trust, Retained]]


@pytest.fixture
def make_trust(tmp_path: Path) -> Iterator[MakeTrust]:
    made = []

    def make(publisher: Publisher) -> tuple[Trust, Retained]:
        transport = Retained()
        transport.messages = publisher.messages()
        root = publisher.repository.first_root
        made.append(Trust(tmp_path / "cache", root, transport, timeout_s=1.0))
        return made[-1], transport

    yield make
    for trust in made:
        trust.close()


def find(trust: Trust, floor: Floor | None = None, manifest: str = BUNDLE.digest) -> Floor:
    return trust.find(TARGET, manifest, floor or Floor(), lambda: False)


def test_a_signed_target_is_found_and_little_is_fetched_again(
    make_trust: MakeTrust, publisher: Publisher
) -> None:
    trust, transport = make_trust(publisher)
    first = find(trust)
    assert (first.root, first.timestamp) == (1, 2)
    transport.bytes = 0
    assert find(trust, first) == first
    assert transport.bytes < 1500


def test_another_content_than_signed_for_is_rejected(
    make_trust: MakeTrust, publisher: Publisher
) -> None:
    trust, _ = make_trust(publisher)
    with pytest.raises(StepRejected, match=r"trust\.mismatch"):
        find(trust, manifest=simple_bundle("2").digest)


def test_a_target_that_is_not_there_yet_may_be_tried_again(
    make_trust: MakeTrust, publisher: Publisher
) -> None:
    trust, transport = make_trust(publisher)
    with pytest.raises(StepFailed, match=r"trust\.target"):
        trust.find("models/activity/2/fp32", BUNDLE.digest, Floor(), lambda: False)
    publisher.add(version="2")
    transport.messages = publisher.messages()
    trust.find("models/activity/2/fp32", simple_bundle("2").digest, Floor(), lambda: False)


@pytest.mark.parametrize("gone", [topics.head(), topics.metadata("timestamp", None)])
def test_a_silent_topic_is_no_answer(
    make_trust: MakeTrust, publisher: Publisher, gone: str
) -> None:
    trust, transport = make_trust(publisher)
    del transport.messages[gone]
    with pytest.raises(StepFailed, match=r"trust\.unreachable"):
        find(trust)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "head"])
@pytest.mark.parametrize("lie", [b"{}", b"not json", b"\xff" * 200_000, b"[" * 50_000])
def test_anything_else_than_metadata_is_not_believed(
    make_trust: MakeTrust, publisher: Publisher, role: str, lie: bytes
) -> None:
    trust, transport = make_trust(publisher)
    for topic in list(transport.messages):
        if f"/{role}" in topic:
            transport.messages[topic] = lie
    with pytest.raises(StepFailed, match=r"trust\."):
        find(trust)


def test_a_foreign_repository_is_not_believed(
    make_trust: MakeTrust, tmp_path: Path, publisher: Publisher
) -> None:
    trust, transport = make_trust(publisher)
    transport.messages = Publisher(tmp_path / "other").messages()
    with pytest.raises(StepFailed, match=r"trust\.refused"):
        find(trust)


def test_older_metadata_is_not_believed_even_after_the_cache_is_lost(
    make_trust: MakeTrust, tmp_path: Path, publisher: Publisher
) -> None:
    trust, transport = make_trust(publisher)
    old = publisher.messages()
    publisher.add(version="2")
    transport.messages = publisher.messages()
    floor = find(trust)
    transport.messages = old
    with pytest.raises(StepFailed, match=r"trust\."):
        find(trust, floor)
    shutil.rmtree(tmp_path / "cache")  # python-tuf does not write it durably
    again, transport = make_trust(publisher)
    transport.messages = old
    with pytest.raises(StepFailed, match=r"trust\.rollback"):
        find(again, floor)
    find(again)  # without the floor it would have been believed


def test_expired_metadata_is_not_believed(make_trust: MakeTrust, tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "server", NOW - timedelta(days=3))
    trust, _ = make_trust(publisher)
    with pytest.raises(StepFailed, match=r"trust\.expired"):
        find(trust)


def test_a_torn_cache_is_fetched_again(
    make_trust: MakeTrust, tmp_path: Path, publisher: Publisher
) -> None:
    trust, _ = make_trust(publisher)
    floor = find(trust)
    for name in ("timestamp.json", "snapshot.json", "targets.json", "root_history/1.root.json"):
        (tmp_path / "cache" / name).write_bytes(b"")
    again, _ = make_trust(publisher)
    assert find(again, floor) == floor


def test_newer_roots_are_walked(make_trust: MakeTrust, publisher: Publisher) -> None:
    trust, transport = make_trust(publisher)
    find(trust)
    assert publisher.repository.refresh(NOW + timedelta(days=200))
    assert publisher.repository.root_version == 2
    transport.messages = publisher.messages()
    assert find(trust).root == 2


def test_a_refresh_can_be_cancelled(make_trust: MakeTrust, publisher: Publisher) -> None:
    trust, transport = make_trust(publisher)
    transport.messages.clear()
    with pytest.raises(StepCancelled):
        trust.find(TARGET, BUNDLE.digest, Floor(), lambda: True)


def test_an_order_is_believed_by_its_signature(
    make_trust: MakeTrust, tmp_path: Path, publisher: Publisher
) -> None:
    trust, transport = make_trust(publisher)
    order = make_order(3, [BUNDLE])
    signer = OrderSigner(publisher.keys)
    assert trust.check_order(signer.sign(order), lambda: False).order == order
    transport.bytes = 0
    assert trust.check_order(signer.sign(order), lambda: False).order == order
    assert transport.bytes == 0  # the same bytes, as after each connection
    stranger = OrderSigner(Keys.open(tmp_path / "stranger"))
    with pytest.raises(Refused, match=r"order\.signature"):
        trust.check_order(stranger.sign(order), lambda: False)


def test_an_order_is_checked_though_the_metadata_has_expired(
    make_trust: MakeTrust, tmp_path: Path
) -> None:
    """The refusal to install is then the update's answer, which the server gets to see."""
    publisher = Publisher(tmp_path / "server", NOW - timedelta(days=3))
    trust, _ = make_trust(publisher)
    order = make_order(3, [BUNDLE])
    assert trust.check_order(OrderSigner(publisher.keys).sign(order), lambda: False).order == order


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b'{"payload": "", "payloadType": "x", "signatures": []}',
        b'{"payload": "e30=", "payloadType": 5, "signatures": [{"keyid": 1, "sig": 2}]}',
        b'{"payload": "e30=", "payloadType": "x", "signatures": 5}',
        b'{"payload": "e30=", "payloadType": "x", "signatures": [1]}',
        b'{"signatures": [' + b'{"keyid":"a","sig":"aa"},' * 1000 + b"0]}",
        b"[" * 100_000,
        b"x" * 200_000,
    ],
)
def test_what_is_no_envelope_is_refused(payload: bytes) -> None:
    with pytest.raises(Refused, match=r"order\.malformed"):
        parse_envelope(payload)


def test_a_signature_on_something_else_is_none_on_an_order(
    make_trust: MakeTrust, publisher: Publisher
) -> None:
    from securesystemslib.dsse import Envelope

    trust, _ = make_trust(publisher)
    for payload_type in ("application/octet-stream", "application/vnd.in-toto+json"):
        envelope = Envelope(encode(make_order(1, [BUNDLE])), payload_type, {})
        envelope.sign(publisher.keys.signer("orders"))
        with pytest.raises(Refused):
            trust.check_order(msgspec.json.encode(envelope.to_dict()), lambda: False)
