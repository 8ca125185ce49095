"""An update by a delta, in a process that is killed at random moments, again and again.

The process is a fork with the real patcher, downloader and store on a real file system; it starts
the real process that applies the delta, which must end with it. A kill falls while the delta comes,
while the target is made of it, and while that gets its name.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from agent.core.made import MadeBundle, MadeDelta, make_delta, retrained_bundles, slot_order
from agent.reality.downloads import live_and_die, make_downloader
from edgectl_agent.core import steps
from edgectl_agent.core.record import Update
from edgectl_agent.deltas import Progress
from edgectl_agent.durable import RealDisk
from edgectl_agent.patching import Patcher
from edgectl_agent.store import Store
from edgectl_protocol.chunks import chunk_count
from edgectl_protocol.manifest import decode_manifest, device_layers, model_layer
from edgectl_protocol.names import hex_of
from edgectl_protocol.update import UpdateState

MODEL_BYTES = 9_000_000
"""The target is synchronized twice on the way."""
CHECKPOINT_CHUNKS = 4
LONGEST_LIFE = 1.2
"""Times what an update takes here that nobody kills."""


@dataclass
class Patched:
    """What came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    """By where the update was when the life ended."""
    models: int = 0


class Case:
    """A device that has one version and is told to update to another by a delta."""

    def __init__(self) -> None:
        self.base, self.target = retrained_bundles(MODEL_BYTES)
        self.delta = make_delta(self.base, self.target)
        self.layer = model_layer(decode_manifest(self.target.manifest))

    def install(self, state: Path) -> None:
        """Put the older version into a new store."""
        store = Store(RealDisk(state))
        store.add(self.base.digest, self.base.manifest)
        for one in device_layers(decode_manifest(self.base.manifest)):
            store.add(one.digest, self.base.blobs[one.digest])

    def live(self, state: Path, pipe: int) -> None:
        """Update; tell where that is, and how the delta was used."""
        store = Store(RealDisk(state))
        retained = self.target.retained | self.delta.retained
        downloader = make_downloader(store, retained)
        report = Patcher(downloader, store).fetch(
            _step(self.target, self.delta, self.base),
            progress=lambda _: None,
            cancelled=lambda: False,
        )
        refusal = "" if report.refusal is None else report.refusal.code
        os.write(pipe, b"whole %b\n" % refusal.encode())

    def stands(self, state: Path) -> tuple[int, int, int]:
        """Return what the next life begins with: bytes of the target that are durable, chunks of
        the delta, whether the model is there."""
        store = Store(RealDisk(state))
        if store.has(self.layer.digest):
            return MODEL_BYTES, self.delta.offer.size, 1
        made = Path(store.locate_made(self.layer.digest))
        progress = made.with_name(made.name + ".progress")
        done = 0
        if progress.exists():
            done = msgspec.json.decode(progress.read_bytes(), type=Progress).target_bytes
        elif made.exists() and made.stat().st_size == MODEL_BYTES:
            done = MODEL_BYTES  # it only lacks its name
        chunks = 0
        folder = state / "partial"
        if any(folder.glob(f"{hex_of(self.layer.digest)}.*")):
            kept = store.delta(self.layer.digest, self.delta.offer.delta, self.delta.offer.size)
            chunks = kept.bitmap.done()
        return done, chunks, 0


def kill_patches(folder: Path, kills: int, seed: int) -> Patched:
    """Kill so many updates by a delta; start over on a new device when one is whole.

    Raises:
        AssertionError: a life began with less than the one before it, fetched the model whole, or
            left a file that is not what its name says.
    """
    chooser = random.Random(seed)
    case, found, number = Case(), Patched(), 0
    state = folder / "unharmed"
    case.install(state)
    began = time.monotonic()
    assert live_and_die(partial(case.live, state), None) == [b"whole "]
    life_s_max = LONGEST_LIFE * (time.monotonic() - began)
    state = folder / "0"
    case.install(state)
    before = (0, 0, 0)
    while found.kills.total() < kills:
        said = live_and_die(partial(case.live, state), chooser.random() * life_s_max)
        last = said[-1].decode() if said else ""
        where = f"seed {seed}, {found.kills.total()} kills"
        assert not last.startswith("broken"), f"{where}: {last}"
        stands = case.stands(state)
        assert stands >= before, f"{where}: {before} was there, {stands} is"
        if not last:
            done, chunks, _ = stands
            whole = chunks == chunk_count(case.delta.offer.size)
            found.kills["half made" if done else "fetched" if whole else "being fetched"] += 1
            before = stands
            continue
        assert last == "whole ", f"{where}: fetched whole, {last}"
        # Hashes every file.
        Store(RealDisk(state)).bundle(
            "activity", manifest=case.target.digest, version="2", variant="fp32"
        )
        found.models, number, before = found.models + 1, number + 1, (0, 0, 0)
        state = folder / str(number)
        case.install(state)
    return found


def _step(target: MadeBundle, delta: MadeDelta, base: MadeBundle) -> steps.Download:
    update = Update(
        slot="activity",
        order=2,
        nonce="0" * 32,
        wanted=slot_order([target]),
        manifest=target.digest,
        state=UpdateState.DOWNLOADING,
    )
    return steps.Download(step=1, update=update, delta=delta.offer, keep=(base.digest,))
