"""The gateway's slot: what steps do to a board, its C code on a simulated flash, and its words."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from agent.core.made import START, describe, make_bundle
from edgectl_agent.cli import main
from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import StepFailed, StepRejected
from edgectl_agent.gateway.board import Board
from edgectl_agent.gateway.port import SerialPort
from edgectl_agent.gateway.serving import BoardServing
from edgectl_agent.store import Store
from edgectl_agent.trial import Verdict
from edgectl_protocol.messages import Installed
from firmware.crafted_flat import middle_model, tiny_model
from firmware.programs import ROOT, Programs
from firmware.serial_line import POWER_CUT, SerialBoard
from vectors.make_firmware import NAME, bundle
from waiting import wait_for

VARIANT = "cortex-m-int8"


@pytest.fixture(scope="module")
def program(build: Callable[..., Programs]) -> Path:
    """The board's program; with sanitizers it is in `test_serial_link`."""
    return build("gcc", "serial_board", sanitize="").folder / "serial_board"


@pytest.fixture
def serial(program: Path, bundles: Path, tmp_path: Path) -> Iterator[SerialBoard]:
    """A board with a blank flash, powered on."""
    command = [program, tmp_path / "flash", bundles / "key", NAME]
    with SerialBoard(command, tmp_path / "board.log") as one:
        one.start()
        yield one


class Slot:
    """A gateway's slot with its store."""

    def __init__(self, serial: SerialBoard, folder: Path) -> None:
        self.serial = serial
        self.store = Store(RealDisk(folder))
        self.port = SerialPort(serial.path, 115200)
        self.sent: list[int] = []
        self.serving = BoardServing(
            self.store,
            Board(self.port, patience=0.5),
            progress=lambda _slot, done, _total: self.sent.append(done),
        )

    def keep(self, content: bytes, version: str) -> Installed:
        """Put a bundle into the store, as a download does."""
        config = structs.replace(
            describe(NAME, version, VARIANT), runtime="cortex-m", format="flat", precision="int8"
        )
        made = make_bundle(config, content, b"golden")
        for digest, blob in made.blobs.items():
            self.store.add(digest, blob)
        return Installed(version=version, variant=VARIANT, manifest=made.digest, since=START)

    def stage(self, installed: Installed) -> Any:
        """Do what the step Trial does."""
        return self.serving.stage(self.store.installed(NAME, installed))

    def runs(self) -> str | None:
        """Return the version to which the pointer points."""
        pointer = self.store.pointers().get(NAME)
        return None if pointer is None or pointer.running is None else pointer.running.version


@pytest.fixture
def slot(serial: SerialBoard, tmp_path: Path) -> Iterator[Slot]:
    """An empty slot before a blank board."""
    one = Slot(serial, tmp_path / "state")
    yield one
    one.port.close()


def test_steps_of_an_update_and_what_the_board_runs_after_each(slot: Slot) -> None:
    first = slot.keep(bundle(middle_model(1), 1), "1")
    assert slot.stage(first).verdict is Verdict.OK
    assert slot.sent, "how far it is"
    look = slot.serving.look()
    assert look is not None
    assert look.hello is not None
    assert (look.hello.counter, look.changed) == (0, ()), "staged is not running"
    switched = slot.serving.activate({NAME: first})
    assert switched.pointers[NAME].running == first
    assert slot.serving.activate({NAME: first}).pointers == switched.pointers, "done twice is once"
    assert slot.runs() == "1"
    seen = slot.serving.seen(NAME, slot.serving.look().hello)
    assert seen is not None
    assert (seen.manifest, seen.requests) == (first.manifest, 0)


def test_a_board_that_goes_back_and_one_that_refuses(slot: Slot) -> None:
    first = slot.keep(bundle(tiny_model(1), 2), "1")
    slot.serving.activate({NAME: first})
    bad = slot.keep(bundle(tiny_model(3), 3, wrong=True), "2")
    assert slot.stage(bad).verdict is Verdict.OK, "it is signed, and whole"
    with pytest.raises(StepRejected) as caught:
        slot.serving.activate({NAME: bad})
    assert (caught.value.code, caught.value.slot) == ("firmware.bad_self_test", NAME)
    assert slot.serving.roll_back({NAME: bad.manifest}).pointers[NAME].running == first
    assert slot.runs() == "1"
    older = slot.keep(bundle(tiny_model(4), 1), "0")
    result = slot.stage(older)
    assert result.verdict is Verdict.REJECTED
    assert result.reason.code == "firmware.not_newer"


def test_nothing_goes_back_behind_what_the_board_has_committed(slot: Slot) -> None:
    for version in ("1", "2"):
        one = slot.keep(bundle(tiny_model(int(version)), int(version)), version)
        slot.serving.activate({NAME: one})
    assert slot.serving.roll_back({NAME: one.manifest}).pointers[NAME].running == one
    assert slot.runs() == "2", "and nobody says otherwise"


def test_another_board_on_the_line(slot: Slot, tmp_path: Path) -> None:
    first = slot.keep(bundle(tiny_model(1), 1), "1")
    slot.serving.activate({NAME: first})
    slot.serial.stop()
    (tmp_path / "flash").unlink()
    slot.serial.start()
    look = slot.serving.look()
    assert look is not None
    ((change,),) = (look.changed,)
    assert (change.slot, change.pointer.running, change.reason.code) == (NAME, None, "board.other")
    assert slot.runs() is None
    slot.serving.activate({NAME: first})
    assert slot.runs() == "1"


def test_the_power_goes_off_while_the_board_decides(slot: Slot) -> None:
    """The record that would have committed it is cut: the step fails, and succeeds again."""
    first = slot.keep(bundle(tiny_model(1), 1), "1")
    slot.serial.stop()
    slot.serial.start(cut=1 + _pages(bundle(tiny_model(1), 1)) + 1)
    slot.serving._patience = 0.1
    with pytest.raises(StepFailed):
        slot.serving.activate({NAME: first})
    assert slot.serial.wait_end() == POWER_CUT
    assert slot.runs() is None
    slot.serial.start()
    slot.serving.activate({NAME: first})
    assert slot.runs() == "1"


def _pages(content: bytes) -> int:
    """Return the pages of flash that a bundle takes; they are programmed one by one."""
    return -(-len(content) // 256)


def test_a_board_that_is_away_is_looked_for_and_found(slot: Slot) -> None:
    first = slot.keep(bundle(tiny_model(1), 1), "1")
    slot.serial.stop()
    look = slot.serving.look()
    assert look is not None
    assert look.hello is None
    slot.serial.start()
    slot.serving.activate({NAME: first})
    assert slot.runs() == "1"


def test_what_is_for_another_runtime_or_more_than_one_slot(slot: Slot) -> None:
    made = make_bundle(describe(NAME, "1", "fp32"), b"onnx", b"golden")
    for digest, blob in made.blobs.items():
        slot.store.add(digest, blob)
    other = Installed(version="1", variant="fp32", manifest=made.digest, since=START)
    result = slot.stage(other)
    assert result.verdict is Verdict.REJECTED
    assert result.reason.code == "board.runtime"
    with pytest.raises(StepRejected, match=r"board\.coupled"):
        slot.serving.activate({NAME: other, "b": other})
    with pytest.raises(StepFailed, match=r"slot\.empty"):
        slot.serving.accompany(NAME, other, share=1, cpu_max=1)


def test_a_port_has_one_user_and_is_a_port(serial: SerialBoard, tmp_path: Path) -> None:
    first, second = SerialPort(serial.path, 115200), SerialPort(serial.path, 115200)
    first.write(b"\0")
    with pytest.raises(OSError, match="in use by another program"):
        second.write(b"\0")
    first.close()
    second.write(b"\0")
    second.close()
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", Path("/dev/null")):
        with pytest.raises(OSError, match="no serial port"):
            SerialPort(path, 115200).write(b"\0")


def test_the_board_at_the_command_line(
    slot: Slot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slot.serving.activate({NAME: slot.keep(bundle(tiny_model(1), 1), "1")})
    slot.port.close()
    board = ["board", "--port", str(slot.serial.path)]
    assert main([*board, "--json"]) == 0
    assert '"counter": 1' in capsys.readouterr().out
    (tmp_path / "input").write_bytes(bytes(2 * 8 * 8))
    assert main([*board, "--json", "--infer", str(tmp_path / "input")]) == 0
    assert '"output": [' in capsys.readouterr().out
    (tmp_path / "short").write_bytes(b"1")
    assert main([*board, "--infer", str(tmp_path / "short")]) == 1
    assert "error[board.input]" in capsys.readouterr().err
    slot.serial.stop()
    assert main([*board, "--patience", "0.1"]) == 1
    said = capsys.readouterr().err
    assert "error[board.silent]" in said
    assert "try: look at its power" in said
    assert main(["gateway", "--port", "/dev/null"]) == 2
    assert "--state" in capsys.readouterr().err
    wait_for(slot.serial.ended, "off")


def test_the_service_of_the_readme_reaches_little() -> None:
    unit = ROOT / "firmware-examples/pico-uart/edgectl-gateway@.service"
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (Debian package systemd)")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=16", unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
