"""A download in a process of its own that is killed at random moments, again and again.

The process is a fork with the real downloader and store on a real file system. The transport holds
every chunk and gives some bytes a millisecond, so that a kill falls anywhere: before the first
chunk, while one is written, in a checkpoint, between the last chunk and the file's name. What it
has told through a pipe before it died is what the next life must still have.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from agent.core.made import MadeBundle, simple_bundle
from edgectl_agent.downloader import Downloader
from edgectl_agent.durable import RealDisk
from edgectl_agent.store import Partial, Store
from edgectl_protocol.chunks import CHUNK_BYTES
from edgectl_protocol.manifest import decode_manifest, model_layer
from edgectl_protocol.messages import encode
from edgectl_protocol.names import hex_of

CHUNKS = 60
CHUNK_S = 0.001
CHECKPOINT_CHUNKS = 4
LIFE_S_MAX = 0.12
"""Longest life; a bundle takes about as long."""


@dataclass
class Fetched:
    """What came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    """By what the life had told last."""
    bundles: int = 0
    fetched_chunks: int = 0
    """By all lives together."""


class Shelf:
    """A transport that has everything, and takes its time."""

    def __init__(self, retained: Mapping[str, bytes]) -> None:
        self._retained = retained
        self._waiting: list[str] = []
        self._wanted: set[str] = set()

    def connected(self) -> bool:
        return True

    def subscribe(self, topics: Sequence[str]) -> None:
        self._waiting += topics
        self._wanted.update(topics)

    def came(self, topic: str) -> None:
        pass

    def unsubscribe(self, topics: Sequence[str]) -> None:
        self._wanted.difference_update(topics)

    def unasked(self) -> int:
        return 0

    def bytes_in(self) -> int:
        return 0

    def publish(self, topic: str, payload: bytes) -> None:
        pass

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None:
        if not self._waiting:
            return None
        time.sleep(CHUNK_S)  # what is waited for here is the kill
        topic = self._waiting.pop(0)
        return (topic, self._retained[topic]) if topic in self._wanted else None


def make_downloader(store: Store, retained: Mapping[str, bytes]) -> Downloader:
    """Return one that waits for the disk in a thread beside it, as the agent's does."""
    return Downloader(
        "pi-1",
        store,
        Shelf(retained),
        seal=encode,
        checkpoint_chunks=CHECKPOINT_CHUNKS,
        background=ThreadPoolExecutor(1),
    )


def _live(state: Path, bundle: MadeBundle, pipe: int) -> None:
    """Fetch the bundle, telling what is durable; then say so and end."""
    store = Store(RealDisk(state))
    checkpoint = Partial.checkpoint

    def told(partial: Partial, noted: bytes | None = None) -> None:
        if noted is None:
            noted = partial.note()
        checkpoint(partial, noted)
        os.write(pipe, b"%d\n" % int.from_bytes(noted, "little").bit_count())

    Partial.checkpoint = told  # type: ignore[method-assign] # in this fork alone
    downloader = make_downloader(store, bundle.retained)
    downloader.fetch(bundle.digest, model="har", progress=lambda _: None, cancelled=lambda: False)
    os.write(pipe, b"whole\n")


def live_and_die(live: Callable[[int], None], kill_after_s: float | None) -> list[bytes]:
    """Fork a life, kill it after a time unless it has ended, and return what it told.

    Args:
        live: the life, which gets the pipe that it tells lines by; what it raises is told too.
        kill_after_s: whole or not; None: it lives until it ends.
    """
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(ours)
        try:
            live(theirs)
        except BaseException as error:  # noqa: BLE001 - told, and it ends at once
            os.write(theirs, f"broken {error!r}\n".encode())
        finally:
            os._exit(0)
    os.close(theirs)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    with os.fdopen(ours, "rb") as file:
        return file.read().splitlines()


def _there(state: Path, bundle: MadeBundle) -> int:
    """Return how many chunks the next life begins with."""
    layer = model_layer(decode_manifest(bundle.manifest))
    store = Store(RealDisk(state))
    if store.has(layer.digest):
        return CHUNKS
    if not (state / "partial" / hex_of(layer.digest)).exists():
        return 0
    return store.partial(layer.digest, layer.size).bitmap.done()


def kill_downloads(folder: Path, kills: int, seed: int) -> Fetched:
    """Kill so many downloads, each at a random microsecond; start over when a bundle is whole.

    Raises:
        AssertionError: a life began with less than the one before it had told of, or a file is not
            what its name says.
    """
    chooser = random.Random(seed)
    found = Fetched()
    number = 0
    state, bundle = folder / "0", simple_bundle("0", model="har", length=CHUNKS * CHUNK_BYTES - 7)
    kept = 0
    while found.kills.total() < kills:
        lines = live_and_die(
            lambda pipe, state=state, bundle=bundle: _live(state, bundle, pipe),  # type: ignore[misc]
            chooser.random() * LIFE_S_MAX,
        )
        last = lines[-1].decode() if lines else ""
        assert not last.startswith("broken"), f"seed {seed}, {found.kills.total()} kills: {last}"
        counted = [int(line) for line in lines if line.isdigit()]
        told = max([kept, *counted])
        there = _there(state, bundle)
        assert there >= told, f"seed {seed}: told of {told} chunks, {there} are there"
        found.fetched_chunks += max(0, there - kept)
        kept = there
        if last == "whole":
            # Hashes every file.
            Store(RealDisk(state)).bundle(
                "har", manifest=bundle.digest, version=str(number), variant="fp32"
            )
            found.bundles += 1
            number, kept = number + 1, 0
            state = folder / str(number)
            bundle = simple_bundle(str(number), model="har", length=CHUNKS * CHUNK_BYTES - 7)
        else:
            found.kills["nothing told" if not counted else "in the middle"] += 1
    return found
