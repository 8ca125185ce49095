"""Hooks: programs of the device's owner that run before and after a step of an update.

::

    <hooks>/pre-download            before a bundle is fetched         may put it off
    <hooks>/post-download           after it                           is told
    <hooks>/pre-activate            before a model is switched to      may put it off
    <hooks>/post-activate           after it                           may have it rolled back
    <hooks>/pre-rollback            before a return                    is told
    <hooks>/post-rollback           after it                           is told
    <hooks>/<name>.d/*              the same, several, by name

Rules:

1. Only what root or the agent's user owns, and nobody else can write, is run; so for the folder and
   those above it. A link must not lead out of the folder. What is there and may not be run is an
   error, not a silence: somebody wanted it to run.
2. A hook gets no input, a fixed small environment, and a session of its own. Its output goes into
   the log, bounded. After `timeout_s`, and after its end, everything that it has left behind is
   killed, also what has left its session.
3. A step that is done twice after a power loss runs its hooks twice.
4. Exit status 0: go on. 75 (EX_TEMPFAIL in sysexits.h): not now. Anything else: no. What that means
   is decided by who calls; here both are errors, told apart by `HookFailed.passing`.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

from edgectl_agent.core.record import Update
from edgectl_agent.errors import StepCancelled, StepFailed, StepRejected
from edgectl_agent.owned_programs import (
    ProgramRefused,
    check_folder,
    check_program,
    kill_marked,
)

__all__ = ["HOOKS", "NO_HOOKS", "HookFailed", "Hooks", "Phase"]

Phase = Literal[
    "pre-download",
    "post-download",
    "pre-activate",
    "post-activate",
    "pre-rollback",
    "post-rollback",
]
HOOKS: tuple[Phase, ...] = (
    "pre-download",
    "post-download",
    "pre-activate",
    "post-activate",
    "pre-rollback",
    "post-rollback",
)
NOT_NOW = 75
"""EX_TEMPFAIL."""
_SCRIPTS_MAX = 32
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_LEFTOVER = re.compile(r".*(~|\.bak|\.swp|\.dpkg-[a-z]+|\.rpmnew|\.rpmsave)")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MARK = "EDGECTL_HOOK_RUN"
_POLL_S = 0.05
_OUTPUT_BYTES_MAX = 8 * 1024
_LINES_MAX = 40
_PASSES_MAX = 50
_TAIL_CHARACTERS = 200
_log = logging.getLogger(__name__)


class HookFailed(StepFailed):
    """A hook says no, or could not be run."""

    def __init__(self, code: str, detail: str, *, passing: bool) -> None:
        super().__init__(
            code, detail, hint="its output is in the agent's log: journalctl -u edgectl-agent"
        )
        self.passing = passing
        """Whether it says nothing about the model: it was not run, or said "not now"."""


class Hooks:
    """The hooks of one device; `run` is called from the thread of the steps."""

    def __init__(self, directory: Path | None, *, timeout_s: float) -> None:
        """Take where they are; None: there are none."""
        self._directory = directory
        self._timeout_s = timeout_s

    def run(
        self,
        phase: Phase,
        *,
        slot: str,
        version: str,
        variant: str,
        manifest: str,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Run the hooks of a phase, one after another.

        Raises:
            HookFailed: ``hook.refused``: one must not be run; ``hook.failed``: one has said no, or
                took too long.
            StepCancelled: `cancelled` said so.
        """
        if self._directory is None or not self._directory.is_dir():
            return
        environment = {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "EDGECTL_SLOT": slot,
            "EDGECTL_VERSION": version,
            "EDGECTL_VARIANT": variant,
            "EDGECTL_MANIFEST": manifest,
            "EDGECTL_PHASE": phase,
        }
        try:
            for script in self._scripts(self._directory, phase):
                _Run(script, environment, self._timeout_s).to_its_end(cancelled)
        except OSError as error:
            raise HookFailed("hook.refused", f"{phase}: {error}", passing=True) from error

    def ask(self, phase: Phase, updates: Sequence[Update], cancelled: Callable[[], bool]) -> None:
        """Run the hooks of a phase for each update; raise as `run` does, with the update's slot."""
        for update in updates:
            try:
                self.run(
                    phase,
                    slot=update.slot,
                    version=update.version,
                    variant=update.candidate.variant,
                    manifest=update.manifest,
                    cancelled=cancelled,
                )
            except HookFailed as error:
                error.slot = update.slot
                raise

    def tell(self, phase: Phase, updates: Sequence[Update], cancelled: Callable[[], bool]) -> None:
        """Run hooks that stop nothing."""
        for update in updates:
            try:
                self.ask(phase, (update,), cancelled)
            except HookFailed as error:
                _log.warning("%s", error)

    def judge(self, phase: Phase, updates: Sequence[Update], cancelled: Callable[[], bool]) -> None:
        """Run hooks whose no is the model's fault; raise `StepRejected` for it, else as `ask`."""
        try:
            self.ask(phase, updates, cancelled)
        except HookFailed as error:
            if error.passing:
                raise
            raise StepRejected(
                error.code, error.detail, hint=error.hint, slot=error.slot
            ) from error

    def _scripts(self, directory: Path, phase: str) -> Iterator[Path]:
        """Yield what is to be run, each checked."""
        several = directory / f"{phase}.d"
        names = [directory / phase]
        if several.is_dir():
            _check_inside(directory, several)
            names += sorted(
                one
                for one in several.iterdir()
                if _NAME.fullmatch(one.name) and not _LEFTOVER.fullmatch(one.name)
            )
        if len(names) > _SCRIPTS_MAX:
            raise _refused(several, f"more than {_SCRIPTS_MAX} hooks")
        for name in names:
            if name.exists() or name.is_symlink():
                _check_inside(directory, directory)
                yield _checked(directory, name)


NO_HOOKS = Hooks(None, timeout_s=1.0)


class _Run:
    """One hook, from its start to its end."""

    def __init__(self, script: Path, environment: dict[str, str], timeout_s: float) -> None:
        self._script = script
        self._timeout_s = timeout_s
        self._mark = secrets.token_hex(16)
        self._output = bytearray()
        self._length = 0
        self._process = subprocess.Popen(
            [str(script)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**environment, _MARK: self._mark},
            start_new_session=True,
            bufsize=0,
        )

    def to_its_end(self, cancelled: Callable[[], bool]) -> None:
        """Wait for it; raise `HookFailed` or `StepCancelled`."""
        assert self._process.stdout is not None
        with self._process.stdout as output:
            try:
                in_time = self._watch(output, cancelled)
            finally:
                self._end(output)
        status = self._process.returncode
        if not in_time:
            raise HookFailed(
                "hook.failed",
                f"{self._script} did not end within {self._timeout_s:g} s",
                passing=True,
            )
        if status != 0:
            how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
            tail = " ".join(self._output.decode("utf-8", "replace").split())[-_TAIL_CHARACTERS:]
            raise HookFailed(
                "hook.failed",
                f"{self._script}: {how}" + (f": {tail}" if tail else ""),
                passing=status == NOT_NOW,
            )

    def _watch(self, output: IO[bytes], cancelled: Callable[[], bool]) -> bool:
        """Read what it says until it has ended; say whether it has."""
        os.set_blocking(output.fileno(), False)
        deadline_s = time.monotonic() + self._timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while time.monotonic() < deadline_s:
                if cancelled():
                    raise StepCancelled
                if self._has_ended():
                    return True
                if selector.get_map():
                    if selector.select(_POLL_S) and not self._read(output):
                        selector.unregister(output)
                else:
                    time.sleep(_POLL_S)  # it has closed its output, and works on
        return self._has_ended()

    def _has_ended(self) -> bool:
        # Not reaped yet: its number, which is that of its group, must not go to somebody else.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is not None

    def _read(self, output: IO[bytes]) -> bool:
        """Read once; say whether more may come. What is too much is dropped."""
        try:
            content = os.read(output.fileno(), 65536)
        except BlockingIOError:
            return True
        self._length += len(content)
        self._output += content[: _OUTPUT_BYTES_MAX - len(self._output)]
        return bool(content)

    def _end(self, output: IO[bytes]) -> None:
        """Kill what is left of it, and log what it has said."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for _ in range(_PASSES_MAX):
            if not kill_marked(f"{_MARK}={self._mark}".encode()):
                break
        self._read(output)
        lines = self._output.decode("utf-8", "replace").splitlines()
        for line in lines[:_LINES_MAX]:
            _log.info("%s: %s", self._script.name, line[:500])
        if len(lines) > _LINES_MAX or self._length > len(self._output):
            _log.info("%s: … %d bytes in all", self._script.name, self._length)


def _checked(directory: Path, script: Path) -> Path:
    """Return the file that is to be run; raise `HookFailed` if it must not be."""
    real = script.resolve()
    if not real.is_relative_to(directory.resolve()):
        raise _refused(script, "the link leads out of the folder")
    try:
        check_program(real)
    except ProgramRefused as error:
        raise _refused(script, error.detail) from error
    return real


def _check_inside(directory: Path, folder: Path) -> None:
    """Check a folder and those above it."""
    if folder != directory and not folder.resolve().is_relative_to(directory.resolve()):
        raise _refused(folder, "the link leads out of the folder")
    try:
        check_folder(folder)
    except ProgramRefused as error:
        raise _refused(error.path, error.detail) from error


def _refused(path: Path, detail: str) -> HookFailed:
    return HookFailed("hook.refused", f"{path} is not run: {detail}", passing=True)
