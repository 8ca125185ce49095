"""Rows of deltas: what an order names of them, what they save, and whose blob is whose."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from edgectl_protocol.messages import ReportedState, SlotOrder, SlotReport
from edgectl_protocol.transfers import DeltaOffer
from edgectl_server.storage.tables import BundleVariant, Delta, ModelVersion

__all__ = [
    "READY",
    "Expected",
    "deltas_of",
    "expected_transfer",
    "find_delta_blob",
    "offers",
    "running_in",
]

READY = "ready"


class Expected(NamedTuple):
    """What a bundle costs the link of a device that runs another one."""

    whole_bytes: int
    predicted_bytes: int


def running_in(reported: ReportedState | None, slot: str) -> str | None:
    """Return the manifest of what a device runs in a slot."""
    running = None if reported is None else reported.slots.get(slot, SlotReport()).running
    return None if running is None else running.manifest


def offers(
    session: Session, reported: ReportedState | None, slots: Mapping[str, SlotOrder]
) -> dict[str, DeltaOffer]:
    """Return the deltas by which a device can make candidates from what it runs, by manifest."""
    found: dict[str, DeltaOffer] = {}
    for slot, wanted in slots.items():
        running = running_in(reported, slot)
        if running is not None:
            found |= _offers(session, running, [one.manifest for one in wanted.candidates])
    return found


def _offers(session: Session, running: str, manifests: Sequence[str]) -> dict[str, DeltaOffer]:
    rows = session.scalars(
        select(Delta).where(
            Delta.base_manifest == running, Delta.manifest.in_(manifests), Delta.state == READY
        )
    )
    found = {}
    for row in rows:
        assert row.base is not None, row.id
        assert row.target is not None, row.id
        assert row.digest is not None, row.id
        assert row.bytes is not None, row.id
        found[row.manifest] = DeltaOffer(
            base=row.base,
            target=row.target,
            delta=row.digest,
            size=row.bytes,
            chunk_index=row.chunk_index,
        )
    return found


def expected_transfer(session: Session, running: str | None, manifest: str) -> Expected | None:
    """Return what a bundle is expected to cost a device that runs `running`."""
    whole = session.scalar(
        select(BundleVariant.bundle_bytes).where(BundleVariant.manifest == manifest)
    )
    if whole is None:
        return None
    row = session.scalars(
        select(Delta).where(Delta.base_manifest == running, Delta.manifest == manifest)
    ).one_or_none()
    if row is None:
        return Expected(whole, whole)
    saved = row.shared_bytes
    if row.state == READY:
        assert row.bytes is not None, row.id
        saved += row.target_bytes - row.bytes
    return Expected(whole, max(0, whole - saved))


def deltas_of(session: Session, version_ids: Collection[int]) -> Sequence[Delta]:
    """Return the deltas that lead to versions and are ready, oldest first."""
    return session.scalars(
        select(Delta)
        .where(Delta.version_id.in_(version_ids), Delta.state == READY)
        .order_by(Delta.id)
    ).all()


def find_delta_blob(session: Session, model: str, digest: str) -> Delta | None:
    """Return a delta between versions of a model by its digest, or by that of its chunk index."""
    return session.scalars(
        select(Delta)
        .join(ModelVersion, ModelVersion.id == Delta.version_id)
        .where(
            ModelVersion.model == model,
            Delta.state == READY,
            or_(Delta.digest == digest, Delta.chunk_index == digest),
        )
        .limit(1)
    ).first()
