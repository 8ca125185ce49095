"""The embedded broker: `edgectl_broker` with the access rules of the protocol."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from edgectl_broker import BrokerError, BrokerSettings, BrokerThread, TlsFiles
from edgectl_protocol import topics
from edgectl_protocol.errors import InvalidName
from edgectl_protocol.names import check_device_id
from edgectl_server.distribution.addresses import local_address
from edgectl_server.distribution.bounds import BrokerBounds
from edgectl_server.distribution.interface import IdentityFiles
from edgectl_server.errors import Unavailable

__all__ = ["EmbeddedBroker", "authorize"]


def authorize(name: str, action: Literal["publish", "subscribe"], topic: str) -> bool:
    """Say what the protocol's access rules allow; nothing to a name that no device can have."""
    if name != "server":
        try:
            check_device_id(name)
        except InvalidName:
            return False
    return topics.allowed(name, action, topic)


class EmbeddedBroker:
    """A `RunningBroker` in a thread of this process."""

    def __init__(self, thread: BrokerThread, host: str) -> None:
        self._thread = thread
        self.host = local_address(host)
        self.port = thread.port

    @classmethod
    def start(
        cls,
        *,
        host: str,
        port: int,
        identity: IdentityFiles,
        state: Path,
        is_revoked: Callable[[int], bool],
        bounds: BrokerBounds,
    ) -> EmbeddedBroker:
        """Start it; arguments and errors as of `open_broker`."""
        files = TlsFiles(identity.certificate, identity.key, identity.authority)
        settings = BrokerSettings(
            state=state, tls=files, host=host, port=port, **bounds.broker_settings()
        )
        thread = BrokerThread(settings, authorize, is_revoked)
        try:
            thread.start()
        except BrokerError as error:
            raise Unavailable(error.code, f"the embedded broker does not start: {error}") from error
        return cls(thread, host)

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.alive

    def stop(self) -> None:
        """Stop it; its state is on disk afterwards."""
        self._thread.stop()

    def kick(self, name: str) -> bool:
        """End the open connections of `name`."""
        self._thread.kick(name)
        return True

    @property
    def revocation_problem(self) -> str:
        """None: every connect asks."""
        return ""

    def reload_revocations(self) -> bool:
        """Nothing to reload: every connect asks."""
        return True

    def check_revocations(self) -> None:
        """Nothing to check."""

    def reload_certificate(self) -> None:
        """Show the certificate that is in the files now to whoever connects from now on.

        Raises:
            Unavailable: ``broker.certificate``.
        """
        try:
            self._thread.reload_certificate()
        except BrokerError as error:
            raise Unavailable(
                "broker.certificate",
                f"the broker keeps its old certificate: {error}",
                hint="restart the server",
            ) from error
