"""The Cortex-M4 that updates over the network: QEMU, lwIP, mbedTLS, a real Mosquitto."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from broker.conftest import TestAuthority
from e2e.conftest import ACTIVITY
from e2e.fleet import Server, stopping
from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES
from edgectl_protocol.names import digest_of
from firmware.crafted_flat import large_model, tiny_model
from firmware.networked import (
    POWER_CUT,
    Machine,
    Stage,
    build,
    committed,
    cut_and_recover,
    given_up_with_its_order,
    opened,
    provision,
    write_identity,
)
from vectors.make_firmware import KEY, NAME, bundle
from waiting import wait_for

DEVICE = "mcu-1"
pytestmark = pytest.mark.mosquitto


@pytest.fixture(scope="session")
def networked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the program for the key and the name of the vectors; any warning fails."""
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm", "mosquitto"):
        if shutil.which(tool) is None and not Path(f"/usr/sbin/{tool}").exists():
            pytest.skip(f"needs {tool}: see packaging/debian-test-packages.txt")
    return build(tmp_path_factory.mktemp("networked"))


@pytest.fixture
def stage(authorities: tuple[TestAuthority, TestAuthority], tmp_path: Path) -> Iterator[Stage]:
    """A broker with nothing on it, and the server's side of it."""
    with opened(
        Stage, "mosquitto", authorities[0], tmp_path / "broker", device=DEVICE, slot=NAME
    ) as one:
        yield one


Device = Callable[..., Machine]


@pytest.fixture
def device(
    networked: Path, stage: Stage, authorities: tuple[TestAuthority, TestAuthority], tmp_path: Path
) -> Iterator[Device]:
    """Make a device with an identity and a blank flash."""
    made: list[Machine] = []

    def make(authority: TestAuthority = authorities[0], server: str = "127.0.0.1") -> Machine:
        name = f"device-{len(made)}"
        flash = tmp_path / f"{name}.flash"
        write_identity(stage, authority.path, flash, tmp_path / name, server)
        made.append(Machine(networked, flash))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_updates_and_a_rollback_over_the_network(stage: Stage, device: Device) -> None:
    machine = device()
    machine.start()
    first = committed(stage, bundle(tiny_model(1), 1), "1")
    state = stage.states[-1]
    assert state.capabilities is not None
    assert state.capabilities.runtimes == {"cortex-m": "1"}
    large = bundle(large_model(2), 2)
    assert CHUNK_BYTES < len(large) < 2 * CHUNK_BYTES
    second = committed(stage, large, "2")
    assert first != second
    assert machine.said("counter")[-1] == 2

    bad = stage.publish(bundle(tiny_model(3), 3, wrong=True))
    number = stage.order(bad, version="3")
    state = stage.wait_state("its answers are wrong", state="rejected", order=number)
    slot = state.slots[NAME]
    assert slot.update is not None
    assert slot.update.reason is not None
    assert slot.update.reason.code == "firmware.bad_self_test"
    assert slot.running is not None
    assert slot.running.version == "2", "what ran before runs again"
    assert state.rejected == (bad,)

    number = stage.order(first, version="1")
    state = stage.wait_state("a way back", state="rejected", order=number)
    update = state.slots[NAME].update
    assert update is not None
    assert update.reason is not None
    assert update.reason.code == "firmware.not_newer"
    boots = [one.boot for one in stage.states]
    assert boots == sorted(boots)
    assert stage.seeds == [], "everything was there"


@pytest.mark.parametrize(("authority", "server"), [(1, "127.0.0.1"), (0, "10.0.0.1")])
def test_a_broker_of_another_authority_or_name_is_refused(
    authority: int,
    server: str,
    stage: Stage,
    device: Device,
    authorities: tuple[TestAuthority, TestAuthority],
) -> None:
    machine = device(authorities[authority], server)
    stage.order(stage.publish(bundle(tiny_model(1), 1)), version="1")
    machine.start()
    wait_for(lambda: machine.said("disconnected"), "refused", bound_s=30)
    assert machine.said("connected") == []
    assert stage.states == []


def test_what_is_not_signed_or_altered_changes_nothing(stage: Stage, device: Device) -> None:
    machine = device()
    machine.start()
    good = bundle(large_model(1), 1)
    manifest = stage.publish(good, altered={1: bytes(len(good) - CHUNK_BYTES)})
    stage.order(manifest, version="1", key=Ed25519PrivateKey.generate())

    def refusal() -> Any:
        newest = stage.states[-1].refusal if stage.states else None
        return None if newest is None else newest.code

    wait_for(lambda: refusal() == "order.signature", "a forged order is refused")
    stage.order(manifest, version="1", device="mcu-2")
    wait_for(lambda: refusal() == "order.device", "an order for another device")

    number = stage.order(manifest, version="1")
    stage.wait_state("a chunk with another content", state="downloading", bytes_done=CHUNK_BYTES)
    wait_for(lambda: any(one.chunks == (1,) for one in stage.seeds), "it is asked for by name")
    assert stage.publish(good) == manifest
    stage.wait_state("the right content", state="committed", order=number)


def test_an_order_and_a_chunk_that_come_at_once(stage: Stage, device: Device) -> None:
    machine = device()
    machine.start()
    content = bundle(tiny_model(1), 1)
    manifest, chunk = stage.publish(content), topics.chunk(digest_of(content), 0)
    stage.peer.publish(chunk, b"", retain=True)
    stage.order(manifest, version="1")
    wait_for(lambda: stage.seeds, "it waits for the chunk")
    with machine.standing_still():
        number = stage.order(manifest, version="1")
        stage.peer.publish(chunk, content, retain=True)
        threading.Event().wait(0.5)  # until the broker has sent both
    stage.wait_state("both are taken", state="committed", order=number)
    assert [one.refusal for one in stage.states if one.refusal is not None] == []


def test_an_update_that_has_failed_ends_with_its_order(stage: Stage, device: Device) -> None:
    device().start()
    given_up_with_its_order(stage)


def test_the_power_is_cut_and_what_is_in_flash_is_not_fetched_again(
    stage: Stage, device: Device
) -> None:
    machine = device()
    machine.start()
    committed(stage, bundle(tiny_model(1), 1), "1")
    machine.stop()
    large = bundle(large_model(2), 2)
    number = stage.order(stage.publish(large), version="2")
    # Counted from power on: the number of the boot, 16 sectors, 256 pages, 12 sectors; in chunk 1.
    machine.start(cut=1 + 16 + 256 + 12 + 60)
    assert machine.wait_end() == POWER_CUT
    stage.publish(large, altered={0: bytes(CHUNK_BYTES)})
    machine.start()
    stage.wait_state("the rest", state="committed", order=number)
    assert machine.said("counter")[-1] == 2
    assert set(machine.said("counter")) == {0, 1, 2}


@pytest.mark.parametrize("operation", [4, 12])
def test_the_power_is_cut_in_a_small_update(operation: int, stage: Stage, device: Device) -> None:
    """A page, the record that puts it on trial; all of them: `make sweep-firmware`."""
    cut_and_recover(stage, device(), operation)


@pytest.mark.e2e
def test_a_real_server_rolls_a_model_out_to_a_microcontroller(
    networked: Path, tmp_path: Path
) -> None:
    """Enrolled by a token, pushed for its class, rolled out, committed: a device like others."""
    server = Server(tmp_path / "server", broker="mosquitto")
    flash, state = tmp_path / "flash", tmp_path / DEVICE
    machine = Machine(networked, flash)
    with stopping(server):
        server.start()
        # The key that the program has pinned: the server's own, had it made one.
        pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        key = server.data / "keys/microcontrollers.pem"
        key.write_bytes(pem)
        key.chmod(0o600)
        subprocess.run(
            [sys.executable, "-m", "edgectl_agent", "enrol", "--server", server.url,
             "--device", DEVICE, "--state", state],
            env={**os.environ, "EDGECTL_AGENT_TOKEN": server.enrol_token()}, check=True,
        )  # fmt: skip
        provision(state, flash)
        machine.start()
        try:
            wait_for(lambda: server.client.device(DEVICE).online, "it is online")
            assert server.client.device(DEVICE).device_class == "cortex-m"
            job = server.push(
                NAME,
                ACTIVITY / "har_v1.onnx",
                calibration=ACTIVITY / "calibration.npz",
                evaluation=ACTIVITY / "eval.npz",
                runtimes=["cortex-m"],
            )
            assert job.state == "succeeded", job.error
            rollout = server.roll_out(NAME, "1", DEVICE)
            server.wait_rollout(rollout)
            (row,) = server.client.rollout_devices(rollout).items
            assert (row.device, row.state) == (DEVICE, "committed")
            (slot,) = server.client.device(DEVICE).slots
            assert slot.running is not None
            assert (slot.slot, slot.running.version) == (NAME, "1")
            machine.stop()
            wait_for(lambda: not server.client.device(DEVICE).online, "its last will is heard")
        finally:
            machine.stop()
