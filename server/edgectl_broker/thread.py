"""A broker in a thread of its own, for programs that are not written with asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

from edgectl_broker.broker import Broker
from edgectl_broker.exchange import Authorize
from edgectl_broker.settings import BrokerSettings

__all__ = ["BrokerThread"]

_ANSWER_TIMEOUT_S = 10


class BrokerThread:
    """Runs a `Broker` on its own event loop in a daemon thread.

    `authorize` and `is_revoked` are called in that thread.
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
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._broker: Broker | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)
        self._port = 0

    @property
    def port(self) -> int:
        """The port that the broker listens on; only after `start`."""
        return self._port

    @property
    def alive(self) -> bool:
        """Whether the broker runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the broker and wait until it listens.

        Raises:
            StateUnusable: the state on disk cannot be used.
            CannotListen: the address or the certificate files cannot be used.
        """
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def stop(self) -> None:
        """Stop the broker and wait until its state is on disk. Idempotent."""
        if self._loop is None or self._broker is None or not self._thread.is_alive():
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended since the check
            asyncio.run_coroutine_threadsafe(self._broker.stop(), self._loop).result()
        self._thread.join()

    def kick(self, name: str) -> int:
        """End every connection of the certificate `name`; returns how many there were."""
        if self._loop is None or self._broker is None:
            return 0
        return asyncio.run_coroutine_threadsafe(self._kick(name), self._loop).result(
            _ANSWER_TIMEOUT_S
        )

    def reload_certificate(self) -> None:
        """Show the certificate that is in the files now to whoever connects from now on.

        Raises:
            CannotListen: the files cannot be used; the old certificate stays.
        """
        if self._loop is not None and self._broker is not None and self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._reload_certificate(), self._loop).result(
                _ANSWER_TIMEOUT_S
            )

    async def _reload_certificate(self) -> None:
        assert self._broker is not None
        self._broker.reload_certificate()

    async def _kick(self, name: str) -> int:
        assert self._broker is not None
        return self._broker.kick(name)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._ready.is_set():
                raise  # nobody waits in `start`: let the thread's end be seen
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        broker = Broker(self._settings, self._authorize, self._is_revoked)
        await broker.start()
        self._broker, self._port = broker, broker.port
        self._ready.set()
        await broker.serve()
