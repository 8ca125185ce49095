"""Downloads over bad links in simulated time: what they fetch twice, in figures.

The full-size links are here because they cost no time; the same over real sockets, with a real
broker and the agent's real connection, is `test_bad_links_really.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.made import MadeBundle, simple_bundle
from agent.core.modelled_link import ModelledLink
from edgectl_agent.downloader import Downloader
from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import StepFailed
from edgectl_agent.store import Store
from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES
from edgectl_protocol.manifest import decode_manifest, device_layers
from edgectl_protocol.messages import encode
from links import Weather

SLOW = Weather(bytes_per_s=256_000 / 8, latency_s=0.3, loss=0.05, rto_s=1.2)
"""256 kbit/s, 600 ms there and back, every twentieth segment comes later."""
DYING = Weather(bytes_per_s=2_000_000 / 8, latency_s=0.05, dies_after_s=10.0)
SLOW_AND_DYING = Weather(bytes_per_s=1_000_000 / 8, latency_s=0.3, loss=0.01, dies_after_s=10.0)
RESENT_MAX = 1.1


def fetch(folder: Path, link: ModelledLink, bundle: MadeBundle) -> float:
    """Fetch a bundle; return the bytes on the wire for each byte that was missing."""
    store = Store(RealDisk(folder))
    downloader = Downloader("pi-1", store, link, seal=encode, elapsed=link.elapsed)
    downloader.fetch(bundle.digest, model="har", progress=lambda _: None, cancelled=lambda: False)
    store.bundle("har", manifest=bundle.digest, version="1", variant="fp32")  # hashes every file
    missing = sum(layer.size for layer in device_layers(decode_manifest(bundle.manifest)))
    return link.bytes_down / missing


@pytest.fixture(scope="module")
def bundle() -> MadeBundle:
    return simple_bundle("1", model="har", length=80 * CHUNK_BYTES - 5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("weather", "stall_every_s"),
    [
        pytest.param(SLOW, 0.0, id="256 kbit/s, 600 ms, 5 %"),
        pytest.param(DYING, 0.0, id="dies every 10 s"),
        pytest.param(SLOW_AND_DYING, 0.0, id="slow, and dies every 10 s"),
        pytest.param(Weather(bytes_per_s=250_000, stall_s=4.0), 15.0, id="stalls of 4 s"),
        pytest.param(Weather(bytes_per_s=250_000, stall_s=12.0), 15.0, id="stalls of 12 s"),
        pytest.param(Weather(bytes_per_s=250_000, stall_s=25.0), 60.0, id="stalls of 25 s"),
    ],
)
def test_hardly_anything_comes_twice(
    tmp_path: Path, bundle: MadeBundle, weather: Weather, stall_every_s: float, seed: int
) -> None:
    link = ModelledLink(bundle.retained, weather, seed=seed, stall_every_s=stall_every_s)
    ratio = fetch(tmp_path, link, bundle)
    assert ratio <= RESENT_MAX, f"{ratio:.3f} in {link.now_s:.0f} s"


def test_a_broker_that_forgets_sessions_is_asked_again(tmp_path: Path, bundle: MadeBundle) -> None:
    link = ModelledLink(bundle.retained, DYING, keeps_sessions=False)
    ratio = fetch(tmp_path, link, bundle)
    assert link.connections > 1
    assert ratio <= RESENT_MAX, f"{ratio:.3f} in {link.now_s:.0f} s"


def test_what_the_broker_loses_is_named_and_nothing_else_comes_twice(
    tmp_path: Path, bundle: MadeBundle
) -> None:
    model = max(device_layers(decode_manifest(bundle.manifest)), key=lambda one: one.size)
    lost = {topics.chunk(model.digest, number) for number in (3, 20, 79)}
    link = ModelledLink(bundle.retained, Weather(bytes_per_s=250_000), lost_by_broker=lost)
    assert fetch(tmp_path, link, bundle) <= 1 + 4 / 80
    assert link.seeds >= 1


def test_a_link_that_brings_nothing_any_more_is_a_failure_that_may_be_tried_again(
    tmp_path: Path, bundle: MadeBundle
) -> None:
    weather = Weather(bytes_per_s=250_000, stall_s=3600.0)
    link = ModelledLink(bundle.retained, weather, stall_every_s=10.0)
    with pytest.raises(StepFailed) as failed:
        fetch(tmp_path, link, bundle)
    assert failed.value.code == "transfer.stalled"
    assert link.now_s < 300
    # What has come is here: the next attempt, on a sound link, brings the rest alone.
    there = link.bytes_down
    sound = ModelledLink(bundle.retained, Weather(bytes_per_s=250_000))
    assert fetch(tmp_path, sound, bundle) * 80 <= 81 - (there // CHUNK_BYTES - 1)
