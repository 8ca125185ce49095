"""One server process: from the lock on its installation to the last closed connection.

Order: lock, socket, services, web server, ready line; backwards at the end. One that stands by
waits for the lock, and listens to nobody meanwhile. SIGTERM and SIGINT end it in order, with exit
code 0; SIGHUP has the TLS certificate looked at. The ready line is printed when requests are
answered, and not before.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, cast

import uvicorn

from edgectl_server.api.app import create_app
from edgectl_server.errors import Unavailable
from edgectl_server.http_connection import HEAD_BYTES_MAX, connection_factory
from edgectl_server.service_manager import ServiceManager
from edgectl_server.services import Services, open_services
from edgectl_server.settings import Settings
from edgectl_server.storage.files import make_private_directory
from edgectl_server.tls import ServerTls, check_listening
from edgectl_server.working_lock import WorkingLock

__all__ = ["run_server"]

_GRACE_S = 2
_CONNECTIONS_MAX = 1000
_BACKLOG = 256
_TLS_TICKS = 50
_STANDBY_S = 0.5


def run_server(settings: Settings, *, as_json: bool) -> None:
    """Run the server until a signal ends it.

    Args:
        settings: complete.
        as_json: print the ready line as JSON, and no password.

    Raises:
        ServerError: it cannot start; the message says what to do.
    """
    os.umask(0o077)
    check_listening(settings)
    data = make_private_directory(settings.data_path)
    manager = ServiceManager(os.environ)
    with WorkingLock(data, settings.database_url) as lock, _signals() as stopping:
        if not _is_our_turn(lock, settings, manager, stopping, as_json=as_json):
            return
        with contextlib.closing(_listen(settings)) as listener:
            _work(settings, lock, listener, manager, stopping, as_json=as_json)


def _is_our_turn(
    lock: WorkingLock,
    settings: Settings,
    manager: ServiceManager,
    stopping: list[Callable[[], None]],
    *,
    as_json: bool,
) -> bool:
    """Return True when no other server works any more, False when a signal has come before."""
    told = False
    while not stopping:
        try:
            other = lock.take()
        except Unavailable as error:
            if not told:
                raise
            other = error.detail  # and whoever works waits for the database too
        if other is None:
            return True
        if not settings.standby:
            raise Unavailable(
                "server.running",
                other,
                hint="stop it, or give this one another folder with --data; with --standby true "
                "it waits, and takes the other one's place when that ends",
            )
        if not told:
            told = True
            _say_standing_by(other, as_json=as_json)
            manager.ready("stands by")
        manager.alive(time.monotonic())
        time.sleep(_STANDBY_S)
    return False


def _work(
    settings: Settings,
    lock: WorkingLock,
    listener: socket.socket,
    manager: ServiceManager,
    stopping: list[Callable[[], None]],
    *,
    as_json: bool,
) -> None:
    """Serve until a signal has come, or another server has taken our place."""
    replaced = threading.Event()
    services = open_services(settings)
    try:
        _say_password(services, as_json=as_json)

        def say_ready() -> None:
            _say_ready(services, listener, as_json=as_json)
            manager.ready(f"serves on {settings.listen_host} port {listener.getsockname()[1]}")

        server = _WebServer(services, say_ready, manager)
        stopping.append(server.stop)
        if len(stopping) > 1:  # a signal has come while the services were opened
            server.stop()

        def end() -> None:
            replaced.set()
            server.stop()

        lock.watch(end)
        with _hangup(server.reload_soon if services.tls is not None else None):
            server.run(sockets=[listener])
    finally:
        services.close()
    if replaced.is_set():
        raise Unavailable(
            "server.replaced",
            "another server has taken the place of this one while the database was away",
            hint="start it again with --standby true: it waits until it is needed",
        )


class _WebServer(uvicorn.Server):
    """uvicorn with our signals: event streams end at once, and the exit code is ours."""

    def __init__(
        self, services: Services, say_ready: Callable[[], None], manager: ServiceManager
    ) -> None:
        tls: ServerTls | None = services.tls
        proxies = _addresses(services.settings.trusted_proxies)
        config = uvicorn.Config(
            create_app(services),
            # uvicorn's types want a class; it only ever calls it.
            http=cast("Any", connection_factory(proxies, None if tls is None else tls.context)),
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(services.settings.trusted_proxies),
            forwarded_allow_ips=services.settings.trusted_proxies,
            lifespan="off",
            ws="none",
            limit_concurrency=_CONNECTIONS_MAX,
            timeout_graceful_shutdown=_GRACE_S,
        )
        super().__init__(config)
        self._services = services
        self._say_ready = say_ready
        self._manager = manager
        self._tls = tls
        self._reload = False

    def reload_soon(self) -> None:
        """Look at the TLS certificate; from a signal handler."""
        self._reload = True

    async def on_tick(self, counter: int) -> bool:
        """Look at the TLS certificate now and then, and say that we live; ten ticks are a second.

        A loop that stands still says nothing, and is ended by the manager of services.
        """
        self._manager.alive(time.monotonic())
        if self._tls is not None and (self._reload or counter % _TLS_TICKS == 0):
            at_once, self._reload = self._reload, False
            self._tls.reload(at_once=at_once)
        return await super().on_tick(counter)

    def stop(self) -> None:
        """End in order; from a signal handler."""
        self.should_exit = True
        self._manager.stopping()
        self._services.hub.close()  # or every open page would hold the end up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, then say so."""
        await super().startup(sockets=sockets)
        self._say_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `run_server`; uvicorn would raise them again at the end."""
        yield


def _addresses(listed: str) -> frozenset[str]:
    return frozenset(address.strip() for address in listed.split(","))


@contextlib.contextmanager
def _signals() -> Iterator[list[Callable[[], None]]]:
    """Call what is in the list at SIGTERM and SIGINT; before that, note the signal in it."""
    stopping: list[Callable[[], None]] = []

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if not stopping:
            stopping.append(lambda: None)
        for stop in stopping:
            stop()

    former = {one: signal.signal(one, handle) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for one, handler in former.items():
            signal.signal(one, handler)


@contextlib.contextmanager
def _hangup(handle: Callable[[], None] | None) -> Iterator[None]:
    """Call `handle` at SIGHUP; without one, the signal does what it did."""
    if handle is None:
        yield
        return
    former = signal.signal(signal.SIGHUP, lambda _signal, _frame: handle())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, former)


def _listen(settings: Settings) -> socket.socket:
    try:
        return socket.create_server(
            (settings.listen_host, settings.listen_port),
            family=socket.AF_INET6 if ":" in settings.listen_host else socket.AF_INET,
            backlog=_BACKLOG,
        )
    except OSError as error:
        raise Unavailable(
            "server.listen",
            f"cannot listen on {settings.listen_host} port {settings.listen_port}: "
            f"{error.strerror or error}",
            hint="is another program there? --listen-port 0 takes any free port",
        ) from error


def _say_password(services: Services, *, as_json: bool) -> None:
    """Say the first password to a person; a journal or a container's log keeps what it is told."""
    if services.first_password is None or as_json:
        return
    file = services.settings.data_path / "admin-password"
    if sys.stdout.isatty():
        text = f"with the password {services.first_password}\n             (it is in {file})"
    else:
        text = f"with the password in {file}"
    sys.stdout.write(f"first start: log in as admin {text}\n")


def _say_standing_by(other: str, *, as_json: bool) -> None:
    line = f"edgectl server stands by: {other}"
    if as_json:
        line = json.dumps({"ready": False, "standby": True, "other": other})
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _say_ready(services: Services, listener: socket.socket, *, as_json: bool) -> None:
    host, port = listener.getsockname()[:2]
    scheme = "http" if services.tls is None else "https"
    url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    broker = f"mqtts://{services.broker.host}:{services.broker.port}"
    authority = f"sha256:{services.authority.fingerprint}"  # as devices and logins are given it
    if as_json:
        data = str(services.settings.data_path)
        line = json.dumps(
            {"ready": True, "url": url, "broker": broker, "data": data, "authority": authority}
        )
    else:
        line = f"authority: {authority}\nedgectl server ready: {url} broker {broker}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
