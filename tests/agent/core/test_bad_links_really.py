"""Downloads over bad links with everything real: broker, TLS, the agent's connection, the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.core.control_plane import ControlPlane
from agent.core.faulty_http import FaultyHttp
from agent.core.made import MadeBundle, simple_bundle
from agent.core.test_http_pieces import PROOF
from agent.core.test_lying_broker import issue
from edgectl_agent import connection as connections
from edgectl_agent import http_pieces, http_pull
from edgectl_agent.connection import Connection, Endpoint, Mailbox
from edgectl_agent.core.transfer import TransferLimits
from edgectl_agent.device_key import FileKey
from edgectl_agent.downloader import Downloader
from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import StepFailed
from edgectl_agent.http_pieces import HttpPieces
from edgectl_agent.http_pull import HttpClient
from edgectl_agent.store import Store
from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES
from edgectl_protocol.manifest import decode_manifest, device_layers
from edgectl_protocol.messages import encode
from edgectl_protocol.pulls import blob_path, manifest_path
from links import Link, Weather
from waiting import wait_for

RESENT_MAX = 1.1
BUNDLE = simple_bundle("1", model="har", length=100 * CHUNK_BYTES - 5)
SHORT = simple_bundle("1", model="har", length=14 * CHUNK_BYTES - 5)


def missing(bundle: MadeBundle) -> int:
    """Return the bytes of the layers of a bundle."""
    return sum(layer.size for layer in device_layers(decode_manifest(bundle.manifest)))


@pytest.fixture(scope="module", params=["mosquitto", "embedded"])
def plane(request, tmp_path_factory) -> Iterator[ControlPlane]:
    plane = ControlPlane(tmp_path_factory.mktemp("plane"), broker=request.param)
    for bundle in (BUNDLE, SHORT):
        for topic, payload in bundle.retained.items():
            plane.link.publish(topic, payload, retain=True, bulk=True)
    assert plane.link.flush(60)
    yield plane
    plane.close()


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(connections, "BACKOFF_FIRST_S", 0.05)
    monkeypatch.setattr(http_pieces, "RETRY_FIRST_S", 0.05)


@contextmanager
def connected(
    plane: ControlPlane, folder: Path, port: int, *, keepalive_s: int = 30
) -> Iterator[Connection]:
    """Connect as a device through `port`."""
    certificate, key = issue(plane.authority, folder)
    endpoint = Endpoint(
        host="127.0.0.1",
        port=port,
        certificate=certificate,
        key=FileKey(key, key.read_bytes()),
        authority=plane.authority.server_identity(plane.now).authority,
        device="pi-1",
    )
    connection = Connection(
        endpoint,
        will=lambda: (topics.state("pi-1"), b""),
        on_change=lambda _: None,
        keepalive_s=keepalive_s,
        backoff_s_max=0.2,
    )
    connection.start()
    try:
        wait_for(connection.connected, "a connection")
        yield connection
    finally:
        connection.stop()


def fetch(downloader: Downloader, store: Store, bundle: MadeBundle) -> None:
    downloader.fetch(bundle.digest, model="har", progress=lambda _: None, cancelled=lambda: False)
    # Hashes every file.
    store.bundle("har", manifest=bundle.digest, version="1", variant="fp32")


def over_mqtt(
    plane: ControlPlane,
    folder: Path,
    weather: Weather,
    bundle: MadeBundle,
    *,
    limits: TransferLimits | None = None,
    keepalive_s: int = 30,
) -> Link:
    """Fetch a bundle through a bad link; return the link."""
    store = Store(RealDisk(folder / "state"))
    with (
        Link(plane.broker.port, weather) as link,
        connected(plane, folder, link.port, keepalive_s=keepalive_s) as connection,
    ):
        mailbox = Mailbox(connection, once=True)
        downloader = Downloader("pi-1", store, mailbox, seal=encode, limits=limits)
        fetch(downloader, store, bundle)
    return link


def test_a_slow_lossy_link_brings_everything_once(plane: ControlPlane, tmp_path: Path) -> None:
    """256 kbit/s, 600 ms, 5 %, ten times as fast."""
    weather = Weather(bytes_per_s=320_000, latency_s=0.03, loss=0.05, rto_s=0.12)
    link = over_mqtt(plane, tmp_path, weather, SHORT)
    assert link.bytes_down <= RESENT_MAX * missing(SHORT)


def test_a_link_that_dies_again_and_again_brings_hardly_anything_twice(
    plane: ControlPlane, tmp_path: Path
) -> None:
    weather = Weather(bytes_per_s=2e6, dies_after_bytes=2_500_000)
    link = over_mqtt(plane, tmp_path, weather, BUNDLE)
    assert link.connections >= 3
    assert link.bytes_down <= RESENT_MAX * missing(BUNDLE)


def test_a_link_that_stalls_for_longer_than_is_waited(plane: ControlPlane, tmp_path: Path) -> None:
    """What is asked for again meanwhile is little: the piece that waits longest, then two."""
    weather = Weather(bytes_per_s=2e6, stalls_after_bytes=700_000, stall_s=1.0)
    link = over_mqtt(plane, tmp_path, weather, SHORT, limits=TransferLimits(stall_s=0.4))
    assert link.connections == 1
    assert link.bytes_down <= missing(SHORT) + 8 * CHUNK_BYTES


def test_a_half_open_connection_is_found_and_replaced(plane: ControlPlane, tmp_path: Path) -> None:
    weather = Weather(half_open_after_bytes=400_000)
    link = over_mqtt(plane, tmp_path, weather, SHORT, keepalive_s=1)
    assert link.connections == 2


def test_a_broker_that_is_gone_is_a_failure_that_may_be_tried_again(
    plane: ControlPlane, tmp_path: Path
) -> None:
    """What has come is kept: the next attempt fetches the rest alone."""
    limits = TransferLimits(stall_s=0.5, stall_s_max=0.5, stalls_max=3)
    weather = Weather(half_open_after_bytes=600_000, half_open_max=1000)
    with pytest.raises(StepFailed) as failed:
        over_mqtt(plane, tmp_path, weather, SHORT, limits=limits)
    assert failed.value.code == "transfer.stalled"
    link = over_mqtt(plane, tmp_path, Weather(), SHORT)
    assert link.bytes_down < missing(SHORT) - 4 * CHUNK_BYTES


# ---------------------------------------------------------------- HTTP


def over_http(folder: Path, weather: Weather, bundle: MadeBundle) -> Link:
    """Fetch a bundle from a server through a bad link; return the link."""
    content = {manifest_path("har", bundle.digest): bundle.manifest}
    content |= {blob_path("har", digest): blob for digest, blob in bundle.blobs.items()}
    for layer in decode_manifest(bundle.manifest).layers:
        if layer.chunk_index is not None:
            index = bundle.retained[topics.chunk_index(layer.digest)]
            content[blob_path("har", layer.chunk_index)] = index
    server = FaultyHttp(content)
    store = Store(RealDisk(folder / "state"))
    try:
        with Link(int(server.address.rpartition(":")[2]), weather) as link:
            client = HttpClient(f"http://127.0.0.1:{link.port}", proof=PROOF)
            source = HttpPieces(client)
            downloader = Downloader(
                "pi-1", store, Nothing(), seal=encode, after=[source], broker=False
            )
            fetch(downloader, store, bundle)
    finally:
        server.stop()
    return link


class Nothing:
    """No broker."""

    def connected(self) -> bool:
        return False

    def unasked(self) -> int:
        return 0

    def bytes_in(self) -> int:
        return 0


HTTP_WEATHER = {
    "slow and lossy": Weather(bytes_per_s=320_000, latency_s=0.03, loss=0.05, rto_s=0.12),
    "dies": Weather(bytes_per_s=2e6, dies_after_bytes=800_000),
    "stalls": Weather(bytes_per_s=2e6, stalls_after_bytes=500_000, stall_s=0.5),
    "half open": Weather(half_open_after_bytes=600_000),
}


@pytest.mark.parametrize("weather", HTTP_WEATHER.values(), ids=HTTP_WEATHER.keys())
def test_over_http_too(tmp_path: Path, monkeypatch, weather: Weather) -> None:
    monkeypatch.setattr(http_pull, "CONNECT_S", 2.0)
    link = over_http(tmp_path, weather, SHORT)
    assert link.bytes_down <= missing(SHORT) * RESENT_MAX + CHUNK_BYTES
