"""Rows of deltas: what an order names of them, what they save, and whose blob is whose."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from edgectl_protocol.messages import ReportedState, SlotOrder, SlotReport
from edgectl_protocol.rests import REST_HEAD_BYTES
from edgectl_protocol.transfers import DeltaOffer, RestOffer
from edgectl_server.storage.tables import BundleVariant, Delta, ModelVersion

__all__ = [
    "READY",
    "DeltaBlob",
    "Expected",
    "deltas_of",
    "deltas_to",
    "expected_transfer",
    "find_delta_blob",
    "offers",
    "rest_offers",
    "running_in",
    "savings_to",
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


def deltas_to(
    session: Session, reported: ReportedState | None, slots: Mapping[str, SlotOrder]
) -> list[Delta]:
    """Return the rows of deltas from what a device runs to candidates of the same slot."""
    found: list[Delta] = []
    for slot, wanted in slots.items():
        running = running_in(reported, slot)
        if running is not None:
            manifests = [one.manifest for one in wanted.candidates]
            found += session.scalars(
                select(Delta).where(Delta.base_manifest == running, Delta.manifest.in_(manifests))
            )
    return found


def offers(rows: Iterable[Delta]) -> dict[str, DeltaOffer]:
    """Return the deltas by which a device can make the models of candidates, by manifest."""
    found = {}
    for row in rows:
        delta = _kept_of(row).model
        if delta is not None:
            assert row.base is not None, row.id
            assert row.target is not None, row.id
            found[row.manifest] = DeltaOffer(
                base=row.base,
                target=row.target,
                delta=delta.digest,
                size=delta.bytes,
                chunk_index=delta.chunk_index,
            )
    return found


def rest_offers(rows: Iterable[Delta]) -> dict[str, RestOffer]:
    """Return the deltas by which a device can make the rest of candidates, by manifest."""
    found = {}
    for row in rows:
        delta = _kept_of(row).rest
        if delta is not None:
            assert row.rest_target is not None, row.id
            found[row.manifest] = RestOffer(
                base=row.base_manifest,
                target=row.rest_target,
                target_bytes=row.rest_target_bytes,
                delta=delta.digest,
                size=delta.bytes,
                chunk_index=delta.chunk_index,
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
    return Expected(whole, max(0, whole - (0 if row is None else _saved(row))))


def savings_to(session: Session, version_id: int) -> dict[tuple[str, str], int]:
    """Return the bytes that deltas to a version save, by the manifest that runs and the new one."""
    rows = session.scalars(select(Delta).where(Delta.version_id == version_id))
    return {(row.base_manifest, row.manifest): _saved(row) for row in rows}


def _saved(row: Delta) -> int:
    """Return what need not be fetched: what both bundles have, and what deltas are smaller by."""
    saved, kept = row.shared_bytes, _kept_of(row)
    if kept.model is not None:
        saved += row.target_bytes - kept.model.bytes
    if kept.rest is not None:
        saved += row.rest_target_bytes - REST_HEAD_BYTES - kept.rest.bytes
    return saved


class DeltaBlob(NamedTuple):
    """A delta that is kept."""

    digest: str
    bytes: int
    chunk_index: str | None


class _Kept(NamedTuple):
    """The deltas of a row: of the model, and of the rest of the bundle; None: there is none."""

    model: DeltaBlob | None
    rest: DeltaBlob | None


def _kept_of(row: Delta) -> _Kept:
    model = rest = None
    if row.state == READY:
        assert row.digest is not None, row.id
        assert row.bytes is not None, row.id
        model = DeltaBlob(row.digest, row.bytes, row.chunk_index)
    if row.rest_digest is not None:
        assert row.rest_bytes is not None, row.id
        rest = DeltaBlob(row.rest_digest, row.rest_bytes, row.rest_chunk_index)
    return _Kept(model, rest)


def deltas_of(session: Session, version_ids: Collection[int]) -> list[DeltaBlob]:
    """Return the deltas that lead to versions, oldest first."""
    rows = session.scalars(
        select(Delta).where(Delta.version_id.in_(version_ids)).order_by(Delta.id)
    )
    return [one for row in rows for one in _kept_of(row) if one is not None]


def find_delta_blob(session: Session, model: str, digest: str) -> DeltaBlob | None:
    """Return a delta between versions of a model by its digest, or by that of its chunk index."""
    columns = (Delta.digest, Delta.chunk_index, Delta.rest_digest, Delta.rest_chunk_index)
    row = session.scalars(
        select(Delta)
        .join(ModelVersion, ModelVersion.id == Delta.version_id)
        .where(ModelVersion.model == model, or_(*(one == digest for one in columns)))
        .limit(1)
    ).first()
    kept = () if row is None else _kept_of(row)
    found = (one for one in kept if one is not None and digest in {one.digest, one.chunk_index})
    return next(found, None)
