"""Whole agents on disks that are full, read-only or damaged, with a real broker and real models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec import structs

from agent.core.control_plane import ControlPlane
from agent.core.device import Device
from agent.core.made import MadeBundle, make_order
from agent.reality.agents import POLICY, check_disk, infer, serves, versions
from agent.reality.small_disk import SmallDisk, small_disk
from edgectl_protocol.manifest import MODEL_FILES, decode_manifest, layer_by_file
from edgectl_protocol.names import digest_of, hex_of
from waiting import wait_for

MEGABYTE = 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path, 6 * MEGABYTE) as made:
        yield made


@pytest.fixture
def bundles(tmp_path: Path) -> list[MadeBundle]:
    return versions(tmp_path, 3)


class Scene:
    """An agent with its state on the small disk, that serves version 1."""

    def __init__(
        self, plane: ControlPlane, state: Path, folder: Path, bundles: list[MadeBundle]
    ) -> None:
        self.plane, self.state, self.bundles = plane, state, bundles
        settings = folder / "agent.toml"
        settings.write_text("disk_reserve_bytes = 100000\n")
        self.device = Device(plane.url, plane.token_text, state)
        self.device._arguments += ["--config", str(settings)]
        self.device._errors = folder / "stderr"
        plane.release(*bundles)
        self.order(1, bundles[0])
        self.device.start()
        self.endpoint = self.committed(1)["endpoint"]
        serves(self.endpoint, "1")

    def order(self, number: int, bundle: MadeBundle, **policy: Any) -> None:
        plane = self.plane
        plane.order(
            make_order(number, [bundle], at=plane.now, policy=structs.replace(POLICY, **policy))
        )

    def committed(self, order: int) -> Any:
        return self.plane.wait_state("pi-1", "activity", "committed", order=order)


@pytest.fixture
def scene(
    plane: ControlPlane, disk: SmallDisk, tmp_path: Path, bundles: list[MadeBundle]
) -> Iterator[Scene]:
    made = Scene(plane, disk.root / "pi-1", tmp_path, bundles)
    yield made
    made.device.kill()


def test_a_full_disk_fails_the_update_and_not_the_model(scene: Scene, disk: SmallDisk) -> None:
    disk.fill(leave_bytes=300_000)
    scene.order(2, scene.bundles[1], attempts_max=50)
    reason = scene.plane.wait_state("pi-1", "activity", "failed", order=2)
    assert reason["slots"]["activity"]["update"]["reason"]["code"] == "disk.full"
    assert infer(scene.endpoint) == (200, "1")
    assert not list((scene.state / "partial").iterdir()), "begun though it would not fit"
    disk.make_room()  # and nothing else: it is tried again by itself
    scene.committed(2)
    serves(scene.endpoint, "2")
    assert scene.device.stop() == 0


def test_a_disk_without_a_byte_makes_updates_wait(scene: Scene, disk: SmallDisk) -> None:
    disk.fill()
    scene.order(2, scene.bundles[1])
    cannot_write(scene)
    assert infer(scene.endpoint) == (200, "1")
    scene.device.kill()
    scene.device.start()  # and on a disk that is full from the start
    serves(scene.device.wait("ready")["endpoint"], "1")
    disk.make_room()
    serves(scene.committed(2)["endpoint"], "2")
    check_disk(scene.state, scene.bundles)
    assert scene.device.stop() == 0


def test_a_read_only_disk_makes_updates_wait_and_models_are_served(
    scene: Scene, disk: SmallDisk
) -> None:
    """As after a reboot with a worn-out card; the process that serves may even die."""
    scene.device.kill()
    disk.read_only()
    scene.device.start()
    serves(scene.device.wait("ready")["endpoint"], "1")
    scene.order(2, scene.bundles[1])
    cannot_write(scene)
    first = inference(scene)
    first.kill()
    scene.device.wait("inference-died")
    second = wait_for(lambda: inference(scene, but=first.pid), "another inference process")
    port = wait_for(lambda: listening(second), "its port")
    serves(f"http://127.0.0.1:{port}", "1")
    disk.writable()
    serves(scene.committed(2)["endpoint"], "2")
    assert scene.device.stop() == 0


def cannot_write(scene: Scene) -> None:
    text = "the journal cannot be written"
    wait_for(lambda: text in scene.device.errors(), "the journal's error")


def inference(scene: Scene, but: int = 0) -> Any:
    """Return the inference process of the agent, or None."""
    for one in psutil.Process(scene.device.pid).children():
        with contextlib.suppress(psutil.Error):
            if "edgectl_agent.inference" in one.cmdline() and one.pid != but:
                return one
    return None


def listening(process: Any) -> int:
    found = process.net_connections("tcp")
    return next((one.laddr.port for one in found if one.status == psutil.CONN_LISTEN), 0)


# ---------------------------------------------------------------- flipped bits


def flip(path: Path, at: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 4
    path.write_bytes(content)


def model_file(state: Path, bundle: MadeBundle) -> Path:
    layer = layer_by_file(decode_manifest(bundle.manifest), MODEL_FILES["onnx"])
    return state / "blobs" / "sha256" / hex_of(layer.digest)


def whole(state: Path, bundle: MadeBundle) -> bool:
    path = model_file(state, bundle)
    return path.exists() and digest_of(path.read_bytes()) == "sha256:" + path.name


@pytest.fixture
def updated(plane: ControlPlane, tmp_path: Path, bundles: list[MadeBundle]) -> Iterator[Scene]:
    """It runs version 2, has 1 to go back to, and is off."""
    made = Scene(plane, tmp_path / "pi-1", tmp_path, bundles)
    made.order(2, bundles[1])
    made.committed(2)
    assert made.device.stop() == 0
    yield made
    made.device.kill()


DAMAGES: dict[str, Callable[[Scene], Path]] = {
    "running model": lambda scene: model_file(scene.state, scene.bundles[1]),
    "previous model": lambda scene: model_file(scene.state, scene.bundles[0]),
    "manifest": lambda scene: scene.state / "blobs" / "sha256" / hex_of(scene.bundles[1].digest),
    "journal": lambda scene: scene.state / "journal",
    "pointers": lambda scene: scene.state / "slots.json",
    "copy of the pointers": lambda scene: scene.state / "slots.copy",
    "timestamp": lambda scene: next((scene.state / "tuf").rglob("timestamp.json")),
    "root": lambda scene: next((scene.state / "tuf").rglob("*root.json")),
    "spool": lambda scene: scene.state / "spool" / "spool.db",
    "start counter": lambda scene: scene.state / "boot",
}


@pytest.mark.parametrize("half", [0, 1])
def test_a_flipped_bit_is_found_before_use_and_made_good(updated: Scene, half: int) -> None:
    """One after the other on one device; it falls back only where its model itself is damaged."""
    scene = updated
    for damage, find in list(DAMAGES.items())[half::2]:
        flip(find(scene), at=20 if damage == "spool" else None)
        scene.device.start()
        ready = scene.device.wait("ready")
        if damage in {"running model", "manifest"}:
            scene.device.wait("transition", after="downloading")
            scene.device.wait("transition", after="committed")
        serves(ready["endpoint"], "2")
        # A journal without its last line goes on from the line before.
        wait_for(lambda: check_disk(scene.state, scene.bundles) == "committed", damage)
        assert whole(scene.state, scene.bundles[1]), damage
        assert scene.device.stop() == 0, damage
    scene.device.start()
    scene.order(3, scene.bundles[2])
    serves(scene.committed(3)["endpoint"], "3")
    assert scene.device.stop() == 0


def test_a_bit_flipped_in_the_candidate_is_fetched_again(updated: Scene) -> None:
    """A blob that was whole before the order: hashed before use, and fetched again."""
    scene = updated
    made = scene.bundles[2]
    path = model_file(scene.state, made)
    layer = layer_by_file(decode_manifest(made.manifest), MODEL_FILES["onnx"])
    content = bytearray(made.blobs[layer.digest])
    content[5000] ^= 1
    scene.device.start()
    scene.device.wait("connected")
    path.write_bytes(content)
    scene.order(3, made)
    event = scene.plane.wait("event", lambda one: one["after"] == "failed")
    assert event["reason"]["code"] == "store.damaged"
    serves(scene.committed(3)["endpoint"], "3")
    assert whole(scene.state, made)
    assert scene.device.stop() == 0
