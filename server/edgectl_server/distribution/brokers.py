"""Which broker carries the fleet's messages, by one setting.

- ``embedded``: `edgectl_broker` in a thread of this process; the default.
- ``mosquitto``: a private Mosquitto, started, watched and stopped by this process.
- ``mqtts://host[:port]``: a broker that somebody else runs. Nothing is started, and its access
  rules, revocation list and sessions are theirs to configure.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from edgectl_server.distribution.interface import IdentityFiles, RunningBroker
from edgectl_server.errors import Unavailable

__all__ = ["ExistingBroker", "open_broker"]

_logger = logging.getLogger(__name__)

_DEFAULT_PORT = 8883


class ExistingBroker:
    """A broker that somebody else runs."""

    alive = True

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    def stop(self) -> None:
        """Nothing was started."""

    def kick(self, name: str) -> bool:
        """Not possible: the open connection lasts until that broker ends it."""
        _logger.warning(
            "%s stays connected to %s until that broker ends the connection: end it there",
            name,
            self.host,
        )
        return False

    def reload_revocations(self) -> bool:
        """Not possible: that broker reads its own revocation list."""
        _logger.warning("give %s the new revocation list: it is not ours to reload", self.host)
        return False


def open_broker(
    spec: str,
    *,
    host: str,
    port: int,
    identity: IdentityFiles,
    state: Path,
    is_revoked: Callable[[int], bool],
    crl_pem: Callable[[], bytes],
) -> RunningBroker:
    """Start, or name, the broker that `spec` asks for.

    Args:
        spec: ``embedded``, ``mosquitto`` or ``mqtts://host[:port]``.
        host: address to listen on.
        port: port to listen on, 0 for any free one; `RunningBroker.port` says which.
        identity: the broker's certificate and key, and the authority of its clients.
        state: folder for what the broker keeps on disk.
        is_revoked: asked with a certificate's serial number; any thread.
        crl_pem: returns the current revocation list; must not expire soon, see `mosquitto`.

    Raises:
        Unavailable: ``broker.setting``, ``broker.listen``, ``broker.state`` or
            ``broker.mosquitto``: the operator must help.
    """
    if spec == "embedded":
        from edgectl_server.distribution.embedded import EmbeddedBroker

        return EmbeddedBroker.start(
            host=host, port=port, identity=identity, state=state, is_revoked=is_revoked
        )
    if spec == "mosquitto":
        from edgectl_server.distribution.mosquitto import MosquittoBroker

        return MosquittoBroker.start(
            host=host, port=port, identity=identity, state=state, crl_pem=crl_pem
        )
    return _existing(spec)


def _existing(spec: str) -> ExistingBroker:
    try:
        parts = urlsplit(spec)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    else:
        if parts.scheme != "mqtts" or parts.path.strip("/") or parts.query or "@" in parts.netloc:
            host = None
    if not host:
        raise Unavailable(
            "broker.setting",
            f"{spec[:200]!r} names no broker",
            hint="set broker to embedded, mosquitto, or mqtts://host:port",
        )
    return ExistingBroker(host, _DEFAULT_PORT if port is None else port)
