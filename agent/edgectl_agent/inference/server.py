"""The inference process itself: control channel, endpoint, models.

It ends when the supervisor's end of the channel is closed, for whatever reason. A thread of its own
watches for that, so that it ends even while the event loop is held up in native code. Where the
supervisor says so, the kernel kills it too when its parent dies (`PR_SET_PDEATHSIG`); only a second
line, because that fires already when the *thread* that started the process ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import ipaddress
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Raw, Struct

from edgectl_agent.decryption import refuse_dumps
from edgectl_agent.inference.bearer import Bearer, TokenUnusable, read_token
from edgectl_agent.inference.control import (
    LINE_BYTES_MAX,
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
    Start,
    Started,
    Unload,
    Window,
    Windows,
    decode_command,
    line,
)
from edgectl_agent.inference.endpoint import Endpoint, Limits
from edgectl_agent.inference.errors import InferenceError, LoadFailed
from edgectl_agent.inference.hub import Hub
from edgectl_agent.inference.pulse import BEAT_S, Pulse
from edgectl_agent.inference.routes import Routes
from edgectl_agent.inference.service import Service, Shares
from edgectl_agent.inference.shared_memory import SharedMemory
from edgectl_agent.inference.slots import Slots

__all__ = ["main"]

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


class _Server:
    """Carries out the supervisor's commands."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._slots = Slots(pulse=pulse)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self._open: list[Callable[[], Awaitable[None]]] = []
        """What is to be closed at the end."""
        self._hub = Hub(self._slots)
        self._slots.switched = self._hub.changed
        self._open.append(self._hub.close)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reply to commands until the supervisor's end is closed."""
        self._beat()
        try:
            while content := await reader.readline():
                writer.write(line(await self._reply(decode_command(content))))
                await writer.drain()
        finally:
            for close in self._open:
                await close()

    def _beat(self) -> None:
        self._pulse.beat()
        asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    async def _reply(self, command: Command) -> Reply:
        try:
            result = await self._execute(command)
        except LoadFailed as error:
            return Reply(code=error.code, detail=error.detail, slot=error.slot)
        except InferenceError as error:
            return Reply(code=error.code, detail=error.detail)
        except Exception as error:
            log.exception("a command could not be carried out")
            return Reply(code="inference.internal", detail=f"{type(error).__name__}: {error}"[:500])
        return Reply(result=Raw(msgspec.json.encode(result)))

    async def _execute(self, command: Command) -> Struct | list[Window] | None:
        slots = self._slots
        result: Struct | list[Window] | None = None
        match command:
            case Start():
                result = await self._listen(command)
            case Load():
                deadline, hung = time.monotonic() + command.timeout_s, frozenset(command.hung)
                result = Loaded(swaps=await slots.load(command.bundles, deadline, hung=hung))
            case Exchange():
                result = Loaded(swaps=await slots.exchange(command.manifests))
            case Accompany(bundle=bundle):
                swap = await slots.accompany(
                    bundle,
                    time.monotonic() + command.timeout_s,
                    inline=bundle.manifest not in command.hung,
                    share=command.share,
                    cpu_max=command.cpu_max,
                )
                result = Loaded(swaps={bundle.slot: swap})
            case Mirror():
                on = await slots.mirror(command.slot, command.share, command.cpu_max)
                result = Mirroring(on=on)
            case Release():
                await slots.release(command.slot)
            case Unload():
                await slots.unload(command.slot)
                self._hub.withdrawn(command.slot)
            case Health():
                result = slots.health(command.slot)
            case Windows():
                result = [
                    Window(
                        slot=bundle.slot,
                        version=bundle.version,
                        manifest=bundle.manifest,
                        tally=tally,
                    )
                    for bundle, tally in slots.take()
                ]
        return result

    async def _listen(self, command: Start) -> Started:
        self._slots.reserve_bytes = command.reserve_bytes
        options = command.options
        bearer = None
        if options.token_file is not None:
            try:
                bearer = Bearer(read_token(Path(options.token_file)))
            except TokenUnusable as error:
                raise InferenceError("inference.token", str(error)) from error
        service = Service(
            self._slots,
            self._worker,
            shares=Shares(queue_max=options.queue_max, client_max=options.client_max),
            memory=SharedMemory(options.body_bytes_max) if options.shared_memory else None,
            batch_rows_max=options.batch_rows_max,
            pulse=self._pulse,
        )
        limits = Limits(
            body_bytes_max=options.body_bytes_max,
            buffered_bytes_max=max(Limits().buffered_bytes_max, options.body_bytes_max),
            connections_max=options.connections_max,
        )
        endpoint = Endpoint(
            Routes(service),
            limits,
            names=options.names,
            bearer=bearer,
            bearer_on_socket=options.token_on_socket,
        )
        self._open.append(endpoint.close)
        if bearer is None and not _is_loopback(command.host):
            log.warning(
                "the endpoint listens on %s without a token: every machine that reaches it is "
                "answered; see the setting endpoint_token_file",
                command.host,
            )
        where = f"{command.host}:{command.port}"
        try:
            port = await endpoint.listen_tcp(command.host, command.port)
            if command.socket is not None:
                where = command.socket
                await endpoint.listen_unix(Path(command.socket))
            where = f"{command.host}:{options.grpc_port}"
            grpc_port = await self._listen_grpc(command, service, limits, bearer)
        except OSError as error:
            raise InferenceError(
                "inference.bind",
                f"cannot listen on {where}: {error}; free it, or set another one for the endpoint",
            ) from error
        return Started(port=port, grpc_port=grpc_port, hub_problem=self._open_hub(command, port))

    def _open_hub(self, command: Start, port: int) -> str:
        """Open the hub where it is wanted; return why it is not open, empty where all is well.

        The endpoint serves all the same: a missing folder must not take every model away.
        """
        if not command.hub:
            return ""
        self._hub.endpoint = f"http://{_in_url(command.host)}:{port}"
        try:
            self._hub.listen(Path(command.hub), command.hub_group)
        except KeyError:
            return f"there is no group {command.hub_group!r}: make it, or set another models_group"
        except OSError as error:
            return f"cannot listen on {command.hub}: {error}; set another models_socket"
        return ""

    async def _listen_grpc(
        self, command: Start, service: Service, limits: Limits, bearer: Bearer | None
    ) -> int | None:
        """Speak gRPC where that is wanted, and return the port."""
        if command.options.grpc_port is None:
            return None
        try:
            from edgectl_agent.inference.grpc_server import GrpcServer
        except ImportError as error:
            raise InferenceError(
                "inference.grpc",
                f"gRPC is wanted (setting grpc_port) and not installed: {error}; "
                "pip install 'edgectl-agent[grpc]', or unset it",
            ) from error
        server = GrpcServer(service, limits, bearer)
        self._open.append(server.close)
        return await server.listen(command.host, command.options.grpc_port)


def _in_url(host: str) -> str:
    """Return a host as an application on this device writes it into an address."""
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104 - everywhere is here as well
        return "127.0.0.1" if host != "::" else "[::1]"
    return f"[{host}]" if ":" in host else host


def main(arguments: list[str]) -> int:
    """Run with two inherited descriptors, and ``parent=<pid>`` to die with it.

    Args:
        arguments: the numbers of the channel and of the pulse's page, and perhaps the parent.
    """
    refuse_dumps()
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s"
    )
    channel = socket.socket(fileno=int(arguments[0]))
    _watch(channel.fileno(), lambda: os._exit(0))
    pulse = Pulse(int(arguments[1]))
    for argument in arguments[2:]:
        _die_with(int(argument.removeprefix("parent=")))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    gc.freeze()  # what was imported stays: to look through it for garbage holds up a request
    with suppress(ConnectionError):
        asyncio.run(_run(channel, pulse))
    # The worker may still be computing for clients who have gone: nothing is lost by not waiting.
    sys.stderr.flush()
    os._exit(0)


async def _run(channel: socket.socket, pulse: Pulse) -> None:
    reader, writer = await asyncio.open_connection(sock=channel, limit=LINE_BYTES_MAX)
    await _Server(pulse).serve(reader, writer)


def _watch(descriptor: int, gone: Callable[[], None]) -> None:
    """Call `gone` once the other end of `descriptor` has been closed for long enough.

    The event loop sees the end as well and has that long to close the endpoint in good order.
    """

    def wait() -> None:
        poll = select.poll()
        poll.register(descriptor, 0)  # only what cannot be masked: hang-up and error
        poll.poll()
        time.sleep(_GRACE_S)
        gone()

    threading.Thread(target=wait, name="watch", daemon=True).start()


_GRACE_S = 1.0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _die_with(parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)  # it died before the kernel was told
