"""A small file system of its own, which fills up and turns read-only at a word.

It is mounted in a mount namespace, by root or, where the kernel lets ordinary users make
namespaces, by anybody; it is reached through ``/proc`` and ends with the process that holds it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from waiting import wait_for


class SmallDisk:
    """A mounted file system."""

    def __init__(self, root: Path, holder: subprocess.Popen[str]) -> None:
        self.root = root
        self._holder = holder

    def do(self, command: str) -> str:
        """Run a command of the shell that holds it; return its status, ``0``, or what it said."""
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.write(command + "\n")
        self._holder.stdin.flush()
        *said, status = iter(self._answers())
        return " ".join(said) or status

    def _answers(self) -> Iterator[str]:
        assert self._holder.stdout is not None
        while not (line := self._holder.stdout.readline().strip()).isdigit():
            assert line, "the shell has ended"
            yield line
        yield line

    def read_only(self) -> None:
        """Wait until nobody has a file of it open for writing; processes are still ending."""
        wait_for(lambda: self.do("mount -o remount,ro $where") == "0", "the remount")

    def writable(self) -> None:
        assert self.do("mount -o remount,rw $where") == "0"

    def free_bytes(self) -> int:
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Leave so much free, to a block."""
        with (self.root / "filler").open("ab") as file:
            while (more := self.free_bytes() - leave_bytes) > 4096:
                try:
                    file.write(bytes(min(more, 1 << 20)))
                    file.flush()
                except OSError:
                    return

    def make_room(self) -> None:
        (self.root / "filler").unlink()


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """Mount one; skips the test where nothing can be mounted."""
    where = folder / "small"
    where.mkdir()
    script = (
        f"where={where}; mount -t tmpfs -o size={size_bytes},mode=0700 none $where; echo $?; "
        'while read -r line; do eval "$line"; echo $?; done'
    )
    who = [] if os.geteuid() == 0 else ["--map-root-user"]
    with subprocess.Popen(
        ["unshare", "--mount", *who, "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as holder:
        try:
            assert holder.stdout is not None
            answer = holder.stdout.readline().strip()
            if answer != "0":
                pytest.skip(f"nothing can be mounted here: {answer}")
            yield SmallDisk(Path(f"/proc/{holder.pid}/root{where}"), holder)
        finally:
            holder.kill()
