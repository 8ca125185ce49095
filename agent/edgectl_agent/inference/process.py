"""The supervisor's handle on the inference process.

Imports no runtime. One command is under way at a time; methods may be called from any thread and
wait for each other. When the process has died, every method but `start`, `stop`, `alive` and
`rss_bytes` raises `InferenceDown`; `start` starts another one, on the same port, with empty slots.
"""

from __future__ import annotations

import os
import socket as sockets
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from edgectl_agent.bundle import Bundle
from edgectl_agent.clock import now
from edgectl_agent.inference.control import (
    LINE_BYTES_MAX,
    Command,
    Health,
    Load,
    Loaded,
    Reply,
    SlotHealth,
    Start,
    Started,
    Unload,
    Window,
    Windows,
    line,
)
from edgectl_agent.inference.errors import InferenceDown, LoadFailed, SlotEmpty
from edgectl_protocol.messages import InferenceWindow

__all__ = [
    "InferenceDown",
    "InferenceProcess",
    "LoadFailed",
    "SlotEmpty",
    "SlotHealth",
    "child_environment",
]

_ANSWER_S_MAX = 10.0
_DRAIN_S_MAX = 15.0
"""After a model is loaded, requests in the old one may take this long to end."""
_STOP_S_MAX = 3.0
_LOG_BYTES_MAX = 1024 * 1024

T = TypeVar("T")


class InferenceProcess:
    """Starts, commands and stops the child; safe to call from several threads.

    Attributes:
        endpoint: where applications reach it, such as ``http://127.0.0.1:8500``; empty before
            the first start.
    """

    def __init__(
        self, *, host: str, port: int, socket: Path | None, log: Path | None = None
    ) -> None:
        """Describe the process; nothing is started.

        Args:
            host: address to listen on; loopback unless other machines shall reach the endpoint.
            port: TCP port, 0 for any free one.
            socket: path of a Unix socket as well, or None.
            log: file that gets the child's standard error; None throws it away.
        """
        self.endpoint = ""
        self._host, self._port = host, port
        self._socket = socket.absolute() if socket is not None else None
        self._log = log
        self._lock = threading.RLock()
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: sockets.socket | None = None
        self._rest = b""

    def start(self, timeout_s: float = 30) -> None:
        """Start the child and return once its endpoint listens.

        Raises:
            InferenceDown: it could not be started (``inference.start``), could not listen
                (``inference.bind``), or took too long (``inference.timeout``).
        """
        with self._lock:
            self.stop()
            try:
                self._spawn()
            except OSError as error:
                self.stop()
                raise InferenceDown(
                    "inference.start", f"cannot start the inference process: {error}"
                ) from error
            path = str(self._socket) if self._socket is not None else None
            command = Start(host=self._host, port=self._port, socket=path)
            reply = self._command(command, timeout_s)
            if reply.code:
                self.stop()
                raise InferenceDown(reply.code, reply.detail)
            self._port = msgspec.json.decode(reply.result, type=Started).port
            shown = f"[{self._host}]" if ":" in self._host else self._host
            self.endpoint = f"http://{shown}:{self._port}"

    def load(self, bundle: Bundle, timeout_s: float = 60) -> float:
        """Put `bundle` into its slot without a failed request, and return load_ms.

        The new model is loaded and warmed up beside the old one, the reference is switched, and
        what is in the old one ends there before this returns.

        Raises:
            LoadFailed: the old one keeps serving. Codes: ``load.unreadable``, ``load.invalid``,
                ``load.contract``, ``load.warm_up``, ``load.memory``, ``load.timeout``.
            InferenceDown: the child has died or does not answer; start it again.
        """
        reply = self._command(Load(bundle=bundle, timeout_s=timeout_s), timeout_s + _DRAIN_S_MAX)
        if reply.code:
            raise LoadFailed(reply.code, reply.detail)
        return msgspec.json.decode(reply.result, type=Loaded).load_ms

    def unload(self, slot: str) -> None:
        """Empty `slot`; nothing happens when it is empty."""
        self._result(self._command(Unload(slot=slot), _DRAIN_S_MAX), type(None))

    def health(self, slot: str) -> SlotHealth:
        """Return the counts of what serves in `slot`, since it was loaded.

        Raises:
            SlotEmpty: nothing is loaded there.
        """
        reply = self._command(Health(slot=slot), _ANSWER_S_MAX)
        if reply.code == "slot.empty":
            raise SlotEmpty(reply.code, reply.detail)
        return self._result(reply, SlotHealth)

    def windows(self) -> tuple[InferenceWindow, ...]:
        """Return the counts since the last call, by slot and manifest; none without requests."""
        windows = self._result(self._command(Windows(), _ANSWER_S_MAX), list[Window])
        end = now()
        return tuple(
            InferenceWindow(
                slot=window.slot,
                version=window.version,
                manifest=window.manifest,
                start=end - timedelta(seconds=window.tally.age_s),
                end=end,
                requests=window.tally.requests,
                errors=window.tally.errors,
                non_finite=window.tally.non_finite,
                latency=window.tally.latency,
                confidence=window.tally.confidence,
                classes=window.tally.classes,
            )
            for window in windows
        )

    def alive(self) -> bool:
        """Say whether the child runs."""
        child = self._child
        return child is not None and child.poll() is None

    def rss_bytes(self) -> int:
        """Return the child's resident memory in bytes; 0 when it does not run."""
        child = self._child
        if child is None or child.poll() is not None:
            return 0
        try:
            pages = int(Path(f"/proc/{child.pid}/statm").read_text("ascii").split()[1])
        except (OSError, IndexError, ValueError):
            return 0  # it died in between
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """Stop the child; nothing happens when there is none."""
        with self._lock:
            child, channel = self._child, self._channel
            self._child = self._channel = None
            self._rest = b""
            if channel is not None:
                channel.close()
            if child is not None:
                try:
                    child.wait(_STOP_S_MAX)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
                if self._socket is not None and self._socket.is_socket():
                    self._socket.unlink(missing_ok=True)

    def _spawn(self) -> None:
        ours, theirs = sockets.socketpair()
        self._channel = ours
        arguments = [sys.executable, "-P", "-m", "edgectl_agent.inference", str(theirs.fileno())]
        if threading.current_thread() is threading.main_thread():
            arguments.append(f"parent={os.getpid()}")  # a shorter-lived thread must not say this
        with theirs, _open_log(self._log) as log:
            self._child = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                env=child_environment(),
                start_new_session=True,
            )

    def _command(self, command: Command, timeout_s: float) -> Reply:
        """Send a command and return its reply; a child that does not answer is stopped."""
        with self._lock:
            if self._channel is None or not self.alive():
                raise InferenceDown("inference.down", "the inference process does not run")
            try:
                self._channel.settimeout(timeout_s)
                self._channel.sendall(line(command))
                return msgspec.json.decode(self._read_line(timeout_s), type=Reply)
            except TimeoutError as error:
                self.stop()
                raise InferenceDown(
                    "inference.timeout", f"the inference process did not answer in {timeout_s:g} s"
                ) from error
            except (OSError, EOFError, msgspec.MsgspecError) as error:
                self.stop()
                raise InferenceDown("inference.down", "the inference process has died") from error

    def _read_line(self, timeout_s: float) -> bytes:
        assert self._channel is not None
        deadline = time.monotonic() + timeout_s
        parts, length = [self._rest], len(self._rest)
        while b"\n" not in parts[-1]:
            self._channel.settimeout(max(deadline - time.monotonic(), 0.001))
            part = self._channel.recv(65536)
            length += len(part)
            if not part or length > LINE_BYTES_MAX:
                raise EOFError
            parts.append(part)
        found, _, self._rest = b"".join(parts).partition(b"\n")
        return found

    def _result(self, reply: Reply, kind: type[T]) -> T:
        if reply.code:
            raise InferenceDown(reply.code, reply.detail)
        return msgspec.json.decode(reply.result, type=kind)


def child_environment() -> dict[str, str]:
    """Return the environment of processes that import a runtime: small heaps, no idle threads."""
    return {
        **os.environ,
        "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _open_log(path: Path | None) -> IO[bytes]:
    if path is None:
        return Path(os.devnull).open("wb")
    long = path.exists() and path.stat().st_size > _LOG_BYTES_MAX
    return path.open("wb" if long else "ab")
