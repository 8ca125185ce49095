"""The supervisor's handle on the inference process.

Imports no runtime. One command is under way at a time; methods may be called from any thread and
wait for each other, but for `alive`, `silent_s`, `kill`, `death` and `rss_bytes`, which wait for
nothing. When the process has died, every method that asks something of it raises `InferenceDown`;
`start` starts another one, on the same port, with empty slots.

A model that has hung on the event loop is put on the worker thread when it is loaded again: there
it can be stopped without the others.
"""

from __future__ import annotations

import logging
import os
import socket as sockets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from signal import Signals
from typing import IO, NamedTuple, TypeVar

import msgspec
from msgspec import structs

from edgectl_agent.bundle import Bundle
from edgectl_agent.clock import now
from edgectl_agent.inference.control import (
    LINE_BYTES_MAX,
    RESERVE_BYTES,
    Accept,
    Accompany,
    Command,
    Exchange,
    Health,
    Load,
    Loaded,
    Mirror,
    Mirroring,
    Release,
    Reply,
    Sampled,
    SlotHealth,
    Start,
    Started,
    Taken,
    Unload,
    Watched,
    Window,
    Windows,
    line,
)
from edgectl_agent.inference.errors import InferenceDown, LoadFailed, SlotEmpty
from edgectl_agent.inference.options import Options
from edgectl_agent.inference.pulse import Place, Pulse, Silence, make_page
from edgectl_protocol.messages import InferenceWindow, SwapReport
from edgectl_protocol.samples import SamplePolicy
from edgectl_protocol.watching import FeatureWindow, WatchPolicy

__all__ = [
    "Death",
    "InferenceDown",
    "InferenceProcess",
    "LoadFailed",
    "SlotEmpty",
    "SlotHealth",
    "child_environment",
]

_logger = logging.getLogger(__name__)
_START_S_MAX = 90.0
"""A small board that boots has much else to do then: 30 s were too short for an emulated one. Less
than the watchdog of the service allows."""
_ANSWER_S_MAX = 5.0
_DRAIN_S_MAX = 15.0
"""Requests in an old model may take this long to end."""
_AFTER_LOAD_S_MAX = 90.0
"""After a model was loaded, or not: that, and loading again what had to go for it."""
_STOP_S_MAX = 3.0
_LOG_BYTES_MAX = 1024 * 1024

T = TypeVar("T")


class Death(NamedTuple):
    """How the child has ended."""

    hung: bool
    """It had to be ended, because it did not answer any more."""
    detail: str
    suspects: tuple[str, ...]
    """Manifests of the models that were computing then, those that may be the cause of it."""


class InferenceProcess:
    """Starts, commands and stops the child; safe to call from several threads.

    Attributes:
        endpoint: where applications reach it, such as ``http://127.0.0.1:8500``; empty before
            the first start.
        grpc_port: where it speaks gRPC; None where it does not.
        problems: what does not listen although it should, and why; empty where all is well.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        socket: Path | None,
        hub: Path | None = None,
        hub_group: str = "",
        log: Path | None = None,
        reserve_bytes: int = RESERVE_BYTES,
        options: Options | None = None,
        listener: sockets.socket | None = None,
    ) -> None:
        """Describe the process; nothing is started.

        Args:
            host: address to listen on; loopback unless other machines shall reach the endpoint.
            port: TCP port, 0 for any free one.
            socket: path of a Unix socket as well, or None.
            hub: path of the Unix socket where applications get models to run themselves, or None.
            hub_group: group that may connect to it as well; empty for the process's own.
            log: file that gets the child's standard error; None throws it away.
            reserve_bytes: memory that must stay free beside two models of one slot.
            options: what else can be set about the endpoint.
            listener: listens on host and port already; whoever connects is accepted after `accept`.
        """
        self.endpoint = ""
        self.grpc_port: int | None = None
        self.problems: tuple[str, ...] = ()
        self._host, self._port = host, port
        self._options = options or Options()
        self._socket = socket.absolute() if socket is not None else None
        self._hub = hub.absolute() if hub is not None else None
        self._hub_group = hub_group
        self._log = log
        self._listener = listener
        self._reserve_bytes = reserve_bytes
        self._lock = threading.RLock()
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: sockets.socket | None = None
        self._rest = b""
        self._pulse = Pulse()
        self._silence = Silence()
        self._hung = False
        self._status: int | None = None
        """Of the child that was stopped last."""
        self._hung_models: set[str] = set()

    def start(self, timeout_s: float = _START_S_MAX) -> None:
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
            command = Start(
                host=self._host,
                port=self._port,
                socket=path,
                hub=str(self._hub or ""),
                hub_group=self._hub_group,
                reserve_bytes=self._reserve_bytes,
                options=self._options,
                listener=-1 if self._listener is None else self._listener.fileno(),
            )
            reply = self._command(command, timeout_s)
            if reply.code:
                self.stop()
                raise InferenceDown(reply.code, reply.detail)
            started = msgspec.json.decode(reply.result, type=Started)
            self._port, self.grpc_port = started.port, started.grpc_port
            self.problems = started.problems
            for problem in started.problems:
                _logger.error("%s", problem)
            if started.grpc_port is not None:
                self._options = structs.replace(self._options, grpc_port=started.grpc_port)
            shown = f"[{self._host}]" if ":" in self._host else self._host
            self.endpoint = f"http://{shown}:{self._port}"

    def accept(self) -> None:
        """Accept who waits on the listener that was given; nothing happens where none was.

        Raises:
            InferenceDown: the child has died or does not answer.
        """
        if self._listener is not None:
            self._result(self._command(Accept(), _ANSWER_S_MAX), type(None))

    def load(self, bundle: Bundle, timeout_s: float = 60) -> float:
        """Put one bundle into its slot, as `switch` does, and return load_ms."""
        return self.switch((bundle,), timeout_s)[bundle.slot].load_ms

    def switch(self, bundles: Sequence[Bundle], timeout_s: float = 60) -> dict[str, SwapReport]:
        """Put bundles into their slots without a failed request; say what it took, by slot.

        The new models are loaded and warmed up beside the old ones, all references are switched at
        once, and what is in the old ones ends there. The old ones stay as companions where memory
        allows; where it forbids two, requests wait while the one goes and the other is loaded.

        Raises:
            LoadFailed: the old ones keep serving. Codes: ``load.unreadable``, ``load.invalid``,
                ``load.contract``, ``load.warm_up``, ``load.memory``, ``load.timeout``.
            InferenceDown: the child has died or does not answer; start it again.
        """
        hung = tuple(one.manifest for one in bundles if one.manifest in self._hung_models)
        command = Load(bundles=tuple(bundles), timeout_s=timeout_s, hung=hung)
        reply = self._command(command, timeout_s + _AFTER_LOAD_S_MAX)
        if reply.code:
            raise LoadFailed(reply.code, reply.detail, slot=reply.slot)
        return _reports(msgspec.json.decode(reply.result, type=Loaded))

    def exchange(self, manifests: Mapping[str, str]) -> dict[str, SwapReport] | None:
        """Let companions serve in place of what does, all at once, without loading anything.

        Args:
            manifests: of the companions, by slot.

        Returns:
            What it took, by slot; None where one of them is not there, and nothing has changed.
        """
        reply = self._command(Exchange(manifests=dict(manifests)), _DRAIN_S_MAX)
        if reply.code == "slot.companion":
            return None
        return _reports(self._result(reply, Loaded))

    def accompany(
        self, bundle: Bundle, *, share: float, cpu_max: float, timeout_s: float = 60
    ) -> SwapReport:
        """Load `bundle` as the companion of what serves in its slot; mirror requests to it.

        Args:
            bundle: verified files.
            share: of the live requests that are copied, after they were answered.
            cpu_max: what copies may cost, as a share of one processor core.
            timeout_s: for loading.

        Raises:
            LoadFailed: as `switch`, and ``load.memory_low``: two models do not fit.
            SlotEmpty: nothing serves there.
        """
        hung = tuple({bundle.manifest} & self._hung_models)
        command = Accompany(
            bundle=bundle, timeout_s=timeout_s, share=share, cpu_max=cpu_max, hung=hung
        )
        reply = self._command(command, timeout_s + _AFTER_LOAD_S_MAX)
        if reply.code == "slot.empty":
            raise SlotEmpty(reply.code, reply.detail)
        if reply.code:
            raise LoadFailed(reply.code, reply.detail, slot=reply.slot)
        return _reports(msgspec.json.decode(reply.result, type=Loaded))[bundle.slot]

    def mirror(self, slot: str, *, share: float, cpu_max: float) -> bool:
        """Mirror requests to the companion of `slot`; say whether there is one.

        See `accompany` for the arguments; a share of 0 ends it.
        """
        command = Mirror(slot=slot, share=share, cpu_max=cpu_max)
        return self._result(self._command(command, _ANSWER_S_MAX), Mirroring).on

    def release(self, slot: str) -> None:
        """Free the companion of `slot`; nothing happens when there is none."""
        self._result(self._command(Release(slot=slot), _DRAIN_S_MAX), type(None))

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
                refused=window.tally.refused,
                latency=window.tally.latency,
                confidence=window.tally.confidence,
                classes=window.tally.classes,
            )
            for window in windows
        )

    def watched(self, policy: WatchPolicy) -> tuple[FeatureWindow, ...]:
        """Return the windows of features that have ended, and watch by `policy` from now on."""
        reply = self._command(Watched(policy=policy), _ANSWER_S_MAX)
        return tuple(self._result(reply, list[FeatureWindow]))

    def sampled(self, policies: Mapping[str, SamplePolicy]) -> tuple[Taken, ...]:
        """Return samples that were taken, and take them by `policies` from now on."""
        reply = self._command(Sampled(policies=dict(policies)), _ANSWER_S_MAX)
        return tuple(self._result(reply, list[Taken]))

    def alive(self) -> bool:
        """Say whether the child runs."""
        child = self._child
        return child is not None and child.poll() is None

    def silent_s(self) -> float:
        """Return for how many seconds its event loop has shown no life; to be asked regularly.

        Only time between two questions counts, and little of a long one.
        """
        return self._silence.look(self._pulse.beats(), time.monotonic())

    def kill(self) -> None:
        """End a child that hangs, also while another thread waits for its answer."""
        child = self._child
        if child is not None:
            self._note_hang()
            child.kill()

    def death(self) -> Death:
        """Return how the child that was started last has ended; only when it is not `alive`."""
        child = self._child
        status = self._status if child is None else child.poll()
        if self._hung:
            detail = "it did not answer any more and was ended"
        elif status is not None and status < 0:
            detail = f"killed by {_signal_name(-status)}"
        else:
            detail = f"it ended with status {status}"
        return Death(self._hung, detail, self._suspects())

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
                self._status = child.returncode
                for path in (self._socket, self._hub):
                    with suppress(OSError):  # such as on a read-only disk
                        if path is not None and path.is_socket():
                            path.unlink(missing_ok=True)

    def _spawn(self) -> None:
        ours, theirs = sockets.socketpair()
        self._channel = ours
        page = make_page()
        try:
            self._pulse.close()
            self._pulse, self._silence, self._hung = Pulse(page), Silence(), False
            self._launch(theirs, page)
        finally:
            os.close(page)

    def _launch(self, theirs: sockets.socket, page: int) -> None:
        descriptors: tuple[int, ...] = (theirs.fileno(), page)
        arguments = [sys.executable, "-P", "-m", "edgectl_agent.inference", *map(str, descriptors)]
        if threading.current_thread() is threading.main_thread():
            arguments.append(f"parent={os.getpid()}")  # a shorter-lived thread must not say this
        if self._listener is not None:
            descriptors = (*descriptors, self._listener.fileno())
        with theirs, _open_log(self._log) as log:
            self._child = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=descriptors,
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
                self._note_hang()
                self.stop()
                raise InferenceDown(
                    "inference.timeout", f"the inference process did not answer in {timeout_s:g} s"
                ) from error
            except (OSError, EOFError, msgspec.MsgspecError) as error:
                self.stop()
                raise InferenceDown("inference.down", "the inference process has died") from error

    def _note_hang(self) -> None:
        self._hung = True
        self._hung_models.update(self._suspects())

    def _suspects(self) -> tuple[str, ...]:
        on_loop = self._pulse.computing(Place.LOOP)
        if self._hung and on_loop:
            return on_loop  # what the worker thread computes does not hold up the loop
        return self._pulse.computing(*Place.ALL)

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


def _reports(loaded: Loaded) -> dict[str, SwapReport]:
    return {
        slot: SwapReport(load_ms=swap.load_ms, gap_ms=swap.gap_ms, resident=swap.resident)
        for slot, swap in loaded.swaps.items()
    }


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


_PASSED_ON = frozenset({"PATH", "HOME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV"})
_PASSED_ON_BEGINNINGS = ("LC_", "LD_", "PYTHON", "ORT_")


def child_environment() -> dict[str, str]:
    """Return the environment of processes that run a model: small heaps, no idle threads.

    What else is in ours stays here: it may hold secrets, such as the enrolment token.
    """
    passed_on = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_BEGINNINGS)
    }
    return {
        **passed_on,
        "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _open_log(path: Path | None) -> IO[bytes]:
    if path is None:
        return Path(os.devnull).open("wb")
    try:
        long = path.exists() and path.stat().st_size > _LOG_BYTES_MAX
        return path.open("wb" if long else "ab")
    except OSError:  # a disk that is read-only or full: models are served all the same
        return Path(os.devnull).open("wb")
