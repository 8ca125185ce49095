"""Docker's engine and Compose in a folder, with a network of their own: for tests of images.

The folder is a Debian made by mmdebstrap; nothing is installed on this machine, and no rule of its
firewall, no bridge and no mount is left: all of it lives in namespaces that end with the test.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from waiting import wait_for

__all__ = ["NEEDED", "Engine", "apart", "make_engine_root"]

NEEDED = ("mmdebstrap", "buildah", "dpkg-deb", "unshare", "chroot", "ip")
_INCLUDED = "ca-certificates,docker.io,docker-cli,docker-compose,iptables,mount"
_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_MAKE_S = 900
_RUN_S = 600
_SOCKET = "unix:///engine/docker.sock"
_START = """\
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
pivot_root . mnt  # a changed root alone is no mount, which the engine looks for
umount --lazy mnt
dockerd --host "$2" --data-root /engine/data --exec-root /run/docker --cgroup-parent "$3" \\
    --log-level warn &
wait
"""


def make_engine_root(folder: Path) -> Path:
    """Make the folder of an engine that has not started yet."""
    root = folder / "engine"
    without_tmpdir = {name: text for name, text in os.environ.items() if name != "TMPDIR"}
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=apt", f"--include={_INCLUDED}"),
            *('--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"'),
            *("--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"),
            *("--dpkgopt=force-unsafe-io", "trixie", str(root)),
        ],
        check=True,
        timeout=_MAKE_S,
        env={**without_tmpdir, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    (root / "engine").mkdir()
    return root


@contextlib.contextmanager
def apart(hosts: Path) -> Iterator[None]:
    """Give this thread, and what it starts, a network of its own and `hosts` as /etc/hosts."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: int) -> None:
        if getattr(libc, name)(*arguments):
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

    before = {
        kind: os.open(f"/proc/thread-self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        for kind, name in ((_CLONE_NEWNET, "net"), (_CLONE_NEWNS, "mnt"))
    }
    folder = Path.cwd()
    call("unshare", _CLONE_NEWNS | _CLONE_NEWNET)
    try:
        for command in (
            ["mount", "--make-rprivate", "/"],
            ["mount", "--bind", str(hosts), "/etc/hosts"],
            ["ip", "link", "set", "lo", "up"],
        ):
            subprocess.run(command, check=True, timeout=30)
        yield
    finally:
        for kind, descriptor in before.items():
            call("setns", descriptor, kind)
            os.close(descriptor)
        os.chdir(folder)


class Engine:
    """A running engine; its commands are those of `docker`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._parent = f"edgectl-test-{os.getpid()}"
        self._log = root.parent / "dockerd.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("unshare", "--pid", "--mount", "--fork", "--kill-child"),
                    *("sh", "-euc", _START, "sh", str(root), _SOCKET, f"/{self._parent}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, "the engine to start", bound_s=120)

    def docker(self, *words: str, codes: tuple[int, ...] = (0,), folder: str = "/") -> str:
        """Run a command of `docker`, and return what it prints, errors too."""
        done = self._call(*words, folder=folder)
        said = done.stdout + done.stderr
        assert done.returncode in codes, f"{words} ended with {done.returncode}:\n{said}"
        return said

    def value(self, *words: str, folder: str = "/") -> str:
        """Return the standard output of a command of `docker` alone."""
        done = self._call(*words, folder=folder)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def inspect(self, name: str, *, kind: str = "container") -> Any:
        """Return all that the engine knows of a container or an image."""
        return json.loads(self.value(kind, "inspect", name))[0]

    def wait_healthy(self, name: str, bound_s: float = 180) -> None:
        """Wait until a container's own check has passed."""

        def look() -> bool:
            state = self.inspect(name)["State"]
            assert state["Running"], self.docker("logs", name)[-3000:]
            return bool(state["Health"]["Status"] == "healthy")

        wait_for(look, f"{name} healthy", bound_s=bound_s)

    def load(self, archive: Path) -> None:
        """Take images from an archive, which is moved."""
        inside = self.root / "engine" / archive.name
        shutil.move(archive, inside)
        self.docker("load", "--input", f"/engine/{archive.name}")
        inside.unlink()

    def stop(self) -> None:
        """End all containers and the engine, and leave nothing in the machine's cgroups."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            names = self.value("ps", "--all", "--quiet").split()
            if names:
                self.docker("rm", "--force", "--volumes", *names)
        self._process.kill()
        self._process.wait(60)
        for found in sorted(Path("/sys/fs/cgroup").glob(f"**/{self._parent}")):
            for path in sorted([found, *found.glob("**/*/")], reverse=True):
                with contextlib.suppress(OSError):
                    path.rmdir()

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        return self._call("info").returncode == 0

    def _call(self, *words: str, folder: str = "/") -> subprocess.CompletedProcess[str]:
        script = 'cd "$1" && shift && exec docker --host "$@"'
        return subprocess.run(
            ["chroot", str(self.root), "sh", "-c", script, "sh", folder, _SOCKET, *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_RUN_S,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
        )  # fmt: skip
