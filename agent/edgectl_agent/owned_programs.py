"""Programs of the device's owner: which may be run, and the end of all that they leave behind.

Only what root or the agent's user owns, and nobody else can write, is run; so for its folder and
those above it. What a program has started carries the mark of its environment, also where it has
left its session.
"""

from __future__ import annotations

import os
import signal
import stat
from contextlib import suppress
from pathlib import Path

__all__ = ["ProgramRefused", "check_folder", "check_named", "check_program", "kill_marked"]


class ProgramRefused(Exception):
    """A program that must not be run; or a folder that it may not lie in."""

    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(f"{path} is not run: {detail}")
        self.path = path
        self.detail = detail


def check_named(program: Path, user: int | None = None) -> None:
    """Raise `ProgramRefused` or `OSError` unless what is named so may be run.

    Args:
        program: path of it, or of a link to it: both folders are looked at.
        user: number of the user who would run it; None: who we are.
    """
    for path in dict.fromkeys((program, program.resolve(strict=True))):
        check_folder(path.parent, user)
    check_program(program.resolve(), user)


def check_program(program: Path, user: int | None = None) -> None:
    """Raise `ProgramRefused` or `OSError` unless this very file may be run."""
    found = program.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ProgramRefused(program, "it is no file")
    _check_owner(program, found, user)
    if not found.st_mode & stat.S_IXUSR:
        raise ProgramRefused(program, "it is not executable: chmod 755")


def check_folder(folder: Path, user: int | None = None) -> None:
    """Raise `ProgramRefused` or `OSError` if others could put a program there."""
    real = folder.resolve()
    for one in (real, *real.parents):
        found = one.stat()
        if one != real and found.st_mode & stat.S_ISVTX:
            continue  # such as /tmp: nobody can replace what is not their own there
        _check_owner(one, found, user)


def kill_marked(mark: bytes) -> int:
    """Kill our own processes that carry `mark` in their environment; return how many."""
    killed = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                state = (entry / "stat").read_text("ascii", "replace").rpartition(")")[2].split()[0]
                killed += int(state != "Z")
    return killed


def _check_owner(path: Path, found: os.stat_result, user: int | None) -> None:
    if found.st_uid not in {0, os.geteuid() if user is None else user}:
        raise ProgramRefused(path, f"it belongs to the user with number {found.st_uid}: chown root")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ProgramRefused(path, "others may write it: chmod go-w")
