"""Opens and closes what applications reach: HTTP over TCP and a Unix socket, gRPC, the hub.

Rules:

* The TCP ports and the token are what an operator has asked for: without one of them nothing
  serves, and the error says what to change.
* The Unix socket and the hub are files, and a disk may have become read-only: where one of them
  cannot be opened the others serve all the same, and the problem is told.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgectl_agent.inference.bearer import Bearer, TokenUnusable, read_token
from edgectl_agent.inference.control import Accept, Start, Started
from edgectl_agent.inference.endpoint import Endpoint, Limits
from edgectl_agent.inference.errors import InferenceError
from edgectl_agent.inference.hub import Hub
from edgectl_agent.inference.options import Options
from edgectl_agent.inference.pulse import Pulse
from edgectl_agent.inference.routes import Routes
from edgectl_agent.inference.service import Service, Shares
from edgectl_agent.inference.shared_memory import SharedMemory
from edgectl_agent.inference.slots import Slots

__all__ = ["Listeners"]

log = logging.getLogger(__name__)


class Listeners:
    """Everything that listens in the inference process."""

    def __init__(self, slots: Slots, pulse: Pulse) -> None:
        """Serve the models of `slots`; `pulse` shows what computes."""
        self._slots = slots
        self._pulse = pulse
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self._hub = Hub(slots)
        slots.switched = self._hub.changed
        slots.looked = self._hub.looked
        self._endpoint: Endpoint | None = None
        self._close: list[Callable[[], Awaitable[None]]] = [self._hub.close]

    async def listen(self, command: Start | Accept) -> Started | None:
        """Open everything, or accept who waits on the socket that was given.

        Raises:
            InferenceError: as `open`.
        """
        if isinstance(command, Start):
            return await self.open(command)
        if self._endpoint is not None:
            await self._endpoint.accept()
        return None

    async def open(self, command: Start) -> Started:
        """Listen as `command` says.

        Raises:
            InferenceError: ``inference.token``, ``inference.bind`` or ``inference.grpc``.
        """
        self._slots.reserve_bytes = command.reserve_bytes
        options = command.options
        bearer = _bearer(options)
        if bearer is None and not _is_loopback(command.host):
            log.warning(
                "the endpoint listens on %s without a token: every machine that reaches it is "
                "answered; see the setting endpoint_token_file",
                command.host,
            )
        service = self._service(options)
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
        self._endpoint = endpoint
        self._close.append(endpoint.close)
        listener = socket.socket(fileno=command.listener) if command.listener >= 0 else None
        try:
            port = await endpoint.listen_tcp(command.host, command.port, listener)
        except OSError as error:
            raise _cannot_bind(command.host, command.port, error) from error
        grpc_port = await self._open_grpc(command, service, limits, bearer)
        found = (await _open_socket(endpoint, command.socket), self._open_hub(command, port))
        return Started(
            port=port, grpc_port=grpc_port, problems=tuple(problem for problem in found if problem)
        )

    def withdrawn(self, slot: str) -> None:
        """Tell applications that have a model of `slot` that it serves no more."""
        self._hub.withdrawn(slot)

    async def close(self) -> None:
        """Stop listening."""
        for close in self._close:
            await close()

    def _service(self, options: Options) -> Service:
        return Service(
            self._slots,
            self._worker,
            shares=Shares(queue_max=options.queue_max, client_max=options.client_max),
            memory=SharedMemory(options.body_bytes_max) if options.shared_memory else None,
            batch_rows_max=options.batch_rows_max,
            pulse=self._pulse,
        )

    async def _open_grpc(
        self, command: Start, service: Service, limits: Limits, bearer: Bearer | None
    ) -> int | None:
        """Speak gRPC where that is wanted, and return the port."""
        wanted = command.options.grpc_port
        if wanted is None:
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
        self._close.append(server.close)
        try:
            return await server.listen(command.host, wanted)
        except OSError as error:
            raise _cannot_bind(command.host, wanted, error) from error

    def _open_hub(self, command: Start, port: int) -> str:
        """Open the hub where it is wanted; return why it is not open, empty where all is well."""
        if not command.hub:
            return ""
        self._hub.endpoint = f"http://{_in_url(command.host)}:{port}"
        try:
            self._hub.listen(Path(command.hub), command.hub_group)
        except KeyError:
            group = command.hub_group
            why = f"there is no group {group!r}: make it, or set another models_group"
        except OSError as error:
            why = f"cannot listen on {command.hub}: {error}; set another models_socket"
        else:
            return ""
        return f"applications get no models: {why}"


async def _open_socket(endpoint: Endpoint, path: str | None) -> str:
    """Listen on the Unix socket where it is wanted; return why not, empty where all is well."""
    if path is None:
        return ""
    try:
        await endpoint.listen_unix(Path(path))
    except OSError as error:
        return f"the Unix socket is missing: cannot listen on {path}: {error}; set another socket"
    return ""


def _bearer(options: Options) -> Bearer | None:
    """Return what compares tokens, where one is asked for."""
    if options.token_file is None:
        return None
    try:
        return Bearer(read_token(Path(options.token_file)))
    except TokenUnusable as error:
        raise InferenceError("inference.token", str(error)) from error


def _cannot_bind(host: str, port: int, error: OSError) -> InferenceError:
    return InferenceError(
        "inference.bind",
        f"cannot listen on {host}:{port}: {error}; free it, or set another one for the endpoint",
    )


def _in_url(host: str) -> str:
    """Return a host as an application on this device writes it into an address."""
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104 - everywhere is here as well
        return "127.0.0.1" if host != "::" else "[::1]"
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
