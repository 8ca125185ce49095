"""Measure what the README of `firmware-examples/pico-uart` says: ``make figures-pico``.

A real server makes the bundle of the activity model, an emulated Pico at 921,600 baud gets it,
tries it and computes real windows with it. Seconds are those of the chip's clock in the emulator.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "firmware-examples"))

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from take_bundle import take

from e2e.conftest import ACTIVITY
from e2e.fleet import Server, stopping
from edgectl_server.pipeline.flat_bundle import read_payload
from edgectl_server.pipeline.flat_reading import decode_flat
from edgectl_server.pipeline.flat_reference import quantize, run_flat
from firmware.serial_line import build_pico, emulated_pico, install, wait_decided
from firmware.test_pico import PUBLIC
from vectors.make_firmware import KEY

NAME = "har"
BAUD = 921600
WINDOWS = 2


def activity_bundle(folder: Path) -> bytes:
    """Return the bundle that a real server makes of the activity model."""
    server = Server(folder / "server")
    with stopping(server):
        server.start()
        key = server.data / "keys/microcontrollers.pem"
        key.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key.chmod(0o600)
        job = server.push(
            NAME,
            ACTIVITY / "har_v1.onnx",
            calibration=ACTIVITY / "calibration.npz",
            evaluation=ACTIVITY / "eval.npz",
            runtimes=["cortex-m"],
        )
        assert job.state == "succeeded", job.error
        with (folder / "har.oci").open("wb") as file:
            for piece, _ in server.client.export(NAME, "1", [("variant", "cortex-m-int8")]):
                file.write(piece)
    take(folder / "har.oci", folder / "model.emb")
    return (folder / "model.emb").read_bytes()


def said(log: Path) -> list[dict[str, Any]]:
    """Return what the emulator has told."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def main() -> int:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        content = activity_bundle(folder)
        program = build_pico(folder / "program", PUBLIC, NAME, baud=BAUD)
        print(
            subprocess.check_output(["arm-none-eabi-size", program.with_suffix(".elf")], text=True)
        )
        print(f"UF2 {program.stat().st_size} bytes, bundle {len(content)} bytes")
        _, file = read_payload(content)
        model = decode_flat(file)
        with np.load(ACTIVITY / "eval.npz") as data:
            windows = data["input"][:WINDOWS]
        values = quantize(windows, model.tensors[model.input]).reshape(WINDOWS, -1)
        first = model.tensors[model.input]
        shape = (WINDOWS, first.channels, first.height, first.width)
        wanted = run_flat(model, values.reshape(shape))
        with emulated_pico(program, folder) as pico, pico.board() as board:
            pico.start()
            board.hello()
            begun = time.monotonic()
            install(board, content)
            print(
                f"brought and committed: {time.monotonic() - begun:.1f} s of the emulating machine"
            )
            for one, output in zip(values, wanted, strict=True):
                got, microseconds = board.infer(one.tobytes())
                assert got == output.tobytes(), "bit for bit"
                print(f"inference {microseconds / 1e6:.3f} s, the reference's answer")
            pico.stop()
            pico.start()
            wait_decided(board)
            pico.stop()
            for line in said(pico.log):
                print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
