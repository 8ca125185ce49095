"""A board on a serial port that stays: a process with the line on its stdin and stdout, and a pty.

The process is the board's power: `SerialBoard.start` and `stop`. The port is there without it, as a
UART is, and what is sent then is lost.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import shutil
import subprocess
import sys
import threading
import tty
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest

from edgectl_agent.errors import StepFailed
from edgectl_agent.gateway.board import Board
from edgectl_agent.gateway.port import SerialPort
from firmware.programs import ROOT, monocypher, pico_sdk
from waiting import wait_for

__all__ = [
    "BOUND_S",
    "POWER_CUT",
    "SerialBoard",
    "build_pico",
    "emulated_pico",
    "install",
    "needs_pico",
    "pico_command",
    "wait_decided",
]

POWER_CUT = 77
PICO = ROOT / "firmware-examples/pico-uart"
_LOOK_S = 0.1
BOUND_S = 500.0
"""An emulated chip is ten times slower than the real one, and on a busy machine a hundred times."""


class SerialBoard:
    """One board; `command` gets the operation of the flash to cut at behind it, if there is one."""

    def __init__(self, command: Sequence[str | Path], log: Path, *, patience: float = 1.0) -> None:
        self.command, self.log, self.patience = command, log, patience
        self.garble: Callable[[bytes], bytes] = bytes
        """What the line makes of bytes to the board."""
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        self.path = Path(os.ttyname(self._theirs))
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._relay = threading.Thread(target=self._run, daemon=True)
        self._relay.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._stopping.set()
        self._relay.join(10)
        os.close(self._ours)
        os.close(self._theirs)

    def start(self, cut: int | None = None) -> None:
        """Power on."""
        more = [] if cut is None else [str(cut)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.command, *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )

    def stop(self) -> int:
        """Power off; return the exit code, negative where it had to be killed."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            code = process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait(60)
        assert process.stdout is not None
        process.stdout.close()
        said = self.log.read_text(errors="replace")
        assert "Sanitizer" not in said, said[-4000:]
        assert "runtime error" not in said, said[-4000:]
        return code

    def wait_end(self, bound_s: float = 60) -> int:
        """Wait until the power is cut, and return the exit code."""
        process = self._process
        assert process is not None
        process.wait(bound_s)
        return self.stop()

    def ended(self) -> bool:
        """Say whether the power is off."""
        return self._process is None or self._process.poll() is not None

    @contextlib.contextmanager
    def board(self, cancelled: Callable[[], bool] = lambda: False) -> Any:
        """Open the port, and yield what asks the board."""
        port = SerialPort(self.path, 115200)
        try:
            yield Board(port, patience=self.patience, cancelled=cancelled)
        finally:
            port.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            process = self._process
            out = None if process is None or process.stdout is None else process.stdout
            wanted = [self._ours]
            try:
                if out is not None and not out.closed:
                    wanted.append(out.fileno())
                ready, _, _ = select.select(wanted, (), (), _LOOK_S)
                if self._ours in ready:
                    self._to_board(os.read(self._ours, 4096))
                if len(wanted) > 1 and wanted[1] in ready:
                    self._from_board(os.read(wanted[1], 4096))
            except (OSError, ValueError):  # it was powered off just now
                self._stopping.wait(0.01)

    def _to_board(self, content: bytes) -> None:
        process = self._process
        if process is not None and process.stdin is not None and process.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                process.stdin.write(self.garble(content))
                process.stdin.flush()

    def _from_board(self, content: bytes) -> None:
        if content:
            os.write(self._ours, content)
        else:
            self._stopping.wait(0.05)  # it has ended


def install(board: Board, content: bytes) -> int:
    """Bring a bundle and have it tried; return the bytes that were sent."""
    hello = board.hello()
    sent = board.stage(content, hello)
    board.end(content, hello)
    board.reset()
    wait_decided(board)
    return sent


def wait_decided(board: Board) -> None:
    """Wait until a board that was reset or switched on runs what it has decided for."""
    wait_for(lambda: _has_decided(board), "it has decided", bound_s=BOUND_S)


def _has_decided(board: Board) -> bool:
    try:
        return not board.hello().on_trial
    except StepFailed:
        return False  # it boots


# ---------------------------------------------------------------- the Pico


def needs_pico() -> None:
    """Skip, saying why, where the tools for a Pico are missing."""
    for tool in ("arm-none-eabi-gcc", "cmake", "ninja"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}: see packaging/debian-test-packages.txt")


def build_pico(folder: Path, key: bytes, name: str, *, baud: int = 921600) -> Path:
    """Build the UF2 for a key and a name; any warning fails."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key.pub").write_text(key.hex())
    done = subprocess.run(
        ["make", "--silent", f"KEY={folder / 'key.pub'}", f"NAME={name}", f"BAUD={baud}",
         f"BUILD={folder / 'build'}", f"MONOCYPHER={monocypher()}", f"SOURCES_OF={pico_sdk()}",
         f"PYTHON={sys.executable}"],
        cwd=PICO, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder / "build/node.uf2"


def pico_command(program: Path, flash: Path) -> list[str | Path]:
    """Return the command of an emulated Pico; installs the locked emulator where need be."""
    run = _run_script()
    emulator = PICO / "emulator"
    try:
        run.install_folder(emulator)
    except run.BuildFailed as error:
        pytest.skip(f"needs npm's rp2040js: {error}")
    return [run.node_program(), emulator / "emulate.mjs", program, flash]


def emulated_pico(program: Path, folder: Path) -> SerialBoard:
    """Return a Pico with a flash of its own, powered off."""
    command = pico_command(program, folder / "pico.flash")
    return SerialBoard(command, folder / "pico.log", patience=10)


def _run_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "edgectl_ui_run_for_pico", ROOT / "server/ui/run.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
