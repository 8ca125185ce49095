"""The Raspberry Pi Pico: its UF2, its program in rp2040js, a real server through the gateway."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from e2e.fleet import Process, Server, stopping
from edgectl_agent.errors import StepRejected
from edgectl_agent.gateway.board import Status, digest_in
from edgectl_server.pipeline.flat_reference import run_flat
from firmware.crafted_flat import middle_model, tiny_model
from firmware.serial_line import (
    BOUND_S,
    SerialBoard,
    build_pico,
    emulated_pico,
    install,
    needs_pico,
)
from firmware.test_flat_model import network
from firmware.test_pipeline import files
from vectors.make_firmware import KEY, NAME, bundle
from waiting import wait_for

DEVICE = "pico-1"
PUBLIC = KEY.public_key().public_bytes_raw()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The UF2, for the key and the name of the vectors."""
    needs_pico()
    return build_pico(tmp_path_factory.mktemp("pico"), PUBLIC, NAME)


@pytest.fixture
def pico(program: Path, tmp_path: Path) -> Iterator[SerialBoard]:
    """A Pico with a blank flash, powered off."""
    with emulated_pico(program, tmp_path) as one:
        yield one


def test_the_uf2_is_what_a_pico_copies(program: Path) -> None:
    """Each block by the format's own rules; together they are the program."""
    content, image = program.read_bytes(), program.with_name("node.bin").read_bytes()
    assert len(content) % 512 == 0
    blocks = [content[at : at + 512] for at in range(0, len(content), 512)]
    found = b""
    for number, block in enumerate(blocks):
        first, second, flags, address, size, index, count, family = struct.unpack_from("<8I", block)
        (last,) = struct.unpack_from("<I", block, 508)
        assert (first, second, last) == (0x0A324655, 0x9E5D5157, 0x0AB16F30)
        assert (flags, family) == (0x2000, 0xE48BFF56), "an RP2040, and it says so"
        assert (size, index, count) == (256, number, len(blocks))
        assert address == 0x10000000 + 256 * number
        found += block[32 : 32 + size]
    assert found[: len(image)] == image
    assert not any(found[len(image) :])
    # The boot ROM runs the first 256 bytes when their CRC-32 (MPEG-2's) is at their end.
    assert struct.unpack_from("<I", image, 252)[0] == _crc_of_the_rom(image[:252])
    stack, entry = struct.unpack_from("<2I", image, 256)
    assert 0x20000000 < stack <= 0x20042000
    assert 0x10000000 <= entry < 0x10000000 + len(image)


def _crc_of_the_rom(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 1 << 31 else 0)) & 0xFFFFFFFF
    return crc


def test_first_boot_commit_rollback_refusals_and_answers(pico: SerialBoard) -> None:
    first = middle_model(1)
    pico.start()
    with pico.board() as board:
        hello = board.hello()
        assert (hello.board, hello.model, hello.counter) == ("rp2040", NAME, 0)
        assert hello.booted == Status.NO_MODEL
        install(board, bundle(first, 1))
        assert board.hello().runs(digest_in(bundle(first, 1)))
        shape = (
            2,
            *(getattr(first.tensors[first.input], one) for one in ("channels", "height", "width")),
        )
        inputs = np.random.default_rng(3).integers(-128, 128, shape).astype(np.int8)
        for values, output in zip(inputs, run_flat(first, inputs), strict=True):
            assert board.infer(values.tobytes())[0] == output.tobytes()

        bad = bundle(tiny_model(3), 2, wrong=True)
        install(board, bad)
        assert board.hello().counter == 1
        for content, code in ((bad, "rejected"), (bundle(first, 1), "not_newer")):
            with pytest.raises(StepRejected, match=rf"firmware\.{code}"):
                install(board, content)
        second = bundle(tiny_model(2), 2)
        install(board, second)
        assert board.hello().counter == 2
        pico.stop()
        pico.start()
        assert board.hello().counter == 2, "it is in its flash"


@pytest.mark.e2e
@pytest.mark.mosquitto
@pytest.mark.timeout(1800)
def test_a_real_server_rolls_a_model_out_to_a_pico_behind_a_gateway(
    pico: SerialBoard, tmp_path: Path
) -> None:
    """Enrolled, rolled out, killed; then the board is away, and another one in its place."""
    if shutil.which("mosquitto") is None and not Path("/usr/sbin/mosquitto").exists():
        pytest.skip("needs mosquitto: see packaging/debian-test-packages.txt")
    server = Server(tmp_path / "server", broker="mosquitto")
    with stopping(server):
        server.start()
        # The key that the program has pinned: the server's own, had it made one.
        key = server.data / "keys/microcontrollers.pem"
        key.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key.chmod(0o600)
        gateway = Process(
            [sys.executable, "-m", "edgectl_agent", "gateway", "--json", "--patience", "10",
             "--port", str(pico.path), "--state", str(tmp_path / DEVICE), "--device", DEVICE,
             "--server", server.url, "--label", "hangs-on=pi-1"],
            tmp_path / "gateway.log",
            {"EDGECTL_AGENT_TOKEN": server.enrol_token()},
        )  # fmt: skip
        with stopping(gateway):
            pico.start()
            gateway.start()
            gateway.wait_line("the gateway", "event", "connected", since=0)
            wait_for(lambda: server.client.device(DEVICE).online, "it is online")
            wait_for(lambda: server.client.device(DEVICE).device_class == "cortex-m", "its class")
            given = files(tmp_path, network(np.random.default_rng(1)))
            job = server.push(
                NAME,
                given["source"],
                calibration=given["calibration"],
                evaluation=given["evaluation"],
                runtimes=["cortex-m"],
                max_drop_points=20.0,
                allow=["data"],
            )
            assert job.state == "succeeded", job.error
            rollout = server.roll_out(NAME, "1", DEVICE, observe_s=1.0)
            server.wait_rollout(rollout, bound_s=BOUND_S)
            assert _running(server) == "1"
            gateway.kill()
            gateway.start()
            pico.stop()
            wait_for(lambda: _fault(server) == "board.silent", "it is away", bound_s=BOUND_S)
            assert _running(server) == "1", "also after a kill"
            since = gateway.log.stat().st_size
            (tmp_path / "pico.flash").unlink()
            pico.start()
            gateway.wait_line("a blank board", "after", "committed", since, bound_s=BOUND_S)
            wait_for(lambda: _running(server) == "1", "it has it again", bound_s=BOUND_S)
            wait_for(lambda: _fault(server) is None, "nothing is the matter")
    with pico.board() as board:
        assert board.hello().counter > 0, "what runs is the board's"


def _running(server: Server) -> str | None:
    (slot,) = server.client.device(DEVICE).slots
    return None if slot.running is None else str(slot.running.version)


def _fault(server: Server) -> str | None:
    (slot,) = server.client.device(DEVICE).slots
    return None if slot.fault is None else str(slot.fault.code)


def test_make_uf2_refuses_what_would_reach_the_slots(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "firmware-examples/pico-uart/make_uf2.py"
    for content in (b"", bytes(1024 * 1024 + 1)):
        (tmp_path / "node.bin").write_bytes(content)
        done = subprocess.run(
            [sys.executable, script, tmp_path / "node.bin", tmp_path / "node.uf2"],
            capture_output=True, text=True, check=False, env=dict(os.environ),
        )  # fmt: skip
        assert (done.returncode, "at most" in done.stderr) == (1, True)
