"""Which broker carries the fleet's messages, by one setting.

- ``embedded``: `edgectl_broker` in a thread of this process; the default.
- ``mosquitto``: a private Mosquitto, started, watched and stopped by this process.
- ``mqtts://host[:port]``: a broker that somebody else runs. Nothing is started, and its access
  rules, revocation list and sessions are theirs to configure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from edgectl_server.distribution.bounds import BrokerBounds
from edgectl_server.distribution.canary import MakeCanary
from edgectl_server.distribution.existing import ExistingBroker, OperatorDoor
from edgectl_server.distribution.interface import IdentityFiles, RunningBroker
from edgectl_server.errors import Unavailable

__all__ = ["ExistingBroker", "address_of", "open_broker"]

_DEFAULT_PORT = 8883


def open_broker(
    spec: str,
    *,
    host: str,
    port: int,
    identity: IdentityFiles,
    state: Path,
    is_revoked: Callable[[int], bool],
    crl_pem: Callable[[], bytes],
    make_canary: MakeCanary,
    bounds: BrokerBounds | None = None,
    door: OperatorDoor | None = None,
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
        make_canary: makes a revoked certificate, with which lists are tried.
        bounds: what the broker takes from its clients at most; default: that of `BrokerBounds`.
        door: where connections are ended at a broker that somebody else runs, if there is one.

    Raises:
        Unavailable: ``broker.setting``, ``broker.listen``, ``broker.state`` or
            ``broker.mosquitto``: the operator must help.
    """
    bounds = bounds or BrokerBounds()
    if spec == "embedded":
        from edgectl_server.distribution.embedded import EmbeddedBroker

        return EmbeddedBroker.start(
            host=host,
            port=port,
            identity=identity,
            state=state,
            is_revoked=is_revoked,
            bounds=bounds,
        )
    if spec == "mosquitto":
        from edgectl_server.distribution.mosquitto import MosquittoBroker

        return MosquittoBroker.start(
            host=host,
            port=port,
            identity=identity,
            state=state,
            crl_pem=crl_pem,
            make_canary=make_canary,
            bounds=bounds,
        )
    named, at = address_of(spec)
    return ExistingBroker(named, at, make_canary=make_canary, door=door)


def address_of(spec: str) -> tuple[str, int]:
    """Return host and port of ``mqtts://host[:port]``; raise `Unavailable` ``broker.setting``."""
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
    return host, _DEFAULT_PORT if port is None else port
