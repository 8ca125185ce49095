"""One HTTP connection to the server, with bounds that uvicorn does not have.

Rules: a request's head comes within `HEAD_S_MAX` and is at most `HEAD_BYTES_MAX` long, whoever
sends it and however slowly, and so does a TLS handshake; one address holds at most
`CONNECTIONS_PER_ADDRESS_MAX` connections, counted before the handshake. So nobody who has not even
logged in can take all connections, or the memory. Addresses that speak for others, which are
loopback and trusted proxies, may hold more. Bodies have their bounds in
`edgectl_server.api.limits`.

The parser is h11, for everybody: uvicorn would take httptools where it is installed, which keeps
as many headers as are sent. uvicorn does not know of TLS here, because it would wait a minute for
each handshake, and count nobody before its end.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HEAD_BYTES_MAX", "connection_factory"]

HEAD_S_MAX = 10.0
HEAD_BYTES_MAX = 64 * 1024
CONNECTIONS_PER_ADDRESS_MAX = 200
_TLS_CLOSE_S_MAX = 2


class _Door:
    """Counts who is inside, by address."""

    def __init__(self, unlimited: frozenset[str]) -> None:
        self._unlimited = unlimited
        self._inside: Counter[str] = Counter()

    def enter(self, transport: asyncio.BaseTransport) -> Callable[[], None] | None:
        """Return what to call when the connection ends; None: there are too many."""
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        if _speaks_for_others(address, self._unlimited):
            return lambda: None
        if self._inside[address] >= CONNECTIONS_PER_ADDRESS_MAX:
            return None
        self._inside[address] += 1
        return lambda: self._leave(address)

    def _leave(self, address: str) -> None:
        self._inside[address] -= 1
        if not self._inside[address]:
            del self._inside[address]


class _HttpConnection(H11Protocol):
    """A connection that does not wait for ever."""

    def __init__(self, door: _Door | None, **named: Any) -> None:
        """Take what uvicorn gives; without a door, somebody else counts."""
        super().__init__(**named)
        self._door = door
        self._leave: Callable[[], None] | None = None
        self._head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and wait for its first request."""
        super().connection_made(transport)
        if self._door is not None:
            self._leave = self._door.enter(transport)
            if self._leave is None:
                transport.abort()
                return
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection no more."""
        super().connection_lost(exc)
        if self._head_due is not None:
            self._head_due.cancel()
        if self._leave is not None:
            self._leave()

    def _watch_head(self) -> None:
        """Time the head of a request, from the first moment that one is awaited or has begun."""
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's types say
        awaited = cycle is None or cycle.response_complete
        if awaited and self._head_due is None:
            self._head_due = self.loop.call_later(HEAD_S_MAX, self.transport.abort)
        elif not awaited and self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None


class _TlsConnection(SSLProtocol):
    """The TLS around a connection, from its very beginning."""

    def __init__(self, door: _Door, inside: _HttpConnection, context: ssl.SSLContext) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            inside,
            context,
            cast("asyncio.Future[Any]", None),  # nobody waits for the handshake
            server_side=True,
            ssl_handshake_timeout=cast("int", HEAD_S_MAX),  # any number will do
            ssl_shutdown_timeout=_TLS_CLOSE_S_MAX,
        )
        self._door = door
        self._leave: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and begin the handshake."""
        self._leave = self._door.enter(transport)
        super().connection_made(transport)
        if self._leave is None:
            assert isinstance(transport, asyncio.Transport)
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count the connection no more."""
        super().connection_lost(exc)
        if self._leave is not None:
            self._leave()
            self._leave = None


def connection_factory(
    unlimited: frozenset[str], tls: ssl.SSLContext | None
) -> Callable[..., asyncio.BaseProtocol]:
    """Return what makes the connections of one server, as uvicorn's option ``http`` wants it.

    Args:
        unlimited: addresses of trusted proxies.
        tls: None: plain HTTP.
    """
    door = _Door(unlimited)

    def make(**named: Any) -> asyncio.BaseProtocol:
        if tls is None:
            return _HttpConnection(door, **named)
        return _TlsConnection(door, _HttpConnection(None, **named), tls)

    return make


def _speaks_for_others(address: str, unlimited: frozenset[str]) -> bool:
    if address in unlimited:
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return True  # a Unix socket
