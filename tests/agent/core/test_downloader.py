"""Sources that take turns in the middle of a file: broker, server, mirror, on a real store."""

from __future__ import annotations

import pytest

from agent.core import faulty_http as faulty
from agent.core.faulty_http import FaultyHttp
from agent.core.made import simple_bundle
from agent.core.test_http_pieces import PROOF
from edgectl_agent import broker_pieces, http_pieces
from edgectl_agent.core.pacing import Pacer
from edgectl_agent.core.transfer import TransferLimits
from edgectl_agent.downloader import Downloader
from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import StepFailed
from edgectl_agent.http_pieces import HttpPieces
from edgectl_agent.http_pull import HttpClient
from edgectl_agent.store import Store
from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES
from edgectl_protocol.manifest import decode_manifest, device_layers, model_layer
from edgectl_protocol.messages import encode
from edgectl_protocol.pulls import blob_path, manifest_path

MODEL_CHUNKS = 12
BUNDLE = simple_bundle("1", model="har", length=MODEL_CHUNKS * CHUNK_BYTES - 5)
MANIFEST = decode_manifest(BUNDLE.manifest)
LAYER = model_layer(MANIFEST)
ALL_BYTES = (
    len(BUNDLE.manifest) + 32 * MODEL_CHUNKS + sum(one.size for one in device_layers(MANIFEST))
)
"""What a device fetches of it."""


def http_content() -> dict[str, bytes]:
    """What the server has at which path."""
    content = {manifest_path("har", BUNDLE.digest): BUNDLE.manifest}
    content |= {blob_path("har", digest): blob for digest, blob in BUNDLE.blobs.items()}
    for layer in MANIFEST.layers:
        if layer.chunk_index is not None:
            index = BUNDLE.retained[topics.chunk_index(layer.digest)]
            content[blob_path("har", layer.chunk_index)] = index
    return content


class Broker:
    """Retained topics; `refused` says which ones bring nothing."""

    def __init__(self) -> None:
        self.refused = lambda _topic: False
        self.up = True
        self.elapsed_s = 0.0
        self.waiting: list[tuple[str, bytes]] = []
        self.bytes = 0
        self.seeds = 0

    def connected(self) -> bool:
        return self.up

    def subscribe(self, names) -> None:
        if self.up:
            self.waiting += [
                (name, BUNDLE.retained[name])
                for name in names
                if name in BUNDLE.retained and not self.refused(name)
            ]

    def came(self, topic) -> None:
        pass

    def unasked(self) -> int:
        return 0

    def bytes_in(self) -> int:
        return self.bytes

    def unsubscribe(self, names) -> None:
        gone = set(names)
        self.waiting = [one for one in self.waiting if one[0] not in gone]

    def receive(self, timeout_s):
        self.elapsed_s += max(timeout_s, 0.01)
        if not self.waiting:
            return None
        topic, payload = self.waiting.pop(0)
        self.bytes += len(payload)
        return topic, payload

    def publish(self, topic, payload) -> None:
        self.seeds += 1


class Site:
    """A device with its sources."""

    def __init__(self, folder) -> None:
        self.store = Store(RealDisk(folder / "state"))
        self.broker = Broker()
        self.server = FaultyHttp(http_content())
        self.mirror = FaultyHttp(http_content())
        self.alarms: list[str] = []

    def source(self, server: FaultyHttp | str) -> HttpPieces:
        address = server if isinstance(server, str) else server.address
        return HttpPieces(
            HttpClient(address, proof=PROOF),
            alarm=lambda reason: self.alarms.append(reason.code),
            elapsed=lambda: self.broker.elapsed_s,
            sleep=self.sleep,
        )

    def sleep(self, seconds: float) -> None:
        self.broker.elapsed_s += seconds

    def downloader(self, before=(), after=(), **options) -> Downloader:
        return Downloader(
            "pi-1",
            self.store,
            self.broker,
            seal=encode,
            alarm=lambda reason: self.alarms.append(reason.code),
            elapsed=lambda: self.broker.elapsed_s,
            limits=TransferLimits(),
            before=[self.source(one) for one in before],
            after=[self.source(one) for one in after],
            **options,
        )

    def fetch(self, downloader: Downloader) -> None:
        downloader.fetch(
            BUNDLE.digest, model="har", progress=lambda _: None, cancelled=lambda: False
        )
        # Hashes every file.
        self.store.bundle("har", manifest=BUNDLE.digest, version="1", variant="fp32")


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.server.stop()
    site.mirror.stop()


def chunk_number(topic: str) -> int:
    last = topic.rsplit("/", 1)[1]
    return int(last) if last.isdigit() else -1


def test_a_broker_that_works_is_all_that_is_asked(site):
    site.fetch(site.downloader(after=[site.server]))
    assert site.server.asked == []


def test_a_broker_that_brings_no_chunk_at_all(site):
    site.broker.refused = lambda _topic: True
    site.fetch(site.downloader(after=[site.server]))
    assert site.broker.bytes == 0
    assert site.broker.seeds > 0  # it was asked for first
    assert site.server.body_bytes == ALL_BYTES


def test_fail_over_in_the_middle_of_a_file_keeps_what_is_there(site):
    """Chunks 0 to 4 come over the broker, 5 to 11 and the files after by HTTP, and none twice."""
    site.broker.refused = lambda topic: (
        topic.startswith(topics.chunk(LAYER.digest, 0)[:-1]) and chunk_number(topic) >= 5
    )
    site.fetch(site.downloader(after=[site.server]))
    asked, *after = site.server.asked
    assert asked.span == (5 * CHUNK_BYTES, LAYER.size)
    layers = device_layers(decode_manifest(BUNDLE.manifest))
    assert [one.path for one in after] == [blob_path("har", one.digest) for one in layers[1:]]
    assert site.server.body_bytes == sum(one.size for one in layers) - 5 * CHUNK_BYTES


def test_and_back_again(site):
    """The server breaks off for good; the broker has the rest by then."""
    site.broker.refused = lambda topic: chunk_number(topic) >= 5

    def break_off(server, connection, asked):
        faulty.truncated(2 * CHUNK_BYTES)(server, connection, asked)
        site.broker.refused = lambda _topic: False
        server.faults = [faulty.answer(404)]

    site.server.faults = [break_off]
    site.fetch(site.downloader(after=[site.server]))
    assert site.server.body_bytes == 2 * CHUNK_BYTES
    model = [one for one in site.server.asked if one.path == blob_path("har", LAYER.digest)]
    assert len(model) == 2


def test_a_restart_goes_on_with_the_other_transport(site):
    """What one agent has fetched by HTTP the next one does not fetch over the broker."""
    site.server.faults = [faulty.good, faulty.good, faulty.truncated(6 * CHUNK_BYTES + 9)]
    site.server.faults += [faulty.answer(404)] * 20
    with pytest.raises(StepFailed, match=r"transfer\.refused"):
        site.fetch(site.downloader(after=[site.server], broker=False))
    before = site.broker.bytes
    site.fetch(site.downloader())
    there = len(BUNDLE.manifest) + 6 * CHUNK_BYTES
    assert site.broker.bytes - before == ALL_BYTES - there


def test_a_mirror_is_asked_first_and_believed_no_more_than_others(site):
    site.fetch(site.downloader(before=[site.mirror], after=[site.server]))
    assert (site.broker.bytes, site.server.asked) == (0, [])
    assert site.mirror.body_bytes > LAYER.size


def test_a_mirror_that_alters_content_is_told_of_and_left(site):
    site.mirror.faults = [faulty.altered] * 30
    site.fetch(site.downloader(before=[site.mirror]))
    assert set(site.alarms) == {"transfer.chunk_altered"}


def test_every_source_fails(site):
    site.broker.refused = lambda _topic: True
    site.server.faults = [faulty.answer(404)] * 99
    with pytest.raises(StepFailed, match=r"transfer\.stalled.*does not come.*answers 404"):
        site.fetch(site.downloader(after=[site.server]))
    assert site.broker.elapsed_s > 45


def test_without_a_broker_the_server_is_asked_soon_and_waited_for(site):
    site.broker.up = False
    site.fetch(site.downloader(after=[site.server]))
    assert broker_pieces.OFFLINE_S <= site.broker.elapsed_s < 60


def test_without_any_network_it_waits_for_one(site, monkeypatch):
    """Time without a connection is no failure: it goes on when there is one again."""
    site.broker.up = False
    monkeypatch.setattr(http_pieces, "TRIES_MAX", 1)
    downloader = site.downloader(after=["http://127.0.0.1:1"])
    receive = site.broker.receive

    def receive_later(timeout_s):
        site.broker.up = site.broker.elapsed_s > 3600
        return receive(timeout_s)

    site.broker.receive = receive_later
    site.fetch(downloader)
    assert site.broker.elapsed_s > 3600


def test_a_bound_on_bytes_per_second_holds_for_the_broker_too(site):
    rate = 2 * CHUNK_BYTES
    site.fetch(site.downloader(pacer=Pacer(rate)))
    assert site.broker.elapsed_s >= LAYER.size / rate - 2
    assert site.broker.seeds == 0  # waiting by our own will is no stall
