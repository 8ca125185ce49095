"""A broker that somebody else runs: nothing is started, and its settings are theirs.

It fetches the revocation list by itself (``edgectl server revocations``), so that a revoked device
may come back until then. Therefore whoever was shut out is ended again and again until the newest
canary is refused, and once more after that. If that takes longer than a minute, it is a fault that
the operator is told of.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from edgectl_server.clock import now
from edgectl_server.distribution.canary import Canary, MakeCanary
from edgectl_server.distribution.door import DoorIdentity
from edgectl_server.distribution.takeover import take_over
from edgectl_server.errors import Unavailable

__all__ = ["ExistingBroker", "OperatorDoor"]

_logger = logging.getLogger(__name__)

_LIST_DUE_S = 60.0
_CHECK_S = 600.0
_PAUSE_S = 30.0


@dataclass(frozen=True)
class OperatorDoor:
    """The second listener, on which connections are ended."""

    port: int
    identity: DoorIdentity


class ExistingBroker:
    """A `RunningBroker` that somebody else runs."""

    alive = True

    def __init__(
        self, host: str, port: int, *, make_canary: MakeCanary, door: OperatorDoor | None = None
    ) -> None:
        self.host = host
        self.port = port
        self._make_canary = make_canary
        self._door = door
        self._door_context = None if door is None else _door_context(door.identity)
        self._lock = threading.Lock()
        self._canary: Canary | None = None
        self._asked_since = 0.0
        self._shut_out: set[str] = set()
        self._check_due = 0.0
        self._problem = ""

    def stop(self) -> None:
        """Nothing was started."""

    def kick(self, name: str) -> bool:
        """End the connection of `name`, now and until the broker refuses it."""
        if self._door is None:
            _logger.error(
                "%s may stay connected to %s until that broker ends the connection: restart it, or "
                "set broker_kick_port",
                name,
                self.host,
            )
            return False
        self.shut_out([name])
        return self._end(name)

    def shut_out(self, names: Iterable[str]) -> None:
        """End these connections at the next checks; for those that were revoked before a start."""
        if self._door is not None:
            with self._lock:
                self._shut_out.update(names)
                self._check_due = 0.0

    @property
    def revocation_problem(self) -> str:
        """Why revoked certificates may be let in; empty when they are not, as far as we know."""
        return self._problem

    def reload_revocations(self) -> bool:
        """That broker fetches its list by itself: begin to look whether it has."""
        canary = self._make_canary()
        with self._lock:
            self._canary, self._asked_since = canary, time.monotonic()
            self._check_due = 0.0
        return False

    def check_revocations(self) -> None:
        """See whether the broker follows the newest list; end again who may have come back.

        Raises:
            Unavailable: ``broker.revocations``: it has not followed it for a minute.
        """
        if self._canary is None or self._canary.expires_at <= now():
            self.reload_revocations()
        with self._lock:
            canary, since, names = self._canary, self._asked_since, sorted(self._shut_out)
        if canary is None or time.monotonic() < self._check_due:
            return
        verdict = canary.ask(self.host, self.port)
        ended = verdict != "unknown" and all(self._end(name) for name in names)
        if verdict == "refused" and ended:
            self._settled(canary, names)
            return
        if verdict == "unknown" or not ended:  # what does not answer costs the caller seconds
            self._check_due = time.monotonic() + _PAUSE_S
        if time.monotonic() - since > _LIST_DUE_S and verdict != "unknown":
            raise self._fault(
                f"{self.host} does not follow the newest revocation list"
                if verdict == "accepted"
                else f"connections of revoked devices cannot be ended at {self.host}"
            )

    def _fault(self, problem: str) -> Unavailable:
        self._problem = problem
        return Unavailable(
            "broker.revocations",
            problem,
            hint="see on that machine why `edgectl server revocations` does not run every minute, "
            "why the broker does not read its list again, or does not listen on broker_kick_port",
        )

    def reload_certificate(self) -> None:
        """That broker's certificate is not ours to replace."""

    def _settled(self, canary: Canary, names: list[str]) -> None:
        with self._lock:
            if self._canary is canary:  # no newer list has been asked for meanwhile
                self._shut_out.difference_update(names)
                self._check_due = time.monotonic() + _CHECK_S
                self._problem = ""

    def _end(self, name: str) -> bool:
        if self._door is None:
            return False
        return take_over(name, (self.host, self._door.port), self._door_context)


def _door_context(identity: DoorIdentity) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(identity.authority))
    context.load_cert_chain(identity.certificate, identity.key)
    return context
