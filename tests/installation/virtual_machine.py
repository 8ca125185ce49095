"""A whole arm64 machine under QEMU: Debian's kernel, systemd, a disk, and a power that is cut.

The disk is unpacked by mmdebstrap and not configured (`--variant=extract`), as configuring it
emulated would take longer than all tests: what scripts of the packages would have done, and is
needed here, is done here. The kernel is Debian's; the initial file system loads the driver of the
disk and no more. Commands run there through QEMU's guest agent, which needs no network.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from installation.forgetful_disk import ForgetfulDisk
from installation.machine import ARCHIVE
from installation.packages import depends
from waiting import wait_for

__all__ = ["HOST", "VirtualMachine", "make_machine", "needs_machine"]

HOST = "10.0.2.2"
"""By which the machine reaches the loopback of this one: QEMU's user-mode network."""
_NEEDED = ("mmdebstrap", "qemu-system-aarch64", "mke2fs", "depmod", "modprobe", "cpio", "dpkg-deb")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_MERGED = "/usr/share/mmdebstrap/hooks/merged-usr"
_INCLUDED = (
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "diffutils"),
    *("dpkg", "findutils", "grep", "gzip", "hostname", "init-system-helpers", "libc-bin", "login"),
    *("mawk", "mount", "netbase", "passwd", "perl-base", "procps", "python3", "sed", "tar"),
    *("util-linux", "systemd-sysv", "udev", "dbus", "kmod", "e2fsprogs", "qemu-guest-agent"),
    *("linux-image-cloud-arm64", "busybox-static"),
)
_AS_INSTALLED = (
    'mkdir -p "$1/var/lib/dpkg"; for deb in "$1"/var/cache/apt/archives/*.deb; do '
    'dpkg-deb --field "$deb"; printf "Status: install ok installed\\n\\n"; '
    'done > "$1/var/lib/dpkg/status"'
)
_MODULES = ("virtio_pci", "virtio_blk")
_INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$module; done
until /bin/busybox test -b /dev/vda; do /bin/busybox usleep 20000; done
/bin/busybox mount -t ext4 -o ro /dev/vda /root || exec /bin/busybox sh
/bin/busybox mount -o move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""
_NETWORK = "[Match]\nName=en* eth*\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n"
_DISK_SIZE = "1500M"
_MAKE_S = 900
_BOOT_S = 600.0
_RUN_S = 900.0


def _what_is_missing() -> str:
    missing = [name for name in _NEEDED if shutil.which(name, path=_PATH) is None]
    if os.geteuid() != 0:
        missing.append("the rights of root")
    return ", ".join(missing)


needs_machine = pytest.mark.skipif(
    bool(_what_is_missing()),
    reason=f"needs {_what_is_missing() or 'nothing else'}: "
    "packaging/install_test_packages.py machine installs the programs",
)


def make_machine(folder: Path, release: str, *packages: Path) -> VirtualMachine:
    """Make a machine that has not booted yet.

    Args:
        folder: gets its disk and its kernel; on a disk.
        release: of Debian.
        packages: lie in ``/root`` there, to be installed: their files, compiled, and what they
            depend on are there already.
    """
    root = folder / "root"
    wanted = {*_INCLUDED}.union(*map(depends, packages))
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=extract", "--architectures=arm64"),
            *('--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"'),
            *(f"--hook-directory={_MERGED}", f"--extract-hook={_AS_INSTALLED}"),
            *(f"--include={','.join(sorted(wanted))}", release, str(root), ARCHIVE),
        ],
        check=True,
        timeout=_MAKE_S,
        env={"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8"},
    )
    for package in packages:
        shutil.copy(package, root / "root" / package.name)
        subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
    _finish(root)
    _compile(root)
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    shutil.copy(kernel, folder / "kernel")
    _make_initial(root, kernel.name.removeprefix("vmlinuz-"), folder)
    image = folder / "disk.img"
    make = ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(image), _DISK_SIZE]
    subprocess.run(make, check=True, env={"PATH": _PATH})
    return VirtualMachine(folder, ForgetfulDisk(image))


def _finish(root: Path) -> None:
    """Do what scripts of the packages would have done, as far as the machine needs it."""
    for name in ("passwd", "group"):
        text = (root / f"usr/share/base-passwd/{name}.master").read_text()
        more = {"passwd": "messagebus:x:100:100::/nonexistent:/usr/sbin/nologin\n"}
        (root / "etc" / name).write_text(text + more.get(name, "messagebus:x:100:\n"))
    (root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")  # none: the first boot of all
    (root / "etc/hostname").write_text("device\n")
    (root / "etc/fstab").write_text("/dev/vda / ext4 errors=remount-ro 0 1\n")
    (root / "etc/systemd/network/all.network").write_text(_NETWORK)
    wanted = root / "etc/systemd/system"
    for target, unit in (
        ("multi-user", "systemd-networkd.service"),
        ("network-online", "systemd-networkd-wait-online.service"),
    ):
        link = wanted / f"{target}.target.wants" / unit
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"/lib/systemd/system/{unit}")
    # Half of the first boot, for devices that this machine does not have.
    (wanted / "systemd-hwdb-update.service").symlink_to("/dev/null")
    for folder in ("info", "updates", "triggers"):
        (root / "var/lib/dpkg" / folder).mkdir(parents=True, exist_ok=True)


def _compile(root: Path) -> None:
    """Compile Python files here: there, py3compile would take minutes, and then finds it done."""
    own = f"usr/lib/python{sys.version_info.major}.{sys.version_info.minor}"
    if not (root / own).is_dir():
        return  # another one's bytecode is of no use there
    places = [str(root / own), str(root / "usr/lib/edgectl-agent")]
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", "-s", str(root), "-p", "/"]
    subprocess.run([*command, *places], check=True)


def _make_initial(root: Path, kernel: str, folder: Path) -> None:
    """Make the initial file system: one program, and the modules that the disk needs."""
    environment = {"PATH": _PATH}
    subprocess.run(["depmod", "--basedir", str(root), kernel], check=True, env=environment)
    command = [
        "modprobe",
        "--dirname",
        str(root),
        "--set-version",
        kernel,
        "--show-depends",
        "--all",
    ]
    said = subprocess.run(
        [*command, *_MODULES], check=True, capture_output=True, text=True, env=environment
    ).stdout
    modules = dict.fromkeys(line.split()[1] for line in said.splitlines() if "insmod" in line)
    initial = folder / "initial"
    for name in ("bin", "dev", "root", "modules"):
        (initial / name).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", initial / "bin/busybox")
    for module in modules:
        shutil.copy(module, initial / "modules")
    order = " ".join(Path(module).name for module in modules)
    (initial / "modules/order").write_text(order)
    (initial / "init").write_text(_INIT)
    (initial / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(initial)) for path in sorted(initial.rglob("*")))
    with (folder / "initrd").open("wb") as archive:
        subprocess.run(
            ["cpio", "--create", "--quiet", "--format=newc"],
            input=names.encode(),
            stdout=archive,
            check=True,
            cwd=initial,
        )


class VirtualMachine:
    """The machine; it is on between `start` and `cut_power`."""

    def __init__(self, folder: Path, disk: ForgetfulDisk) -> None:
        self.console = folder / "console"
        self.disk = disk
        self._folder = folder
        self._socket = folder / "agent.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = 0

    def start(self) -> None:
        """Switch it on, without waiting."""
        self._begun = self.console.stat().st_size if self.console.exists() else 0
        self._socket.unlink(missing_ok=True)
        command = [
            *("qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a72", "-smp", "2"),
            *("-m", "1024", "-display", "none", "-monitor", "none", "-nodefaults", "-no-reboot"),
            *("-kernel", str(self._folder / "kernel"), "-initrd", str(self._folder / "initrd")),
            *("-append", "console=ttyAMA0 panic=-1 systemd.show_status=0"),
            *("-chardev", f"file,id=console,path={self.console},append=on"),
            *("-serial", "chardev:console"),
            *("-netdev", "user,id=network", "-device", "virtio-net-pci,netdev=network,romfile="),
            *self.disk.begin(),
            *("-device", "virtio-blk-pci,drive=disk,write-cache=on"),
            *("-chardev", f"socket,id=agent,path={self._socket},server=on,wait=off"),
            *("-device", "virtio-serial-pci"),
            *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        ]
        with (self._folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait_booted(self) -> float:
        """Wait until every service that starts at boot has started; return the seconds it took."""
        begun = time.monotonic()
        wait_for(self._has_booted, "the machine to boot", bound_s=_BOOT_S)
        return time.monotonic() - begun

    def cut_power(self, loss: str, seed: int = 0) -> tuple[int, int]:
        """End it as a power cut does; the disk keeps what `ForgetfulDisk.cut` says."""
        self.stop()
        return self.disk.cut(loss, seed)

    def stop(self) -> None:
        """End the process; the disk stays as it was before it was started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait(60)
            self._process = None

    @property
    def said(self) -> str:
        """What it has written on its console since it was switched on."""
        return self.console.read_bytes()[self._begun :].decode(errors="replace")

    def run(self, *command: str, given: str = "", codes: tuple[int, ...] = (0,)) -> str:
        """Run a command there, and return what it prints, errors too."""
        with self._guest_agent() as ask:
            started = ask(
                "guest-exec",
                {
                    "path": command[0],
                    "arg": list(command[1:]),
                    "env": [f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8"],
                    "input-data": base64.b64encode(given.encode()).decode(),
                    "capture-output": True,
                },
            )

            def ended() -> Any:
                status = ask("guest-exec-status", {"pid": started["pid"]})
                return status if status["exited"] else None

            status = wait_for(ended, f"the end of {command}", bound_s=_RUN_S)
        text = "".join(
            base64.b64decode(status.get(name, "")).decode(errors="replace")
            for name in ("out-data", "err-data")
        )
        code = status.get("exitcode", -1)
        assert code in codes, f"{command} ended with {code}:\n{text}"
        return text

    def shows(self, unit: str, name: str) -> str:
        """Return a property of a unit of systemd."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def _has_booted(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "qemu.log").read_text() + self.said
        try:
            state = self.run("systemctl", "is-system-running", "--wait", codes=(0, 1)).strip()
        except OSError:
            return False
        return state in {"running", "degraded"}

    @contextlib.contextmanager
    def _guest_agent(self) -> Iterator[Any]:
        """Yield ``ask(command, arguments)``; raise `OSError` where nobody answers yet."""
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(5)
            channel.connect(str(self._socket))
            number = int.from_bytes(os.urandom(4), "big")
            answers = channel.makefile("rb")

            def say(command: str, arguments: dict[str, Any]) -> None:
                message = {"execute": command, "arguments": arguments}
                channel.sendall(json.dumps(message).encode() + b"\n")

            def hear() -> dict[str, Any]:
                answer: dict[str, Any] = json.loads(answers.readline().rpartition(b"\xff")[2])
                return answer

            def ask(command: str, arguments: dict[str, Any]) -> Any:
                say(command, arguments)
                answer = hear()
                assert "return" in answer, answer
                return answer["return"]

            channel.sendall(b"\xff")  # ends whatever somebody else has begun to say
            say("guest-sync-delimited", {"id": number})
            while hear().get("return") != number:
                pass  # an answer to that, or to whom did not wait for it
            channel.settimeout(60)
            yield ask
