"""The hub: where applications of this device get models to run in their own process.

It hands out the model that serves in a slot as open descriptors of its files, so that an
application needs no access to the state directory, says when another one takes its place, and adds
what applications have counted to the counts of that very manifest. Encrypted models are not handed
out: an application would have to be given their key.

Rules:

1. Who may connect is decided by the mode and the group of the socket, 0660. Whoever may, may also
   say that a model misbehaves; nothing that they say reaches anything but the counts of manifests
   that they were offered.
2. Every wait has an end and every number a bound: connections, those of one user, the first line,
   a reader that does not read, the length of a line, lines a second, the log.
3. Counts that cannot be true end the connection; nothing of such a line is counted. Neither is a
   sample of another model, or for a reason that nobody has allowed, kept.
4. Descriptors that an application sends are dropped by the kernel: they are never asked for.
"""

from __future__ import annotations

import array
import asyncio
import grp
import logging
import os
import socket
import struct
import time
from collections import Counter, OrderedDict
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.control import Tally, line
from edgectl_agent.inference.endpoint import bind_unix
from edgectl_agent.inference.hub_messages import (
    LINE_BYTES_MAX,
    VERSION,
    Counted,
    Described,
    Elsewhere,
    Follow,
    Look,
    Offer,
    Refusal,
    SamplePart,
    Trouble,
    Waiting,
    Withdrawn,
    check_counted,
    decode_from_application,
)
from edgectl_agent.inference.reference import Opened
from edgectl_agent.inference.sample_parts import Assembly, SampleRefused
from edgectl_agent.inference.slots import Served, Slots
from edgectl_protocol.samples import SamplePolicy
from edgectl_protocol.watching import problem_of_counts

__all__ = ["Hub", "HubLimits"]

log = logging.getLogger(__name__)

_READ_BYTES = 16 * 1024
_CREDENTIALS = struct.Struct("3i")


class HubLimits(Struct, frozen=True, kw_only=True):
    """Bounds of the hub."""

    connections_max: int = 64
    connections_of_user_max: int = 32
    first_line_s_max: float = 5.0
    write_s_max: float = 10.0
    lines_per_s: float = 10.0
    lines_burst: int = 50
    manifests_max: int = 8
    """Of one connection: counts of those offered longer ago are not taken any more."""
    log_lines_per_min: int = 60


class _Hostile(Exception):
    """The application is outside the protocol; it is told why, and left."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(code=code, detail=detail[:512])


class _Allowance:
    """So many at once, so many a second."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s, self._burst = per_s, float(burst)
        self._left, self._since_s = float(burst), time.monotonic()

    def take(self) -> bool:
        """Say whether one more is allowed."""
        now_s = time.monotonic()
        self._left = min(self._burst, self._left + (now_s - self._since_s) * self._per_s)
        self._since_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Offered(NamedTuple):
    bundle: Bundle
    reference: Opened | None


class _Application:
    """One connection."""

    def __init__(self, connection: socket.socket, limits: HubLimits) -> None:
        self.connection = connection
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.pid, self.uid, self.gid = _CREDENTIALS.unpack(peer)
        self.slot = ""
        self.files = True
        self.offered: OrderedDict[str, _Offered] = OrderedDict()
        self.changed = asyncio.Event()
        self.withdrawn = False
        self.rest = b""
        self.lines = _Allowance(limits.lines_per_s, limits.lines_burst)

    def __str__(self) -> str:
        return f"process {self.pid} of user {self.uid}, group {self.gid}"


class Hub:
    """The listener and its connections; everything runs on the event loop."""

    def __init__(self, slots: Slots, limits: HubLimits | None = None) -> None:
        """Hand out what serves in `slots`; `changed` and `withdrawn` are to be called."""
        self.endpoint = ""
        """Where what is not handed out is asked."""
        self._slots = slots
        self._limits = limits or HubLimits()
        self._applications: dict[_Application, asyncio.Task[None]] = {}
        self._assembly = Assembly()
        self._listener: socket.socket | None = None
        self._path: Path | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._log_lines = _Allowance(
            self._limits.log_lines_per_min / 60, self._limits.log_lines_per_min
        )

    def __len__(self) -> int:
        return len(self._applications)

    def listen(self, path: Path, group: str = "") -> None:
        """Listen on a Unix socket of mode 0660.

        Args:
            path: a stale socket there is removed.
            group: name of the group that may connect as well; empty leaves the process's own.

        Raises:
            OSError: it cannot be made there.
            KeyError: there is no such group.
        """
        gid = grp.getgrnam(group).gr_gid if group else -1
        listener = bind_unix(path)
        try:
            os.chown(path, -1, gid)
            listener.listen(self._limits.connections_max)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        log.setLevel(logging.INFO)  # who connects is worth a line, within an allowance
        self._listener, self._path = listener, path
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listener))

    async def close(self) -> None:
        """Stop listening and hang up on everybody."""
        tasks = [*self._applications.values()]
        if self._accepting is not None:
            tasks.append(self._accepting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def changed(self, slot: str) -> None:
        """Tell the applications of `slot` what serves there now."""
        self._tell(slot, withdrawn=False)

    def looked(self) -> None:
        """Tell all applications how closely to look from now on."""
        for application in self._applications:
            application.changed.set()

    def withdrawn(self, slot: str) -> None:
        """Tell the applications of `slot` that nothing shall be run."""
        self._tell(slot, withdrawn=True)

    def _tell(self, slot: str, *, withdrawn: bool) -> None:
        for application in self._applications:
            if application.slot == slot:
                application.withdrawn = withdrawn
                application.changed.set()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors: others will be given back
                self._note(f"cannot accept: {error}")
                await asyncio.sleep(1)
                continue
            connection.setblocking(False)
            application = _Application(connection, self._limits)
            of_user = Counter(one.uid for one in self._applications)[application.uid]
            if (
                len(self._applications) >= self._limits.connections_max
                or of_user >= self._limits.connections_of_user_max
            ):
                refusal = Refusal(code="hub.busy", detail="too many applications are connected")
                with connection, suppress(OSError):
                    connection.send(line(refusal))
                self._note(f"refused {application}: too many connections")
                continue
            task = loop.create_task(self._attend(application))
            self._applications[application] = task
            task.add_done_callback(partial(self._left, application))

    def _left(self, application: _Application, _task: asyncio.Task[None]) -> None:
        self._applications.pop(application, None)
        self._assembly.forget(application)

    async def _attend(self, application: _Application) -> None:
        """Speak with one application until either side hangs up."""
        writing: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(self._limits.first_line_s_max):
                follow = _checked(await self._read(application))
            application.slot, application.files = follow.slot, follow.files
            self._note(f"{application} ({follow.application!r}) follows {follow.slot}")
            writing = asyncio.create_task(self._keep_told(application))
            while True:
                self._take(application, await self._read(application))
        except _Hostile as error:
            self._note(f"{application}: {error}")
            with suppress(OSError):
                application.connection.send(line(error.refusal))
        except (OSError, EOFError, TimeoutError):
            pass  # it has gone, or does not take part
        finally:
            if writing is not None:
                writing.cancel()
            application.connection.close()

    async def _read(self, application: _Application) -> object:
        """Return the next line, decoded."""
        loop = asyncio.get_running_loop()
        while b"\n" not in application.rest:
            if len(application.rest) > LINE_BYTES_MAX:
                raise _Hostile("hub.malformed", f"a line is longer than {LINE_BYTES_MAX} bytes")
            part = await loop.sock_recv(application.connection, _READ_BYTES)
            if not part:
                raise EOFError
            application.rest += part
        content, _, application.rest = application.rest.partition(b"\n")
        if not application.lines.take():
            raise _Hostile("hub.flood", f"more than {self._limits.lines_per_s:g} lines a second")
        try:
            return decode_from_application(content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _Hostile("hub.malformed", f"not a line of the hub protocol: {error}") from error

    def _take(self, application: _Application, message: object) -> None:
        """Count what an application has counted, or note its trouble."""
        match message:
            case Counted() | Described() | SamplePart():
                offered = application.offered.get(message.manifest)
                if offered is not None:  # else this hub knows nothing of that model any more
                    self._take_of(application, offered, message)
            case Trouble() if message.manifest in application.offered:
                self._note(
                    f"{application} cannot run {message.manifest}: {message.code!r} "
                    f"{message.detail!r}"
                )
            case Trouble():
                pass
            case _:
                raise _Hostile("hub.malformed", "a connection follows one slot")

    def _take_of(
        self,
        application: _Application,
        offered: _Offered,
        message: Counted | Described | SamplePart,
    ) -> None:
        """Take what an application says of a model that it was offered."""
        bundle, opened = offered
        match message:
            case Counted():
                wrong = check_counted(message, scores=bundle.config.scores is not None)
                if wrong:
                    raise _Hostile("hub.tally", wrong)
                self._slots.count(bundle, _tally(message))
            case Described(counts=counts):
                if opened is None:
                    raise _Hostile("hub.features", "features of a model that has no reference")
                wrong = problem_of_counts(counts, opened.watched.features, opened.watched.classes)
                if wrong:
                    raise _Hostile("hub.features", wrong)
                self._slots.described(bundle, opened, counts)
            case SamplePart():
                policy = self._slots.sample_policies.get(bundle.slot, SamplePolicy())
                if not policy.on:
                    return  # it may not have heard of that yet
                try:
                    sample = self._assembly.take(application, bundle, message)
                except SampleRefused as error:
                    raise _Hostile("hub.sample", str(error)) from error
                if sample is not None:
                    self._slots.sample_given(bundle, sample)

    async def _keep_told(self, application: _Application) -> None:
        """Tell the application what serves, now and after each change, the newest only."""
        application.changed.set()
        told, told_look = "", Look()
        try:
            while True:
                await application.changed.wait()
                application.changed.clear()
                look = self._slots.look_at(application.slot)
                if application.files and look != told_look:
                    told_look = look
                    await self._send(application, look)
                served = self._slots.get(application.slot)
                if served is None:
                    told = ""
                    gone = application.withdrawn
                    await self._send(application, Withdrawn() if gone else Waiting())
                elif served.bundle.manifest != told:
                    told = served.bundle.manifest
                    await self._offer(application, served)
        except (OSError, TimeoutError) as error:
            self._note(f"{application}: {str(error) or 'does not read'}")
            with suppress(OSError):
                application.connection.shutdown(socket.SHUT_RDWR)  # ends the reading as well

    async def _offer(self, application: _Application, served: Served) -> None:
        bundle, reference = served.bundle, served.reference
        if bundle.key is not None or not application.files:
            reason = "the model is encrypted, and its key stays with the agent"
            await self._send(
                application,
                Elsewhere(
                    slot=bundle.slot,
                    version=bundle.version,
                    variant=bundle.variant,
                    manifest=bundle.manifest,
                    config=bundle.config,
                    endpoint=self.endpoint,
                    reason=reason if bundle.key is not None else "",
                ),
            )
            return
        offer = Offer(
            slot=bundle.slot,
            version=bundle.version,
            variant=bundle.variant,
            manifest=bundle.manifest,
            config=bundle.config,
            threads=bundle.threads,
            provider=bundle.provider,
            reference=None if reference is None else reference.watched,
        )
        files: list[int] = []
        try:
            # Opened for each application: a shared descriptor has one offset for all of them.
            files.extend(os.open(path, os.O_RDONLY) for path in (bundle.model, bundle.golden))
            application.offered[bundle.manifest] = _Offered(bundle, reference)
            while len(application.offered) > self._limits.manifests_max:
                application.offered.popitem(last=False)
            await self._send(application, offer, files)
        finally:
            for file in files:
                os.close(file)

    async def _send(
        self, application: _Application, message: Struct, files: list[int] | None = None
    ) -> None:
        """Send a line, the descriptors with its first byte; raise TimeoutError or OSError."""
        content, loop = line(message), asyncio.get_running_loop()
        carried = array.array("i", files or [])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, carried)] if files else []
        async with asyncio.timeout(self._limits.write_s_max):
            while True:
                try:
                    sent = application.connection.sendmsg([content], ancillary)
                    break
                except BlockingIOError:
                    await _writable(application.connection)
            await loop.sock_sendall(application.connection, content[sent:])

    def _note(self, sentence: str) -> None:
        if self._log_lines.take():
            log.info("hub: %s", sentence)


def _checked(message: object) -> Follow:
    if not isinstance(message, Follow):
        raise _Hostile("hub.malformed", "the first line says which slot is followed")
    if message.hub != VERSION:
        raise _Hostile(
            "hub.version",
            f"hub protocol {message.hub} is asked for, this agent speaks {VERSION}: install the "
            "same version of edgectl-agent for the application",
        )
    return message


def _tally(counted: Counted) -> Tally:
    return Tally(
        age_s=0,
        requests=counted.requests,
        errors=counted.errors,
        non_finite=counted.non_finite,
        refused=counted.refused,
        latency=counted.latency,
        confidence=counted.confidence,
        classes=counted.classes,
    )


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _writable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    descriptor = connection.fileno()
    loop.add_writer(descriptor, _set, ready)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)
