"""A Debian machine with systemd, booted from a folder on this one: for tests of packages.

The folder is made by mmdebstrap and booted by systemd-nspawn. It shares this machine's network, so
that a server of the tests is at 127.0.0.1 there too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from waiting import wait_for

__all__ = ["ARCHIVE", "NEEDED", "Machine", "booted", "make_root", "missing_programs", "remove"]

NEEDED = ("mmdebstrap", "systemd-nspawn", "nsenter", "dpkg-deb")
ARCHIVE = "http://deb.debian.org/debian"
"""Of Debian, alone: for tests that updates of a release are nothing to."""
_MAKE_S = 900
_RUN_S = 180
_INCLUDED = "systemd-sysv,dbus,python3,libseccomp2,init-system-helpers"
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")
_LANDLOCK = "landlock_create_ruleset landlock_add_rule landlock_restrict_self"
_STATE = ("systemctl", "is-system-running")
_STARTED = {"running", "degraded"}
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin", "HOME": "/root", "LANG": "C.UTF-8"}


class Machine:
    """A booted machine."""

    def __init__(self, root: Path, process: subprocess.Popen[bytes]) -> None:
        self.root = root
        self._process = process
        self._init = ""

    def wait_booted(self) -> None:
        """Wait until every service that starts at boot has started."""
        wait_for(self._has_booted, "the machine to boot", bound_s=180)

    def run(self, *command: str, given: str = "", codes: tuple[int, ...] = (0,)) -> str:
        """Run a command there, and return what it prints, errors too."""
        done = self._call(*command, given=given)
        assert done.returncode in codes, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def shows(self, unit: str, name: str) -> str:
        """Return a property of a unit of systemd."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def stop(self) -> None:
        """Cut its power; the folder stays."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(self._init) if self._init else self._process.pid, signal.SIGKILL)
        self._process.wait(60)

    def _has_booted(self) -> bool:
        assert self._process.poll() is None, (self.root.parent / "console").read_text()
        # Looked for each time: the first child of systemd-nspawn only prepares the one that stays.
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self._init = children.read_text().strip()
        return bool(self._init) and self._call(*_STATE).stdout.strip() in _STARTED

    def _call(self, *command: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", "--target", self._init, "--all", "--wd=/", *command],
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_RUN_S,
            env=_ENVIRONMENT,
        )


def make_root(
    folder: Path, release: str, included: Iterable[str] = (), *, archive: str = ""
) -> Path:
    """Make the folder of a machine that has not booted yet.

    Args:
        folder: gets it, as ``root``.
        release: of Debian.
        included: packages besides those that every machine has.
        archive: where it comes from; empty: from where mmdebstrap takes that release, with updates.
    """
    root = folder / "root"
    options = [f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT]
    without_tmpdir = {name: text for name, text in os.environ.items() if name != "TMPDIR"}
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=apt"),
            f"--include={','.join([_INCLUDED, *included])}",
            *('--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"'),
            *("--dpkgopt=force-unsafe-io", *options, release, str(root), *filter(None, [archive])),
        ],
        check=True,
        timeout=_MAKE_S,
        # Debian's own Python filters each package: a wrapper before it costs a second for each.
        env={**without_tmpdir, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    return root


@contextlib.contextmanager
def booted(root: Path) -> Iterator[Machine]:
    """Boot the machine, and switch it off at the end."""
    with (root.parent / "console").open("ab") as console:
        process = subprocess.Popen(
            [
                *("systemd-nspawn", "--boot", "--directory", str(root), "--register=no"),
                f"--machine=edgectl-{os.getpid()}",
                *("--keep-unit", "--console=pipe", f"--system-call-filter={_LANDLOCK}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )
    machine = Machine(root, process)
    try:
        machine.wait_booted()
        yield machine
    finally:
        machine.stop()


def remove(root: Path) -> None:
    """Remove the folder of a machine, and nothing that is still mounted in it."""
    subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=True, timeout=_MAKE_S)


def missing_programs() -> list[str]:
    """Return what is needed here and is not installed."""
    return [name for name in NEEDED if shutil.which(name) is None]
