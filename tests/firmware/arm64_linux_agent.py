"""The agent in C for arm64: cross-compiled, emulated; ``make test-linux-agent-arm64``.

Not collected by itself. Needs root, and Debian's gcc-aarch64-linux-gnu, qemu-user-static,
binfmt-support and mmdebstrap. Its root is Debian's for arm64, unpacked and never booted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from broker.conftest import TestAuthority, start_broker
from firmware.linux_agent import MODEL, SOURCES, CAgent, Release, UnixStage
from firmware.networked import write_identity
from firmware.programs import onnxruntime_for_c

DEVICE = "pi-arm64"
LIBRARIES = "base-files,libc6-dev,libmosquitto-dev,libsodium-dev,libssl-dev,libstdc++6"
# onnxruntime asks these which processors there are; those of the host are of another kind.
CPU_INFO = "".join(
    f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\n"
    "CPU revision\t: 3\n\n"
    for number in range(2)
)


def _is_emulated() -> bool:
    registered = Path("/proc/sys/fs/binfmt_misc")
    return any("aarch64" in one.name for one in registered.glob("*"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian for arm64, with the libraries and the program."""
    for tool in ("aarch64-linux-gnu-gcc", "qemu-aarch64-static", "mmdebstrap"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}: gcc-aarch64-linux-gnu, qemu-user-static, mmdebstrap")
    if os.geteuid() != 0 or not _is_emulated():
        pytest.skip(
            "needs root, and programs for aarch64 to be run by binfmt_misc (binfmt-support)"
        )
    folder = tmp_path_factory.mktemp("arm64") / "root"
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=extract", "--arch=arm64", f"--include={LIBRARIES}",
         '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"',
         "bookworm", folder],
        check=True, env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )  # fmt: skip
    runtime = onnxruntime_for_c("arm64")
    subprocess.run(
        ["make", "--silent", "CROSS=aarch64-linux-gnu-", f"SYSROOT={folder}", "size",
         f"ONNXRUNTIME={runtime}", f"BUILD={folder / 'build'}"],
        cwd=SOURCES, check=True,
    )  # fmt: skip
    shutil.copy(runtime / "lib/libonnxruntime.so.1", folder / "usr/lib/aarch64-linux-gnu")
    (folder / "proc").mkdir(exist_ok=True)
    processors = folder / "sys/devices/system/cpu"
    processors.mkdir(parents=True)
    for name in ("possible", "present"):
        (processors / name).write_text("0-1\n")
    (folder / "cpuinfo").write_text(CPU_INFO)
    return folder


class Emulated(CAgent):
    """The agent in its root, in namespaces of its own, which end with it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "build/edgectl-c-agent", root / "state")
        self.root = root

    def start(self) -> None:
        """Start it."""
        script = (
            'mount -t proc proc "$1/proc" && mount --bind "$1/cpuinfo" "$1/proc/cpuinfo" && '
            'exec chroot "$1" /build/edgectl-c-agent run /state "$2"'
        )
        self.run(
            "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh",
            self.root, self.model,
        )  # fmt: skip


def test_it_updates_and_goes_back_on_arm64(root: Path, tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path / "pki")
    broker = start_broker("embedded", authority, tmp_path / "broker")
    agent = Emulated(root)
    try:
        stage = UnixStage(broker, authority, DEVICE, MODEL)
        write_identity(
            stage, authority.path, agent.state / "identity", tmp_path / "enrolled",
            options=("--file", "--address", "127.0.0.1"),
        )  # fmt: skip
        agent.start()
        one, two = Release("1"), Release("2")
        began = time.monotonic()
        stage.roll_out(one)
        agent.wait_served("1")
        print(f"first update, emulated: {time.monotonic() - began:.1f} s")
        state = stage.states[-1]
        assert state.capabilities is not None
        assert state.capabilities.machine == "aarch64"
        assert np.allclose(agent.answers(one.inputs), one.outputs, rtol=1e-3, atol=1e-4)
        worst = np.abs(agent.answers(one.inputs) - one.outputs).max()
        print(f"largest difference from x86-64: {worst:.3g}")
        bad = stage.publish_release(Release("3", wrong=True))
        number = stage.order(bad, version="3")
        stage.wait_state("its answers are wrong", state="rejected", order=number)
        assert agent.served() == "1"
        agent.kill()
        agent.start()
        stage.roll_out(two)
        agent.wait_served("2")
        stage.close()
    finally:
        agent.kill()
        broker.stop()
