"""Trust as operators see it: who signs what, what waits for signatures, what needs attention.

Rules: everything here reads, or takes over signatures, which are their own authority. Who may sign
is changed on the data folder alone (``edgectl keys``): an administrator's account must not be
enough to sign models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Protocol

from edgectl_protocol.metadata import BIN_NAME_PREFIX, METADATA_BYTES_MAX
from edgectl_server.alerts import Alerts
from edgectl_server.audit import describe
from edgectl_server.errors import NotFound, ServerError, TooLarge
from edgectl_server.schemas import AlertInfo, StagedInfo, SubmitResult, TrustInfo, TrustSummary
from edgectl_server.signing.repository import Repository
from edgectl_server.signing.status import Alert
from edgectl_server.version_signing import VersionSigning

__all__ = ["Trust"]


class Publishes(Protocol):
    """What is needed of the publisher."""

    def publish_metadata(self) -> object:
        """Bring the signed metadata to the broker."""


class Trust:
    """Its methods may be called from any thread."""

    def __init__(
        self,
        *,
        repository: Repository,
        publisher: Publishes,
        signing: VersionSigning,
        alerts: Alerts,
        now: Callable[[], datetime],
    ) -> None:
        self._repository = repository
        self._publisher = publisher
        self._signing = signing
        self._alerts = alerts
        self._now = now
        self._settled = False
        self._failure: ServerError | None = None
        alerts.add(self._own_alerts)

    def refresh(self) -> None:
        """Sign anew what is due, take in what others have changed. For a duty.

        Raises:
            Unavailable: ``tuf.…`` or ``keys.…``.
        """
        try:
            changed = self._repository.refresh(self._now())
        except ServerError as error:
            self._failure = error
            raise
        self._failure = None
        if changed:
            self._publisher.publish_metadata()
        # At the first turn too: something may have changed while no server ran.
        self._signing.settle(ready_too=changed or not self._settled)
        self._settled = True

    def info(self) -> TrustInfo:
        """Return everything."""
        status = self._repository.status(self._now())
        return TrustInfo.model_validate({**asdict(status), "alerts": self._alert_rows()})

    def summary(self) -> TrustSummary:
        """Return how much waits, and what needs attention."""
        staged = len(self._repository.status(self._now()).staged)
        return TrustSummary(
            staged=staged,
            alerts=[AlertInfo.model_validate(one) for one in self._alert_rows()],
        )

    def staged(self, role: str) -> bytes:
        """Return the staged document of a role; raise `NotFound` ``tuf.nothing_staged``."""
        return self._repository.staged(role)

    def published(self, role: str) -> bytes:
        """Return the published document of a role; raise `NotFound` ``tuf.unknown_role``."""
        content = self._repository.current(role)
        if content is None:
            raise NotFound(
                "tuf.unknown_role",
                f"nothing is published by a role {role[:64]}",
                hint="edgectl keys status names the roles",
            )
        return content

    def submit(self, role: str, document: bytes) -> SubmitResult:
        """Take over the signatures of a staged document; publish what is complete.

        Raises:
            NotFound: ``tuf.nothing_staged``.
            TooLarge: ``tuf.document``.
            Refused: as of `Repository.submit`.
        """
        if len(document) > METADATA_BYTES_MAX:
            raise TooLarge(
                "tuf.document",
                f"the document has {len(document)} bytes, at most {METADATA_BYTES_MAX} can be good",
            )
        outcome = self._repository.submit(role, document, self._now())
        signatures = [str(one["keyid"])[:12] for one in json.loads(document)["signatures"]]
        describe(published=[one for one in outcome.published if not _is_bin(one)], by=signatures)
        if outcome.published:
            self._publisher.publish_metadata()
            self._signing.settle(ready_too=True)
        staged = self._repository.status(self._now()).staged
        return SubmitResult(
            published=[one for one in outcome.published if not _is_bin(one)],
            staged=[StagedInfo.model_validate(asdict(one)) for one in staged],
        )

    def _alert_rows(self) -> list[dict[str, str]]:
        return [
            {"code": one.code, "severity": one.severity, "detail": one.detail, "hint": one.hint}
            for one in self._alerts.current()
        ]

    def _own_alerts(self, now: datetime) -> Iterable[Alert]:
        yield from self._repository.status(now).alerts
        if self._failure is not None:
            error = self._failure
            detail = f"the signed metadata cannot be refreshed: {error.detail}"
            yield Alert("trust.refresh", "critical", detail, error.hint)


def _is_bin(role: str) -> bool:
    return role.startswith(f"{BIN_NAME_PREFIX}-")
