"""What comes and is no piece that is wanted: refused or ignored by name, and counted by kind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent.core import faulty_http as faulty
from agent.core.control_plane import ControlPlane
from agent.core.faulty_http import FaultyHttp
from agent.core.made import simple_bundle
from agent.core.test_bad_links_really import connected
from agent.core.test_downloader import BUNDLE, LAYER, Site, site  # noqa: F401 - a fixture
from edgectl_agent.connection import Mailbox
from edgectl_agent.errors import StepFailed
from edgectl_agent.pieces import INDEX, BadPiece, Want
from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.messages import SystemSample, decode
from waiting import wait_for

CHUNK = BUNDLE.retained[topics.chunk(LAYER.digest, 0)]
OTHER = simple_bundle("2", model="other", length=2 * CHUNK_BYTES)

FAULTS: dict[str, tuple[Callable[[bytes], list[bytes]], str]] = {
    "content of another number": (
        lambda _: [BUNDLE.retained[topics.chunk(LAYER.digest, 4)] + b""],
        "altered",
    ),
    "one bit": (lambda piece: [bytes([piece[0] ^ 1]) + piece[1:]], "altered"),
    "of another digest": (lambda _: [bytes(CHUNK_BYTES)], "altered"),
    "twice": (lambda piece: [piece, piece], "duplicate"),
    "truncated": (lambda piece: [piece[:-1]], "truncated"),
    "half": (lambda piece: [piece[: CHUNK_BYTES // 2]], "truncated"),
    "oversized": (lambda piece: [piece + b"?"], "oversized"),
    "cleared": (lambda _: [b""], "empty"),
}


@pytest.mark.parametrize(("disturb", "kind"), FAULTS.values(), ids=FAULTS.keys())
def test_a_bad_piece_is_named_counted_and_overcome(
    site: Site,  # noqa: F811
    disturb: Callable[[bytes], list[bytes]],
    kind: str,
) -> None:
    """Chunk 0 comes wrong once; whatever came besides, the files are right."""
    topic = topics.chunk(LAYER.digest, 0)
    subscribe = site.broker.subscribe
    turns = [disturb(CHUNK)]

    def disturbed(names: list[str]) -> None:
        subscribe(names)
        if topic in names and turns:
            at = [one for one, _ in site.broker.waiting].index(topic)
            site.broker.waiting[at : at + 1] = [(topic, one) for one in turns.pop()]

    site.broker.subscribe = disturbed  # type: ignore[method-assign]
    downloader = site.downloader()
    assert downloader.bad_pieces == {}
    site.fetch(downloader)
    counted = downloader.bad_pieces
    assert counted[kind] == 1
    assert set(counted) <= {kind, "overtaking"}
    refused = kind in {"altered", "truncated", "oversized"}
    assert site.alarms == ["transfer.chunk_altered"] * refused


def test_pieces_out_of_order_are_kept_and_counted(site: Site) -> None:  # noqa: F811
    subscribe = site.broker.subscribe

    def reversed_order(names: list[str]) -> None:
        subscribe(names)
        site.broker.waiting.reverse()

    site.broker.subscribe = reversed_order  # type: ignore[method-assign]
    downloader = site.downloader()
    site.fetch(downloader)
    assert set(downloader.bad_pieces) == {"overtaking"}


@pytest.mark.parametrize("lie", [lambda index: index[:-32], lambda index: index + bytes(32)])
def test_an_index_that_lies_about_the_count_is_refused(
    site: Site,  # noqa: F811
    lie: Callable[[bytes], bytes],
) -> None:
    topic = topics.chunk_index(LAYER.digest)
    subscribe = site.broker.subscribe

    def lying(names: list[str]) -> None:
        subscribe(names)
        site.broker.waiting = [
            (name, lie(payload) if name == topic else payload)
            for name, payload in site.broker.waiting
        ]

    site.broker.subscribe = lying  # type: ignore[method-assign]
    downloader = site.downloader()
    with pytest.raises(StepFailed) as failed:
        site.fetch(downloader)
    assert failed.value.code == "transfer.chunk_altered"
    assert sum(downloader.bad_pieces.values()) == 3
    assert set(downloader.bad_pieces) <= {"altered", "oversized"}


def test_http_answers_are_counted_too(site: Site) -> None:  # noqa: F811
    server: FaultyHttp = site.server
    server.faults.append(faulty.answer(206))
    downloader = site.downloader(after=[server], broker=False)
    with pytest.raises(StepFailed):
        site.fetch(downloader)
    assert downloader.bad_pieces == {"answer": 1}


def test_what_is_wrong_is_told_by_length_where_it_is_known() -> None:
    digest = hashlib.sha256(b"right").digest()
    chunks = Want(
        LAYER.digest,
        path="",
        length=CHUNK_BYTES + 5,
        missing=(0, 1),
        expected=lambda _: digest,
        accept=lambda *_: None,
    )
    assert chunks.fault(1, b"wrong") is BadPiece.ALTERED
    assert chunks.fault(1, b"tiny") is BadPiece.TRUNCATED
    assert chunks.fault(1, b"too long") is BadPiece.OVERSIZED
    assert chunks.fault(INDEX, b"short") is BadPiece.ALTERED


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
def test_a_retained_message_that_nobody_asked_for_is_counted(tmp_path: Path, kind: str) -> None:
    """A subscription that an earlier life has left behind, and a broker that sends what it has."""
    plane = ControlPlane(tmp_path / "plane", broker=kind)
    topic = next(iter(OTHER.retained))
    try:
        with connected(plane, tmp_path, plane.broker.port) as connection:
            mailbox = Mailbox(connection, once=True)
            mailbox.subscribe([topic])
            connection._topics.remove([topic])  # it forgets, the broker does not
            plane.publish(topic, OTHER.retained[topic])
            wait_for(lambda: mailbox.unasked() == 1, "a message that nobody wants")
            assert mailbox.receive(0.01) is None
    finally:
        plane.close()


def test_counts_travel_with_telemetry_within_bounds() -> None:
    sample = SystemSample(at="2026-11-23T00:00:00Z", bad_pieces={"altered": 3})  # type: ignore[arg-type]
    assert decode(SystemSample, msgspec.json.encode(sample)).bad_pieces == {"altered": 3}
    many = {chr(97 + one) * 3: 1 for one in range(17)}
    for wrong in (many, {"a b": 1}, {"altered": -1}, {"x" * 33: 1}):
        with pytest.raises(ProtocolError):
            decode(
                SystemSample,
                msgspec.json.encode({"at": "2026-11-23T00:00:00Z", "bad_pieces": wrong}),
            )
