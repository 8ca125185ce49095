"""The supervisor's side of the verifying process.

Rules:

1. python-tuf and securesystemslib are loaded only in the process, and that runs only while there
   is something to decide: it is started by a question and ended by `Trust.watch` when none has come
   for `IDLE_S`. None becomes older than `LIFE_S`, so that what it has learned is never old.
2. The process has no network. It asks for metadata by role and version, and the supervisor, whose
   connection it is, waits for the retained message.
3. The process is believed no more than it must: it can say which order is good and which versions
   were seen, because that is its work. It cannot make the supervisor fetch anything but metadata,
   fill its memory, or hold it up.
4. What it does wrong is its end, and ``trust.process``: the world's fault, to be tried again.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgectl_agent.core.record import Floor
from edgectl_agent.core.requests import RequestArrived
from edgectl_agent.core.steps import OrderArrived
from edgectl_agent.downloader import Transport
from edgectl_agent.errors import Refused, StepCancelled, StepFailed, StepRejected
from edgectl_agent.inference.process import child_environment
from edgectl_agent.trust.frames import (
    WANTS_MAX,
    Begin,
    CheckOrder,
    CheckRequest,
    Failed,
    Find,
    Found,
    Given,
    Good,
    Question,
    Ready,
    Want,
    receive,
    send,
)
from edgectl_protocol import topics
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.messages import (
    MESSAGE_BYTES_MAX,
    REQUEST_PAYLOAD_TYPES,
    Order,
    Request,
    decode,
)
from edgectl_protocol.metadata import METADATA_BYTES_MAX
from edgectl_protocol.names import digest_of

__all__ = ["Trust"]

PROGRAM = "edgectl_agent.trust"
IDLE_S = 3.0
LIFE_S = 60.0
START_S_MAX = 60.0
COMPUTE_S_MAX = 30.0
"""Between two words of the process; a retained message is waited for by the supervisor."""
FETCH_S_MAX = 120.0
"""Waiting with a connection, for all files of one question."""
_WAIT_S = 0.5
_DEATH_S_MAX = 1.0
Files = Callable[[Want], bytes | None]
"""Answers what the process wants to know from files; None: there is none."""
_REQUESTS: dict[str, type[Request]] = {name: kind for kind, name in REQUEST_PAYLOAD_TYPES.items()}
_said: set[tuple[str, ...]] = set()
_log = logging.getLogger(__name__)


class Trust:
    """What one device believes; never used from the thread that delivers messages."""

    def __init__(
        self, directory: Path, bootstrap: bytes, transport: Transport, *, timeout_s: float = 10.0
    ) -> None:
        """Begin; nothing is started.

        Args:
            directory: python-tuf's cache.
            bootstrap: the root that came with the enrolment, exactly as signed.
            transport: retained topics.
            timeout_s: how long to wait for one of them while there is a connection.
        """
        self._begin = Begin(str(directory.absolute()), bootstrap)
        self._transport = transport
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._count_lock = threading.Lock()
        self._process: _Process | None = None
        self._used_s = 0.0
        self._accepted: tuple[str, OrderArrived] | None = None
        self._files_wait = 0
        """Questions that need no network and wait for one that does."""

    def find(
        self,
        target: str,
        manifest: str,
        floor: Floor,
        cancelled: Callable[[], bool],
        *,
        files: Files | None = None,
    ) -> Floor:
        """Refresh, and check that `target` is signed for as `manifest`; return what was believed.

        Args:
            target: what is looked for.
            manifest: the digest that it must have.
            floor: what was believed before.
            cancelled: says that nobody waits for the answer any more.
            files: where metadata comes from in place of the network.

        Raises:
            StepFailed: ``trust.unreachable``, ``trust.expired``, ``trust.refused``,
                ``trust.rollback``, ``trust.target`` or ``trust.process``: not believed now.
            StepRejected: ``trust.mismatch``: the order names another content than is signed for.
            StepCancelled: `cancelled` said so.
            OSError: the disk.
        """
        answer = self._ask(Find(target, manifest, floor), Found, cancelled, files)
        return Floor(root=answer.root, timestamp=answer.timestamp, snapshot=answer.snapshot)

    def check_order(self, payload: bytes, cancelled: Callable[[], bool]) -> OrderArrived:
        """Return the order in `payload` if its signature is good.

        The newest order is retained and comes again with each connection: the same bytes are not
        looked at twice.

        Raises:
            Refused: ``order.malformed`` or ``order.signature``: it is none of ours.
            StepFailed: the keys could not be fetched now.
            StepCancelled: `cancelled` said so.
            OSError: the disk.
        """
        if len(payload) > MESSAGE_BYTES_MAX:
            raise Refused("order.malformed", f"an order of {len(payload)} bytes")
        digest = digest_of(payload)
        if self._accepted is not None and self._accepted[0] == digest:
            return self._accepted[1]
        answer = self._ask(CheckOrder(payload), Good, cancelled)
        try:
            order = decode(Order, answer.payload)
        except ProtocolError as error:
            raise Refused("order.malformed", str(error)) from error
        arrived = OrderArrived(order=order, key=answer.key, keys=answer.keys)
        self._accepted = (digest, arrived)
        return arrived

    def check_request(self, payload: bytes, cancelled: Callable[[], bool]) -> RequestArrived:
        """Return the request in `payload` if its signature is good.

        Raises:
            Refused: ``request.malformed`` or ``request.signature``: it is none of ours.
            StepFailed: the keys could not be fetched now.
            StepCancelled: `cancelled` said so.
            OSError: the disk.
        """
        if len(payload) > MESSAGE_BYTES_MAX:
            raise Refused("request.malformed", f"a request of {len(payload)} bytes")
        answer = self._ask(CheckRequest(payload), Good, cancelled)
        try:
            request = decode(_REQUESTS[answer.payload_type], answer.payload)
        except (ProtocolError, KeyError) as error:
            raise Refused("request.malformed", str(error)) from error
        return RequestArrived(request=request, key=answer.key, keys=answer.keys)

    def watch(self) -> None:
        """End the process if nothing was asked for a while; call it now and then."""
        if self._process is None or not self._lock.acquire(blocking=False):
            return
        try:
            if time.monotonic() - self._used_s > IDLE_S:
                self._end()
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    @property
    def process_id(self) -> int | None:
        """Of the process, while there is one."""
        process = self._process
        return process.id if process is not None else None

    def _ask(
        self,
        question: Question,
        kind: type[Any],
        cancelled: Callable[[], bool],
        files: Files | None = None,
    ) -> Any:
        """Return the answer of `kind`; what the process reports instead is raised.

        What waits for a connection gives way to what came as a file and needs none.
        """
        with self._turn(needs_network=files is None):
            fetch: Callable[[Want], Given] = _Fetch(
                self._transport, cancelled, lambda: self._files_wait > 0, self._timeout_s
            )
            if files is not None:
                fetch = _given_from(files)
            try:
                answer = self._running(cancelled).ask(question, kind, fetch, cancelled)
            except (OSError, ValueError, ProtocolError) as error:
                process, self._process = self._process, None
                detail = process.end(error) if process is not None else f"{error}"
                raise StepFailed("trust.process", f"the verifying process: {detail}") from error
            except BaseException:
                self._end()  # in the middle of a question
                raise
            self._used_s = time.monotonic()
        if isinstance(answer, Failed):
            raise _error_of(answer)
        return answer

    @contextmanager
    def _turn(self, *, needs_network: bool) -> Iterator[None]:
        if needs_network:
            self._lock.acquire()
        else:
            with self._count_lock:
                self._files_wait += 1
            self._lock.acquire()
            with self._count_lock:
                self._files_wait -= 1
        try:
            yield
        finally:
            self._lock.release()

    def _running(self, cancelled: Callable[[], bool]) -> _Process:
        if self._process is None or not self._process.fit():
            self._end()
            self._process = _Process()
            self._process.begin(self._begin, cancelled)
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()


class _Process:
    """The child, from its start to its end."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._channel = ours
        self._born_s = time.monotonic()
        try:
            with theirs:
                self._child = subprocess.Popen(
                    [sys.executable, "-P", "-m", PROGRAM, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=child_environment(),
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        self.id = self._child.pid

    def begin(self, begin: Begin, cancelled: Callable[[], bool]) -> None:
        """Tell it what it needs, and wait until it takes questions."""
        send(self._channel, begin, START_S_MAX)
        ready = self._next(Ready, START_S_MAX, cancelled)
        if ready.unconfined and ready.unconfined not in _said:
            _said.add(ready.unconfined)
            _log.warning(
                "metadata is checked without %s, which this kernel does not give",
                " and ".join(ready.unconfined),
            )

    def fit(self) -> bool:
        """Say whether it may be asked one more question."""
        return self._child.poll() is None and time.monotonic() - self._born_s < LIFE_S

    def ask(
        self,
        question: Question,
        kind: type[Any],
        fetch: Callable[[Want], Given],
        cancelled: Callable[[], bool],
    ) -> Any:
        """Return what it answers, of `kind` or `Failed`; what it wants to know is fetched."""
        send(self._channel, question, COMPUTE_S_MAX)
        for _ in range(WANTS_MAX):
            frame = self._next(Want | kind | Failed, COMPUTE_S_MAX, cancelled)
            if not isinstance(frame, Want):
                return frame
            send(self._channel, fetch(frame), COMPUTE_S_MAX)
        raise ValueError(f"it wants more than {WANTS_MAX} files")

    def end(self, error: Exception | None = None) -> str:
        """End it, and return what became of it when `error` came up."""
        if isinstance(error, ConnectionError):
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(_DEATH_S_MAX)  # it is dying by itself, and how says more
        self._channel.close()
        status = self._child.poll()
        if status is None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        if status is None or status == 0:
            return f"{error}"
        return f"killed by signal {-status}" if status < 0 else f"ended with status {status}"

    def _next(self, kind: Any, seconds_max: float, cancelled: Callable[[], bool]) -> Any:
        deadline_s = time.monotonic() + seconds_max
        while not select.select([self._channel], [], [], _WAIT_S)[0]:
            if cancelled():
                raise StepCancelled
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no word for {seconds_max:g} s")
        frame = receive(self._channel, kind, deadline_s)
        if frame is None:
            raise ConnectionResetError("it has ended")
        return frame


class _Fetch:
    """Fetches the files of one question."""

    def __init__(
        self,
        transport: Transport,
        cancelled: Callable[[], bool],
        gives_way: Callable[[], bool],
        timeout_s: float,
    ) -> None:
        self._transport = transport
        self._cancelled = cancelled
        self._gives_way = gives_way
        self._timeout_s = timeout_s
        self._spent_s = 0.0

    def __call__(self, want: Want) -> Given:
        """Return the retained message of a topic; nothing where none comes."""
        topic = topics.head() if want.role is None else topics.metadata(want.role, want.version)
        if self._spent_s > FETCH_S_MAX:
            raise StepFailed("trust.unreachable", f"metadata takes longer than {FETCH_S_MAX:g} s")
        transport = self._transport
        transport.subscribe([topic])
        waited_s = 0.0
        try:
            while waited_s < self._timeout_s:
                if self._cancelled():
                    raise StepCancelled
                began_s = time.monotonic()
                message = transport.receive(_WAIT_S)
                if transport.connected():
                    waited_s += _WAIT_S
                    self._spent_s += time.monotonic() - began_s
                elif message is None and self._gives_way():
                    raise StepFailed(
                        "trust.unreachable", "there is no connection, and a file is to be checked"
                    )
                if message is not None and message[0] == topic and message[1]:
                    # One byte too many is enough for the verifier to see that it is too long.
                    return Given(message[1][: METADATA_BYTES_MAX + 1])
        finally:
            transport.unsubscribe([topic])
        return Given()


def _given_from(files: Files) -> Callable[[Want], Given]:
    return lambda want: Given(files(want))


def _error_of(failed: Failed) -> Exception:
    match failed.kind:
        case "disk":
            return OSError(failed.error_number, failed.detail)
        case "refused":
            return Refused(failed.code, failed.detail, hint=failed.hint)
        case "rejected":
            return StepRejected(failed.code, failed.detail, hint=failed.hint)
        case "failed":
            return StepFailed(failed.code, failed.detail, hint=failed.hint)
