"""Whole agents, as their users start them, killed at random while they update."""

from __future__ import annotations

import contextlib
import random
import select
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import structs

from agent.core.control_plane import ControlPlane
from agent.core.device import Device
from agent.core.made import MadeBundle, make_bundle, make_order
from agent.inference import models
from edgectl_agent.durable import RealDisk
from edgectl_agent.journal import last_record
from edgectl_agent.store import read_pointers
from edgectl_protocol.manifest import decode_manifest, device_layers
from edgectl_protocol.messages import UpdatePolicy
from edgectl_protocol.names import digest_of, hex_of
from waiting import wait_for

POLICY = UpdatePolicy(observe_s=0.3, retry_delay_s_max=1.0, attempts_max=20)
LIFE_S_MAX = 4.0
"""About as long as a start and an update take."""


@dataclass
class Killed:
    """Whole agents that were killed, and where."""

    kills: int = 0
    updates: int = 0
    states: list[str] = field(default_factory=list)


def versions(directory: Path, count: int) -> list[MadeBundle]:
    """The real activity model several times, each with bytes of its own."""
    import onnx

    made = models.make_bundle(directory, scores=True)
    golden = Path(made.golden).read_bytes()
    bundles = []
    for number in range(1, count + 1):
        model = onnx.load(made.model)
        model.doc_string = f"version {number}"
        config = structs.replace(made.config, version=str(number))
        bundles.append(make_bundle(config, model.SerializeToString(), golden))
    return bundles


def kill_agents(
    plane: ControlPlane, device: Device, bundles: Sequence[MadeBundle], *, updates: int, seed: int
) -> Killed:
    """Order one version after the other, and kill the agent at random until each is committed.

    After each kill what is on the disk is looked at: a journal that can be read, pointers to a
    version that was ordered, and all of its files whole. An update that was killed four times is
    let through, for the agent gives up one that has died with it too often.
    """
    chooser, seen = random.Random(seed), Killed()
    plane.release(*bundles)
    for number in range(1, updates + 1):
        wanted = bundles[number % len(bundles)]
        plane.order(make_order(number, [wanted], at=plane.now, policy=POLICY))
        for _ in range(4):
            device.start()
            select.select([], [], [], chooser.uniform(0, LIFE_S_MAX))
            device.kill()
            seen.kills += 1
            seen.states.append(check_disk(device.state, bundles))
            if running(device.state) == wanted.digest and chooser.random() < 0.5:
                break
        device.start()
        ready = device.wait("ready")
        plane.wait_state("pi-1", "activity", "committed", order=number)
        serves(ready["endpoint"], wanted.config.version)
        seen.updates += 1
        assert device.stop() == 0
    return seen


def running(state: Path) -> str | None:
    """Return the manifest that the slot's pointer names."""
    pointer = read_pointers(RealDisk(state)).get("activity")
    return pointer.running.manifest if pointer is not None and pointer.running is not None else None


def check_disk(state: Path, bundles: Sequence[MadeBundle]) -> str:
    """Check what a killed agent has left; return the state of its update."""
    try:
        content = (state / "journal").read_bytes()
    except FileNotFoundError:
        return "none"
    record, _ = last_record(content)
    assert record is not None, "the journal has no good line"
    known = {one.digest: one for one in bundles}
    manifest = running(state)
    if manifest is not None:
        made = known[manifest]
        for digest in (
            manifest,
            *(one.digest for one in device_layers(decode_manifest(made.manifest))),
        ):
            blob = (state / "blobs" / "sha256" / hex_of(digest)).read_bytes()
            assert digest_of(blob) == digest, f"{digest} is not what was signed"
    update = record.updates.get("activity")
    return str(update.state) if update is not None else "none"


def serves(endpoint: str, version: str) -> None:
    """Wait until the endpoint answers a real window, with this version."""

    def answered() -> Any:
        with contextlib.suppress(OSError):
            return infer(endpoint) == (200, version)
        return False

    wait_for(answered, f"version {version} answering")


def infer(endpoint: str) -> tuple[int, str]:
    """Ask for the class of the first real window; return status and version."""
    client = models.Client(endpoint)
    window = models.activity()[0][:1]
    given = {
        "name": "input",
        "shape": list(window.shape),
        "datatype": "FP32",
        "data": window.ravel().tolist(),
    }
    try:
        status, answer = client.call("POST", "/v2/models/activity/infer", {"inputs": [given]})
    finally:
        client.close()
    return status, str(answer.get("model_version"))
