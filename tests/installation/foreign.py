"""An agent on another kind of processor: its files from Debian, run here by QEMU's user mode.

mmdebstrap unpacks what the agent's package depends on (`--variant=extract`) and dpkg-deb the
package itself. No script of a maintainer runs, and nothing boots: what those do is for the tests
of packages on a booted machine. What is seen here is the code for that processor: Python, NumPy,
cryptography, the runtime, and the numbers that come out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.fleet import Agent, Server
from installation.machine import ARCHIVE
from installation.packages import depends
from waiting import wait_for

__all__ = [
    "A7",
    "A72",
    "A76",
    "Foreign",
    "Processor",
    "entering",
    "make_enterable",
    "make_root",
    "needs_emulation",
]

HERE = Path(__file__).parent
STATE = "var/lib/edgectl-agent"
BOUND_S = 300.0
_MAKE_S = 900
_MAY_REGISTER = (
    *("unshare", "--map-root-user", "--mount"),
    *("mount", "-t", "binfmt_misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc"),
)
_SYSTEM_CPU = "sys/devices/system/cpu"


@dataclass(frozen=True)
class Processor:
    """A processor that QEMU can be.

    Attributes:
        name: QEMU's of it.
        architecture: Debian's name of it.
        machine: what `uname` calls it.
        board: a Raspberry Pi that has it.
        emulator: the program, statically linked.
        magic: of ELF files for it; after it, the mask.
        facts: of ``/proc/cpuinfo``, for each processor.
    """

    name: str
    architecture: str
    machine: str
    board: str
    emulator: str
    magic: str
    facts: str

    @property
    def format(self) -> str:
        """What the kernel is told: what files are of it; F: the program is opened here and now."""
        mask = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
        return f":edgectl-{self.name}:M::{self.magic}:{mask}:%s:F"

    @property
    def cpuinfo(self) -> str:
        """Return ``/proc/cpuinfo`` with as many of them as there are processors here."""
        count = os.cpu_count() or 1
        return "".join(f"processor\t: {number}\n{self.facts}\n" for number in range(count))


_AARCH64 = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_ARM = r"\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00"

A72 = Processor(
    "cortex-a72", "arm64", "aarch64", "Raspberry Pi 4", "qemu-aarch64-static", _AARCH64,
    "BogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
    "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n",
)  # fmt: skip
A76 = Processor(
    "cortex-a76", "arm64", "aarch64", "Raspberry Pi 5", "qemu-aarch64-static", _AARCH64,
    "BogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp "
    "asimdhp cpuid asimdrdm lrcpc dcpop asimddp\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
    "CPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n",
)  # fmt: skip
A7 = Processor(
    "cortex-a7", "armhf", "armv7l", "Raspberry Pi 2", "qemu-arm-static", _ARM,
    "model name\t: ARMv7 Processor rev 5 (v7l)\nBogoMIPS\t: 38.40\nFeatures\t: half thumb fastmult "
    "vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm\nCPU implementer\t: 0x41\n"
    "CPU architecture: 7\nCPU variant\t: 0x0\nCPU part\t: 0xc07\nCPU revision\t: 5\n",
)  # fmt: skip


def _what_is_missing() -> str:
    programs = (
        *("mmdebstrap", "dpkg-deb", "unshare", "gcc", "arm-linux-gnueabihf-gcc"),
        *(A72.emulator, A7.emulator),
    )
    missing = [name for name in programs if shutil.which(name) is None]
    if os.geteuid() != 0:
        missing.append("the rights of root")
    elif subprocess.run(_MAY_REGISTER, capture_output=True, check=False).returncode:
        missing.append("Linux 6.7 or newer with binfmt_misc and user namespaces")
    return ", ".join(missing)


needs_emulation = pytest.mark.skipif(
    bool(_what_is_missing()),
    reason=f"needs {_what_is_missing() or 'nothing else'}: "
    "packaging/install_test_packages.py emulation installs the programs",
)


def make_root(
    folder: Path,
    release: str,
    architecture: str,
    *packages: Path,
    included: Iterable[str] = (),
) -> Path:
    """Unpack packages, and of Debian what they depend on; return the folder.

    Args:
        folder: gets the root, as ``root``.
        release: of Debian.
        architecture: Debian's name of it.
        packages: those that are not Debian's, for that release and architecture.
        included: others of Debian's.
    """
    root = folder / "root"
    wanted = {"base-files", "base-passwd", "coreutils"}.union(included, *map(depends, packages))
    wanted -= {"systemd", *(package.name.partition("_")[0] for package in packages)}  # none is run
    without_tmpdir = {name: text for name, text in os.environ.items() if name != "TMPDIR"}
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=extract", f"--architectures={architecture}"),
            *('--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"'),
            *(f"--include={','.join(sorted(wanted))}", release, str(root), ARCHIVE),
        ],
        check=True,
        timeout=_MAKE_S,
        env={**without_tmpdir, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    for package in packages:
        subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
    _finish(root)
    return root


def _finish(root: Path) -> None:
    """Do what scripts of the packages would have done, as far as the agent needs it."""
    shutil.copy(root / "usr/share/base-passwd/passwd.master", root / "etc/passwd")
    groups = (root / "usr/share/base-passwd/group.master").read_text()
    (root / "etc/group").write_text(groups)
    for name in ("blas", "lapack"):  # update-alternatives
        for library in root.glob(f"usr/lib/*/{name}/lib{name}.so.3"):
            (library.parents[1] / library.name).symlink_to(f"{name}/{library.name}")
    own = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if (root / f"usr/lib/{own}").is_dir():  # py3compile; another one's bytecode is of no use there
        command = [sys.executable, "-m", "compileall", "-q", "-j", "0", "-s", str(root), "-p", "/"]
        subprocess.run([*command, str(root / "usr/lib/edgectl-agent")], check=True)
    make_enterable(root)
    for folder in ("tmp", "run/edgectl-agent", STATE):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / STATE).chmod(0o700)


def make_enterable(root: Path) -> None:
    """Make what `entering` mounts over, and what onnxruntime reads of the processors."""
    cpu = root / _SYSTEM_CPU
    cpu.mkdir(parents=True)
    for name in ("possible", "present"):  # as in /proc/cpuinfo
        (cpu / name).write_text(f"0-{(os.cpu_count() or 1) - 1}\n")
    for folder in ("proc", "dev"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "emulator").touch()


def entering(root: Path, processor: Processor, emulator: str = "") -> list[str]:
    """Return what runs a command of the root, which is to follow, and all that it starts.

    Args:
        root: that `make_enterable` has been told of; beside it come a few files.
        processor: what QEMU is told to be.
        emulator: where QEMU is; empty: where it is installed.
    """
    program = _compiled(processor, root.parent)
    cpuinfo = root.parent / "cpuinfo"
    cpuinfo.write_text(processor.cpuinfo)
    return [
        *("unshare", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child=KILL", "--"),
        *("sh", str(HERE / "enter.sh"), str(root), str(program)),
        *(emulator or str(shutil.which(processor.emulator)), str(cpuinfo)),
    ]


class Foreign(Agent):
    """The agent of a root as a process here."""

    def __init__(self, server: Server, device: str, root: Path, token: str) -> None:
        super().__init__(server, device, root / STATE, token)
        self.root = root
        self.processor = A72
        self._environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "EDGECTL_AGENT_TELEMETRY_S": "1",
            "EDGECTL_AGENT_TRIAL_TIMEOUT_S": str(BOUND_S),  # what is slow here is the emulation
            "EDGECTL_AGENT_MODELS_GROUP": "",  # there are no groups but that of root
        }

    def begin(self) -> None:
        """Start without waiting; what it believed before counts, so the token may be empty."""
        self.command = [
            *entering(self.root, self.processor),
            *("/usr/bin/edgectl-agent", "run", "--json", "--server", self.server.url),
            *("--device", self.device, "--port", "0"),
        ]
        self._environment["EDGECTL_AGENT_TOKEN"] = self.token
        super(Agent, self).start()

    def start(self) -> None:
        """Start and wait until the inference endpoint answers.

        On a busy machine an emulated process may take longer to come up than the agent gives it.
        The agent is started again then, as its service manager does.
        """
        since = self.log.stat().st_size if self.log.exists() else 0
        self.begin()

        def look() -> str:
            for line in self.lines(since):
                if line.get("event") == "ready":
                    return str(line["endpoint"])
            if self.popen is not None and self.popen.poll() is not None:
                assert "inference.timeout" in self.log.read_text(), self.log.read_text()[-3000:]
                self.begin()
            return ""

        self.endpoint = wait_for(look, "the agent to be ready", bound_s=BOUND_S)

    def stop(self, bound_s: float = 20) -> int:
        """End it, and all that it has started: the first process of its namespace goes."""
        if self.popen is not None and self.popen.poll() is None:
            self.kill()
        return super().stop(bound_s)


def _compiled(processor: Processor, folder: Path) -> Path:
    """Return the program that runs QEMU as `processor`; beside it is what the kernel is told."""
    program = folder / f"runs_on_{processor.name}"
    if not program.exists():
        define = f'-DPROCESSOR="{processor.name}"'
        command = ["gcc", "-static", "-O2", define, "-o", str(program), str(HERE / "runs_on.c")]
        subprocess.run(command, check=True)
        program.with_name(f"{program.name}.format").write_text(processor.format % program)
    return program
