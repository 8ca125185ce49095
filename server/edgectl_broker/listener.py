"""The listening sockets: takes connections, as many handshakes at a time as it may.

asyncio's own server takes every connection at once and lets it wait for its TLS handshake, however
many there are: whoever reaches the port could use up the process's open files without showing a
certificate. Here the rest waits in the kernel's queue, and costs us nothing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

from edgectl_broker.errors import CannotListen
from edgectl_broker.settings import BrokerSettings

__all__ = ["Listener"]

_logger = logging.getLogger(__name__)

_BACKLOG = 512
_NO_FILES_PAUSE_S = 0.5


class Listener:
    """Makes a protocol for each connection whose handshake succeeds.

    Args:
        settings: address and limits.
        context: None for connections without TLS.
        make: called for each connection that is taken.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        context: ssl.SSLContext | None,
        make: Callable[[], asyncio.Protocol],
    ) -> None:
        self._settings, self._context, self._make = settings, context, make
        self._places = asyncio.Semaphore(settings.handshakes_max)
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that it listens on; only after `open`."""
        port: int = self._sockets[0].getsockname()[1]
        return port

    async def open(self) -> None:
        """Listen.

        Raises:
            CannotListen: the address cannot be used.
        """
        host, port = self._settings.host, self._settings.port
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, *_, address in dict.fromkeys(found):
                # Without IPv6 in the kernel, "all addresses" are those of IPv4.
                if family != socket.AF_INET6 or socket.has_dualstack_ipv6() or len(found) == 1:
                    self._sockets.append(_listening(family, address))
        except OSError as error:
            self.close()
            raise CannotListen(
                f"{host}:{port} cannot be listened on; choose another port, or stop what uses it"
            ) from error
        for one in self._sockets:
            self._start(self._accept(one), f"broker-accept-{one.fileno()}")

    def close(self) -> None:
        """Take no more connections, and give up those that are in their handshake. Idempotent."""
        for task in self._tasks:
            task.cancel()
        for one in self._sockets:
            one.close()
        self._sockets.clear()

    def _start(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._places.acquire()
            try:
                opened, _ = await loop.sock_accept(listening)
            except OSError as error:  # no more open files, or the client has gone already
                self._places.release()
                _logger.warning("a connection cannot be taken: %s", error)
                await asyncio.sleep(_NO_FILES_PAUSE_S)
            except BaseException:
                self._places.release()
                raise
            else:
                self._start(self._greet(opened), "broker-handshake")

    async def _greet(self, opened: socket.socket) -> None:
        secure, limits = self._context is not None, self._settings
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make,
                opened,
                ssl=self._context,
                ssl_handshake_timeout=limits.connect_timeout_s if secure else None,
                ssl_shutdown_timeout=limits.close_timeout_s if secure else None,
            )
        except OSError as error:  # also ssl.SSLError
            _logger.debug("a connection has failed in its handshake: %s", error)
            opened.close()
        finally:
            self._places.release()


def _listening(family: int, address: Any) -> socket.socket:
    opened = socket.create_server(address, family=family, backlog=_BACKLOG)
    opened.setblocking(False)
    return opened
