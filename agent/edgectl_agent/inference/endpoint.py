"""A small HTTP/1.1 server for local applications: TCP and a Unix socket.

What it takes: keep-alive, pipelining (answered in order), bodies with a length or in chunks,
``Expect: 100-continue``. What it does not take: Upgrade, compressed bodies, anything beyond
`Limits`. Every wait has an end: a request's head, its body, an idle connection, a reader that does
not read.

Over TCP the Host header must name this machine, and so must Origin where there is one: a page in a
browser on the device can neither reach the endpoint by a name of its own (DNS rebinding) nor post
to it. The Unix socket is guarded by its file mode, 0660. Where a token is set, requests over TCP
bring it, and are refused before their body is read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from edgectl_agent.inference.bearer import Bearer
from edgectl_agent.inference.connection import Connection, Handler
from edgectl_agent.inference.exchange import RETRY_AFTER, Answer, Limits, Request
from edgectl_agent.inference.heads import Heads
from edgectl_agent.unix_path import short_path

__all__ = ["RETRY_AFTER", "Answer", "Endpoint", "Limits", "Request", "bind_unix"]

_SWEEP_S = 0.5
_NAMED_MAX = 64
_RECEIVE_BYTES = 256 * 1024


class Endpoint:
    """The listeners and what their connections share."""

    def __init__(
        self,
        handler: Handler,
        limits: Limits | None = None,
        *,
        names: Iterable[str] = (),
        bearer: Bearer | None = None,
        bearer_on_socket: bool = False,
    ) -> None:
        """Describe the endpoint; nothing listens yet.

        Args:
            handler: answers the requests.
            limits: bounds.
            names: of this machine, besides `localhost` and the host that is listened on.
            bearer: compares the token that requests over TCP must bring; None for none.
            bearer_on_socket: whether those over the Unix socket must as well.
        """
        self.handler = handler
        self._names = frozenset(name.lower().encode() for name in names)
        self._bearer, self._bearer_on_socket = bearer, bearer_on_socket
        self.limits = limits or Limits()
        self.connections: set[Connection] = set()
        self.buffered = 0
        self._servers: list[asyncio.Server] = []
        self._socket_path: Path | None = None
        self._hosts: set[bytes] = set()
        self._named: dict[bytes, bool] = {}
        """What `names_us` has said before: clients ask again and again by the same name."""
        self.received = memoryview(bytearray(_RECEIVE_BYTES))
        self.heads = {False: Heads(), True: Heads()}
        self._sweeping: asyncio.TimerHandle | None = None

    async def listen_tcp(self, host: str, port: int, listener: socket.socket | None = None) -> int:
        """Listen on `host` and `port`, 0 for any free one; return the port. Raises OSError.

        With a `listener` on these, nobody is accepted before `accept`.
        """
        self._hosts = {b"localhost", host.encode().lower(), *self._names}
        self._named.clear()
        self.heads[False].forget()
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            return Connection(self, local=False)

        backlog = self.limits.connections_max
        if listener is None:
            server = await loop.create_server(connection, host, port, backlog=backlog)
        else:
            server = await loop.create_server(
                connection, sock=listener, backlog=backlog, start_serving=False
            )
        self._servers.append(server)
        number: int = server.sockets[0].getsockname()[1]
        return number

    async def accept(self) -> None:
        """Accept who waits, wherever that has not begun."""
        for server in self._servers:
            await server.start_serving()

    async def listen_unix(self, path: Path) -> None:
        """Listen on a Unix socket of mode 0660; a stale socket there is removed. Raises OSError."""
        listener = bind_unix(path)
        try:
            server = await asyncio.get_running_loop().create_unix_server(
                lambda: Connection(self, local=True),
                sock=listener,
                backlog=self.limits.connections_max,
            )
        except BaseException:
            listener.close()
            raise
        self._servers.append(server)
        self._socket_path = path

    async def close(self) -> None:
        """Stop listening and drop all connections."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for server in self._servers:
            server.close()
        for connection in tuple(self.connections):
            connection.abort()
        for server in self._servers:
            await server.wait_closed()
        if self._socket_path is not None:
            self._socket_path.unlink(missing_ok=True)

    def bearer(self, *, local: bool) -> Bearer | None:
        """Return what compares tokens; None where none is asked for."""
        return self._bearer if not local or self._bearer_on_socket else None

    def names_us(self, host: bytes) -> bool:
        """Say whether a Host header names this machine.

        A name must be ``localhost`` or the configured one. An address is always right: what
        rebinding needs is a name that its author controls.
        """
        known = self._named.get(host)
        if known is None:
            name = _name_of(host)
            known = name in self._hosts or _address(name) is not None
            if len(self._named) < _NAMED_MAX:
                self._named[host] = known
        return known

    def serves_page(self, origin: bytes, host: bytes) -> bool:
        """Say whether a page of `origin` comes from this machine, asked by the Host header `host`.

        An address is not always right here: anybody may publish a page on an address without a
        name. It must be loopback, or the very address that was asked.
        """
        name = _name_of(origin.rpartition(b"/")[2])
        if name in self._hosts:
            return True
        address = _address(name)
        return address is not None and (address.is_loopback or address == _address(_name_of(host)))

    def joined(self, connection: Connection) -> None:
        """Take a connection into the sweep for overdue ones."""
        self.connections.add(connection)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in tuple(self.connections):
            connection.check(now)
        self._sweeping = (
            asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
            if self.connections
            else None
        )


def bind_unix(path: Path) -> socket.socket:
    """Return a socket bound to `path` with mode 0660."""
    if path.exists() and not path.is_socket():
        raise FileExistsError(f"{path} exists and is no socket")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o117)  # never wider than 0660, not even for a moment
    try:
        with short_path(path) as name:
            listener.bind(name)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _name_of(host: bytes) -> bytes:
    """Return a Host header without the port, in lower case."""
    name = host.rpartition(b":")[0] if not host.endswith(b"]") and b":" in host else host
    return name.lower()


@lru_cache(maxsize=64)
def _address(name: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip(b"[]").decode("ascii"))
    except ValueError:
        return None
