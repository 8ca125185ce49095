"""One HTTP connection to the server, with bounds that uvicorn does not have.

Rules: a request's head comes within `HEAD_S_MAX` and is at most `HEAD_BYTES_MAX` long, whoever
sends it and however slowly; one address holds at most `CONNECTIONS_PER_ADDRESS_MAX` connections.
So nobody who has not even logged in can take all connections, or the memory. Addresses that speak
for others, which are loopback and trusted proxies, may hold more. Bodies have their bounds in
`edgectl_server.api.limits`.

The parser is h11, for everybody: uvicorn would take httptools where it is installed, which keeps
as many headers as are sent.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HEAD_BYTES_MAX", "HttpConnection", "connection_type"]

HEAD_S_MAX = 10.0
HEAD_BYTES_MAX = 64 * 1024
CONNECTIONS_PER_ADDRESS_MAX = 200


class HttpConnection(H11Protocol):
    """A connection that does not wait for ever; made by `connection_type`."""

    open_by_address: ClassVar[Counter[str]]
    unlimited: ClassVar[frozenset[str]]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Take what uvicorn gives."""
        super().__init__(*arguments, **named)
        self._head_due: asyncio.TimerHandle | None = None
        self._address: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and wait for its first request."""
        super().connection_made(transport)
        address = "" if self.client is None else self.client[0]
        if not _speaks_for_others(address, self.unlimited):
            self._address = address
            self.open_by_address[address] += 1
            if self.open_by_address[address] > CONNECTIONS_PER_ADDRESS_MAX:
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
        if self._address is not None:
            self.open_by_address[self._address] -= 1
            if not self.open_by_address[self._address]:
                del self.open_by_address[self._address]

    def _watch_head(self) -> None:
        """Time the head of a request, from the first moment that one is awaited or has begun."""
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's types say
        awaited = cycle is None or cycle.response_complete
        if awaited and self._head_due is None:
            self._head_due = self.loop.call_later(HEAD_S_MAX, self.transport.abort)
        elif not awaited and self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None


def connection_type(unlimited: frozenset[str]) -> type[HttpConnection]:
    """Return the class of one server's connections.

    Args:
        unlimited: addresses of trusted proxies.
    """

    class Connection(HttpConnection):
        open_by_address: ClassVar[Counter[str]] = Counter()

    Connection.unlimited = unlimited
    return Connection


def _speaks_for_others(address: str, unlimited: frozenset[str]) -> bool:
    if address in unlimited:
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return True  # a Unix socket
