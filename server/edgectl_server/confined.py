"""Run a command that handles hostile files: start it, read what it says, hold it to its limits.

The command runs in a session of its own and, where the kernel allows it, in process and network
namespaces of its own, with the environment that it is given and nothing more; where we are root, as
another user, otherwise in a user namespace. The wall clock, cancellation and the amount of output
are kept here. What else it may use (memory, processor time, files) it takes from itself before it
begins: see `edgectl_server.pipeline.confinement`.

As another user it keeps the one privilege to read and to look into every folder, because ours, and
those of the interpreter, may be closed to others. What that reaches is for Landlock to say.

The command must end when its standard input ends: that is when this process has died.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

__all__ = [
    "CommandCancelled",
    "CommandOverrun",
    "Ended",
    "Isolation",
    "hand_over",
    "has_ended",
    "isolation",
    "read_regular",
    "run",
]

_POLL_S = 0.1
_STDERR_BYTES_KEPT = 16 * 1024
_READ_BYTES = 64 * 1024
_CPU_TOLERANCE_S = 1.0
_SHELL_SIGNAL_BASE = 128
_USER_NAMESPACE = ("--user", "--map-current-user")
_NAMESPACES = ("--net", "--pid", "--fork", "--kill-child=KILL")
_OTHER_USERS = ("edgectl-models", "nobody")
"""Accounts for what handles hostile files where we are root; the first that there is."""
_OUT_OF_MEMORY = (
    b"bad_alloc", b"MemoryError", b"Cannot allocate memory", b"failed to map segment",
)  # fmt: skip


class CommandCancelled(Exception):
    """Somebody asked for the end of the command."""


class CommandOverrun(Exception):
    """The command took more than it may.

    Attributes:
        of: ``wall``: the time by the clock; ``output``: bytes on its standard output.
    """

    def __init__(self, of: Literal["wall", "output"]) -> None:
        super().__init__(of)
        self.of = of


class Isolation(NamedTuple):
    """How a command is kept apart."""

    command: tuple[str, ...] = ()
    """To be put before the command itself."""
    user: int | None = None
    """Under which it runs then; None: ours."""


@dataclass(frozen=True)
class Ended:
    """How the command has ended by itself.

    Attributes:
        code: the exit code, or minus the signal.
        cpu_s: processor time of it and of the children that it has waited for.
        stderr: the last of what it wrote there.
    """

    code: int
    cpu_s: float
    stderr: bytes

    @property
    def out_of_memory(self) -> bool:
        """Whether its last words are those of an allocation that was refused."""
        return any(mark in self.stderr for mark in _OUT_OF_MEMORY)

    @property
    def how(self) -> str:
        """Name of the signal, or the exit code, for people."""
        return signal.Signals(-self.code).name if self.code < 0 else f"exit code {self.code}"

    @property
    def last_line(self) -> str:
        """The last line of its standard error, at most 300 characters."""
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""

    def out_of_processor_time(self, cpu_s: float) -> bool:
        """Whether the kernel has ended it because it had no more than `cpu_s`."""
        over = self.cpu_s >= cpu_s - _CPU_TOLERANCE_S
        return self.code == -signal.SIGXCPU or (self.code == -signal.SIGKILL and over)


def run(
    command: Sequence[str],
    directory: Path,
    *,
    environment: Mapping[str, str],
    wall_s: float,
    stdout_bytes_max: int,
    on_line: Callable[[bytes], None],
    cancelled: Callable[[], bool],
) -> Ended:
    """Run `command` in `directory` until it ends.

    Args:
        command: program and arguments; what `isolation` says before it keeps it apart.
        directory: where it works.
        environment: all of its environment.
        wall_s: how long it may take.
        stdout_bytes_max: how much it may write to standard output.
        on_line: called for each line on standard output, in this thread; what it raises ends the
            command.
        cancelled: asked several times a second.

    Raises:
        CommandCancelled, CommandOverrun: it was killed, with all that it had started.
    """
    deadline = time.monotonic() + wall_s
    child = subprocess.Popen(
        list(command),
        cwd=directory,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    pipes = _Pipes(child, stdout_bytes_max)
    try:
        while not has_ended(child.pid):
            if cancelled():
                raise CommandCancelled
            if time.monotonic() > deadline:
                raise CommandOverrun("wall")
            for line in pipes.read(_POLL_S):
                on_line(line)
        _kill_group(child)  # whatever it may have left behind
        for line in pipes.rest(deadline):
            on_line(line)
        return _reap(child, pipes.stderr)
    finally:
        if child.returncode is None:
            _kill_group(child)
            child.wait()
        pipes.close()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                stream.close()


@functools.cache
def isolation() -> Isolation:
    """Return the best that this machine allows; nothing where it allows none."""
    user = _other_user()
    if user is not None:
        for start in (("unshare", *_NAMESPACES), ("unshare", *_without_network()), ()):
            command = (*start, *_as_user(user))
            if _works(command):
                return Isolation(command, user.pw_uid)
    for names in (_NAMESPACES, _without_network()):
        command = ("unshare", *_USER_NAMESPACE, *names)
        if _works(command):
            return Isolation(command)
    return Isolation()


def hand_over(directory: Path, user: int) -> None:
    """Give a folder, and what is in it, to the user under whom a command will work there."""
    for folder, _, files in os.walk(directory):
        for path in (Path(folder), *(Path(folder, name) for name in files)):
            os.chown(path, user, -1, follow_symlinks=False)


def _other_user() -> pwd.struct_passwd | None:
    """Return an account that is nobody's, where we are root and may take it on."""
    if os.geteuid() != 0:
        return None
    for name in _OTHER_USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


def _as_user(user: pwd.struct_passwd) -> tuple[str, ...]:
    kept = "-all,+dac_read_search"
    return (
        "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups",
        f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}",
        "--securebits=+no_setuid_fixup",  # access(2) would forget what is kept
        "--pdeathsig=keep", "--no-new-privs", "--",
    )  # fmt: skip


def _without_network() -> tuple[str, ...]:
    return tuple(name for name in _NAMESPACES if name != "--net")


def _works(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run([*command, "true"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def read_regular(path: Path, bytes_max: int) -> bytes:
    """Return the content of a file that may be anything, also a pipe or a link elsewhere.

    Raises:
        OSError: it is no regular file, longer than `bytes_max`, or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(bytes_max + 1)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or len(content) > bytes_max:
            raise OSError(f"{path.name} is no regular file of at most {bytes_max} bytes")
    return content


class _Pipes:
    """What the command writes, bounded."""

    def __init__(self, child: subprocess.Popen[bytes], stdout_bytes_max: int) -> None:
        assert child.stdout is not None
        assert child.stderr is not None
        self._selector = selectors.DefaultSelector()
        self._stdout = child.stdout.fileno()
        self._left = stdout_bytes_max
        self._line = b""
        self.stderr = b""
        for descriptor in (self._stdout, child.stderr.fileno()):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ)

    def read(self, timeout_s: float) -> list[bytes]:
        """Wait for something to read, at most `timeout_s`, and return the whole lines."""
        lines: list[bytes] = []
        if not self._selector.get_map():
            time.sleep(timeout_s)  # it has closed its pipes and goes on
        for key, _ in self._selector.select(timeout_s):
            content = os.read(key.fd, _READ_BYTES)
            if not content:
                self._selector.unregister(key.fd)
            elif key.fd == self._stdout:
                lines.extend(self._lines(content))
            else:
                self.stderr = (self.stderr + content)[-_STDERR_BYTES_KEPT:]
        return lines

    def rest(self, deadline: float) -> Iterator[bytes]:
        """Yield the lines that are left after the command and all of its group have ended."""
        while self._selector.get_map() and self._selector.select(0):
            if time.monotonic() > deadline:  # somebody has left the group, and writes on
                raise CommandOverrun("wall")
            yield from self.read(0)

    def close(self) -> None:
        """Forget the pipes; whoever started the command closes them."""
        self._selector.close()

    def _lines(self, content: bytes) -> list[bytes]:
        self._left -= len(content)
        if self._left < 0:
            raise CommandOverrun("output")
        *lines, self._line = (self._line + content).split(b"\n")
        return lines


def has_ended(pid: int) -> bool:
    """Say whether a child has ended, without reaping it, so that its group can be killed."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _reap(child: subprocess.Popen[bytes], stderr: bytes) -> Ended:
    _, status, usage = os.wait4(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    child.returncode = code
    if code > _SHELL_SIGNAL_BASE:  # a watching first process reports its worker's signal like this
        code = _SHELL_SIGNAL_BASE - code
    return Ended(code=code, cpu_s=usage.ru_utime + usage.ru_stime, stderr=stderr)
