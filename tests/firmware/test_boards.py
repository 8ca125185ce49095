"""The core on boards in QEMU: bundles of the vectors, and power cuts between two processes."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from firmware.programs import ROOT, monocypher

POWER_CUT, NO_MODEL = 77, 10
Node = Callable[..., dict[str, int]]


class Board(NamedTuple):
    """An example, and how QEMU runs it."""

    name: str
    compiler: str
    packages: str
    qemu: tuple[str, ...]
    """The command, up to the program; ``FLASH`` stands for the flash's file."""
    flash_bytes: int


BOARDS = (
    Board(
        "cortex-m",
        "arm-none-eabi-gcc",
        "gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm",
        ("qemu-system-arm", "-M", "mps2-an386", "-kernel"),
        1024 * 1024,
    ),
    Board(
        "riscv32-virt",
        "riscv64-unknown-elf-gcc",
        "gcc-riscv64-unknown-elf and qemu-system-misc",
        ("qemu-system-riscv32", "-M", "virt",
         "-drive", "if=pflash,unit=1,format=raw,file=FLASH", "-bios"),
        32 * 1024 * 1024,
    ),
)  # fmt: skip


@pytest.fixture(scope="module", params=BOARDS, ids=lambda one: one.name)
def board(request: pytest.FixtureRequest) -> Board:
    """Each of them, where its tools are."""
    one: Board = request.param
    for tool in (one.compiler, one.qemu[0]):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (Debian packages {one.packages})")
    return one


@pytest.fixture(scope="module")
def program(
    board: Board, vectors: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Build the example for the key and the name of the vectors."""
    folder = tmp_path_factory.mktemp(board.name)
    (folder / "key.pub").write_text(base64.b64decode(vectors["key"]).hex())
    done = subprocess.run(
        ["make", "--silent", f"KEY={folder / 'key.pub'}", f"NAME={vectors['name']}",
         f"BUILD={folder}", f"MONOCYPHER={monocypher()}"],
        cwd=ROOT / "firmware-examples" / board.name, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "node.elf"


@pytest.fixture
def node(board: Board, program: Path, tmp_path: Path) -> Node:
    """Run the program once, on a flash that stays: node("boot"), node("install", file)."""
    flash = tmp_path / "flash"
    flash.write_bytes(b"\xff" * board.flash_bytes)

    def run(*words: object) -> dict[str, int]:
        arguments = ",".join(f"arg={one}" for one in ("node", flash, *words))
        done = subprocess.run(
            [*(word.replace("FLASH", str(flash)) for word in board.qemu), program,
             "-nographic", "-monitor", "none", "-serial", "none", "-icount", "shift=0",
             "-semihosting-config", f"enable=on,target=native,{arguments}"],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        if done.returncode == POWER_CUT:
            return {"status": POWER_CUT}
        said: dict[str, int] = json.loads(done.stderr or done.stdout)
        assert said["status"] == done.returncode
        return said

    return run


def test_an_update_a_replay_and_a_rollback(node: Node, bundles: Path) -> None:
    assert node("boot")["status"] == NO_MODEL
    assert node("install", bundles / "v1")["status"] == 0
    assert node("boot")["counter"] == 1
    assert node("install", bundles / "bad")["status"] == 0, "it is signed, and whole"
    assert node("boot")["counter"] == 1, "its answers are wrong"
    assert node("install", bundles / "bad")["status"] == 6, "remembered"
    assert node("install", bundles / "v2")["status"] == 0
    said = node("boot")
    assert said["counter"] == 2
    assert said["stack_bytes"] < 4096
    assert node("install", bundles / "v1")["status"] == 5, "not newer"
    assert node("boot")["counter"] == 2


def test_the_power_is_cut_in_the_middle_of_an_operation(node: Node, bundles: Path) -> None:
    """Some of the points; all of them, in a simulated flash: test_core."""
    assert node("install", bundles / "v1")["status"] == 0
    assert node("boot")["counter"] == 1
    for operation in (0, 4):  # the erased slot, a page
        assert node("install", bundles / "v2", operation)["status"] == POWER_CUT
        assert node("boot")["counter"] == 1
    assert node("install", bundles / "v2")["status"] == 0
    assert node("boot", 1)["status"] == POWER_CUT, "the record that would have committed it"
    assert node("boot")["counter"] == 2
