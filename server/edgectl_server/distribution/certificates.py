"""The broker's and the server's own certificates, replaced while everything runs.

The authority makes a new one a month before the old one ends. The broker shows it to whoever
connects from then on; the link connects again with it at once, so that a certificate that is
refused is seen while the old one is still good.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from edgectl_server.distribution.interface import RunningBroker
from edgectl_server.distribution.link import BrokerLink
from edgectl_server.signing.authority import Authority

__all__ = ["OwnCertificates"]

logger = logging.getLogger(__name__)


class OwnCertificates:
    """What the broker and the link were last told to use."""

    def __init__(
        self,
        *,
        authority: Authority,
        broker: RunningBroker,
        link: BrokerLink,
        broker_hosts: Sequence[str],
        now: Callable[[], datetime],
    ) -> None:
        self._authority, self._broker, self._link = authority, broker, link
        self._broker_hosts, self._now = broker_hosts, now
        self._of_broker, self._of_server = self._current()

    def renew(self) -> None:
        """Replace what ends soon; have what was replaced, by whomever, used.

        Raises:
            Unavailable: ``broker.certificate``.
        """
        of_broker, of_server = self._current()
        if of_broker != self._of_broker:
            self._broker.reload_certificate()
            self._of_broker = of_broker
            logger.info("the broker has a new certificate")
        if of_server != self._of_server:
            self._link.reload_certificate()
            self._of_server = of_server
            logger.info("the server has a new certificate for the broker")

    def _current(self) -> tuple[bytes, bytes]:
        """Return both certificates as they are now in their files."""
        now = self._now()
        broker = self._authority.broker_identity(self._broker_hosts, now)
        server = self._authority.server_identity(now)
        return broker.certificate.read_bytes(), server.certificate.read_bytes()
