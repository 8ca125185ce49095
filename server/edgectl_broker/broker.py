"""The broker: a listener, its connections, and the tick that ages them."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import ssl
import time
from collections import defaultdict
from collections.abc import Callable

from mqtt5 import DisconnectReasonCode

from edgectl_broker import clock
from edgectl_broker.connection import Connection
from edgectl_broker.errors import CannotListen
from edgectl_broker.exchange import Authorize, Exchange
from edgectl_broker.identity import Identity, identity_of, limit_read_buffers, server_context
from edgectl_broker.listener import Listener
from edgectl_broker.registry import SessionRegistry
from edgectl_broker.settings import BrokerSettings
from edgectl_broker.state import StateStore

__all__ = ["Broker"]

_logger = logging.getLogger(__name__)


class Broker:
    """An MQTT 5 broker on one event loop.

    Only MQTT 5 is spoken, with QoS 0 and 1; a 3.1 or 3.1.1 client is told "unacceptable protocol
    version". Guarantees: see `edgectl_broker.state`.

    Args:
        settings: address, files, limits.
        authorize: asked for every publication, subscription, and delivery; called on the loop, so
            it must be fast.
        is_revoked: asked with a certificate's serial number at each connect; as fast.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        authorize: Authorize,
        is_revoked: Callable[[int], bool] = lambda _serial: False,
    ) -> None:
        self._settings = settings
        self._authorize = authorize
        self._is_revoked = is_revoked
        self._listener: Listener | None = None
        self._tls: ssl.SSLContext | None = None
        self._state: StateStore | None = None
        self._connections: set[Connection] = set()
        self._by_name: defaultdict[str, set[Connection]] = defaultdict(set)
        self._waiting_for_disk: set[Connection] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        self._empty = asyncio.Event()
        self.exchange: Exchange
        self.registry: SessionRegistry

    @property
    def port(self) -> int:
        """The port that the broker listens on; only after `start`."""
        assert self._listener is not None
        return self._listener.port

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def start(self) -> None:
        """Load the state and listen.

        Raises:
            StateUnusable: the state on disk cannot be used.
            CannotListen: the address or the certificate files cannot be used.
        """
        context = self._tls = self._context()
        self._state = StateStore(self._settings.state)
        try:
            self.exchange = Exchange(self._settings, self._authorize, self._state, clock.now)
            self.registry = SessionRegistry(self.exchange)
            self.registry.load()
            loop = asyncio.get_running_loop()
            self._state.start(loop)
            listener = Listener(self._settings, context, lambda: Connection(self))
            await listener.open()
            self._listener = listener
        except BaseException:
            self._state.close()
            self._state = None
            raise
        self._ticker = asyncio.create_task(self._tick(), name="broker-tick")

    async def serve(self) -> None:
        """Wait until `stop` is called."""
        await self._stopped.wait()

    async def stop(self) -> None:
        """Say goodbye to everybody, write what is pending, close. Idempotent."""
        if self._state is None:
            return
        state, self._state = self._state, None
        assert self._listener is not None
        assert self._ticker is not None
        self._listener.close()
        self._ticker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticker
        for connection in list(self._connections):
            connection.close(DisconnectReasonCode.SERVER_SHUTTING_DOWN, "the broker is stopping")
        self.registry.suspend()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), self._settings.close_timeout_s + 1)
        await asyncio.to_thread(state.close)
        self._stopped.set()

    def kick(self, name: str) -> int:
        """End every connection of the certificate `name`; returns how many there were."""
        connections = list(self._by_name.get(name, ()))
        for connection in connections:
            connection.close(
                DisconnectReasonCode.ADMINISTRATIVE_ACTION, "the connection was ended by the server"
            )
        return len(connections)

    def reload_certificate(self) -> None:
        """Show the certificate that is in the files now to whoever connects from now on.

        Raises:
            CannotListen: the files cannot be used; the old certificate stays.
        """
        files = self._settings.tls
        if files is None or self._tls is None:
            return
        server_context(files)  # to see whether they can be used, before anything is changed
        self._tls.load_cert_chain(files.certificate, files.key)

    # --- for connections -------------------------------------------------------------------------

    def admit(self, connection: Connection, transport: asyncio.Transport) -> Identity | None:
        """Say who has connected; None refuses the connection."""
        if self._state is None or len(self._connections) >= self._settings.connections_max:
            _logger.warning("connection refused: there are %d already", len(self._connections))
            return None
        tls = transport.get_extra_info("ssl_object")
        identity: Identity | None = Identity(None, None, None)
        if tls is not None:
            identity = identity_of(tls)
            if identity is None:
                _logger.warning("connection refused: the certificate has no usable name")
                return None
            assert identity.name is not None
            assert identity.serial is not None
            if self._is_revoked(identity.serial):
                _logger.warning("connection of %r refused: certificate revoked", identity.name)
                return None
            if not self._may_open_another(identity.name):
                _logger.warning("connection of %r refused: too many at once", identity.name)
                return None
            self._by_name[identity.name].add(connection)
        self._connections.add(connection)
        return identity

    def _may_open_another(self, name: str) -> bool:
        limit = self._settings.connections_per_name_max
        return name in self._settings.privileged or len(self._by_name.get(name, ())) < limit

    def forget(self, connection: Connection) -> None:
        """The connection has ended."""
        self._connections.discard(connection)
        if not self._connections and self._state is None:
            self._empty.set()
        self._waiting_for_disk.discard(connection)
        if connection.identity is not None and connection.identity.name is not None:
            same = self._by_name.get(connection.identity.name)
            if same is not None:
                same.discard(connection)
                if not same:
                    del self._by_name[connection.identity.name]

    def wait_for_disk(self, connection: Connection) -> bool:
        """Whether the disk is behind; `connection` is told to read on when it has caught up."""
        state = self.exchange.state
        if state.backlog_bytes <= self._settings.state_backlog_bytes_max:
            return False
        first = not self._waiting_for_disk
        self._waiting_for_disk.add(connection)
        if first:
            state.when_durable(self._disk_caught_up)  # at once, when nothing is pending any more
        return connection in self._waiting_for_disk

    def _disk_caught_up(self) -> None:
        waiting, self._waiting_for_disk = self._waiting_for_disk, set()
        for connection in waiting:
            connection.read_on()

    # --- private ---------------------------------------------------------------------------------

    def _context(self) -> ssl.SSLContext | None:
        if self._settings.tls is not None:
            limit_read_buffers()
            return server_context(self._settings.tls)
        try:
            local = ipaddress.ip_address(self._settings.host).is_loopback
        except ValueError:
            local = self._settings.host == "localhost"
        if not local:
            raise CannotListen(
                f"without TLS the broker listens on a loopback address only, not on "
                f"{self._settings.host}; give it certificate files"
            )
        return None

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._settings.tick_s)
            try:
                now, wall = time.monotonic(), clock.now()
                for connection in list(self._connections):
                    connection.check(now, wall)
                self.registry.tick()
            except Exception:  # a bug there must not end keep-alive and expiry for everybody
                _logger.exception("the broker's tick failed")
