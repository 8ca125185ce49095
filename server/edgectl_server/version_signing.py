"""Versions and their signatures: which of them may be installed, as the signed metadata says.

::

    unsigned ──► ready
        └──► failed ◄┘

Rules: the metadata is the truth, and the rows follow it; whoever changes the metadata calls
`VersionSigning.settle` afterwards, and so does a duty, so that a signature that came by another way
counts too. A version is ready when every bundle of it is signed. It waits while those that are not
are in a staged document. What nobody has been asked to sign can never become ready: it has failed,
and pushing the same again asks anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from sqlalchemy import select

from edgectl_protocol.names import hex_of
from edgectl_server.audit import note
from edgectl_server.errors import Conflict, ServerError
from edgectl_server.schemas import SignatureWait
from edgectl_server.signing.repository import Repository
from edgectl_server.signing.status import StagedStatus
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import BundleVariant, ModelVersion

__all__ = ["Settled", "VersionSigning"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """What the metadata says of a version."""

    state: str
    """``ready``, ``unsigned`` or ``failed``."""
    role: str = ""
    """Of ``unsigned``: who must sign."""


class VersionSigning:
    """Keeps the states of versions true. Its methods may be called from any thread."""

    def __init__(
        self, database: Database, repository: Repository, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._repository = repository
        self._now = now

    def state_of(self, variants: Iterable[BundleVariant]) -> Settled:
        """Return the state of a version by its bundles."""
        waits = ""
        for one in variants:
            signed = self._repository.find(one.target)
            if signed is not None and signed.hashes.get("sha256") == hex_of(one.manifest):
                continue
            role = self._repository.awaits(one.target)
            if role is None:
                return Settled("failed")
            waits = role
        return Settled("unsigned", waits) if waits else Settled("ready")

    def settle(self, *, ready_too: bool = False) -> int:
        """Bring the states of versions up to date; return how many have changed.

        Args:
            ready_too: also of those that are ready; after a change of who signs for what.
        """
        states = ["unsigned", "ready"] if ready_too else ["unsigned"]
        with self._database.read() as session:
            rows = session.execute(
                select(BundleVariant, ModelVersion.state)
                .join(ModelVersion, ModelVersion.id == BundleVariant.version_id)
                .where(ModelVersion.state.in_(states))
                .order_by(BundleVariant.version_id)
            ).all()
        changed = 0
        for version, group in groupby(rows, lambda row: row[0].version_id):
            variants = list(group)
            settled = self.state_of(one for one, _ in variants)
            if settled.state != variants[0][1]:
                changed += self._store(version, states, settled)
        return changed

    def waits_for(self) -> Callable[[str], SignatureWait | None]:
        """Return what says whose signatures the bundle at a path waits for; for one request."""
        staged: dict[str, StagedStatus] = {}

        def look(path: str) -> SignatureWait | None:
            role = self._repository.awaits(path)
            if role is None:
                return None
            if not staged:
                staged.update(
                    {one.role: one for one in self._repository.status(self._now()).staged}
                )
            one = staged.get(role)
            if one is None:  # signed at this very moment
                return None
            return SignatureWait(
                role=role, version=one.version, missing=one.missing, threshold=one.threshold
            )

        return look

    def _store(self, version: int, states: Sequence[str], settled: Settled) -> bool:
        with self._database.write() as session:
            row = session.get_one(ModelVersion, version, with_for_update=True)
            if row.state not in states or row.state == settled.state:
                return False
            row.state = settled.state
            row.problem = None if settled.state != "failed" else _not_signed(row).document()
            name = f"{row.model}@{row.version}"
            note(session, "settle_version", name, {"state": settled.state})
        logger.info("%s is %s", name, settled.state)
        return True


def _not_signed(row: ModelVersion) -> ServerError:
    return Conflict(
        "version.not_signed",
        f"nobody signs for {row.model}@{row.version} any more: the model family that should have "
        "was changed or dissolved",
        hint="push the same files again: whoever signs for this model now is asked to",
    )
