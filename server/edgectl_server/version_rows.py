"""The rows of a version: itself, and the bundles that were made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from edgectl_server.errors import NotFound
from edgectl_server.storage.tables import (
    AuditEntryRow,
    BundleVariant,
    Device,
    ModelVersion,
    ReportedSlot,
)

__all__ = [
    "ancestors_of",
    "bundles_of",
    "counter_of",
    "find_version",
    "get_version",
    "newest_manifest",
    "version_in_service",
]

ANCESTORS_MAX = 100


def find_version(session: Session, model: str, version: str) -> ModelVersion | None:
    """Return a version, or None."""
    wanted = select(ModelVersion).where(
        ModelVersion.model == model, ModelVersion.version == version
    )
    return session.scalars(wanted).one_or_none()


def get_version(session: Session, model: str, version: str) -> ModelVersion:
    """Return a version; raise `NotFound` ``version.unknown``."""
    row = find_version(session, model, version)
    if row is None:
        raise NotFound(
            "version.unknown",
            f"there is no version {version} of {model}",
            hint=f"`edgectl models show {model}` lists the versions",
        )
    return row


def bundles_of(session: Session, version_id: int) -> Sequence[BundleVariant]:
    """Return the bundles of a version, the one that devices try first at first."""
    return session.scalars(
        select(BundleVariant)
        .where(BundleVariant.version_id == version_id)
        .order_by(BundleVariant.rank, BundleVariant.variant)
    ).all()


def counter_of(session: Session, version_id: int) -> int:
    """Return the number by which microcontrollers tell a newer version from an older one.

    It is that of the row, and goes ahead with each restore, as the audit log says: of a version
    that was pushed since the backup the server has forgotten the number, and boards have not.
    """
    restores = select(AuditEntryRow.details).where(
        AuditEntryRow.action == "restore", AuditEntryRow.via == "server"
    )
    rows = (msgspec.json.decode(details) for details in session.scalars(restores))
    return version_id + sum(int(row["numbers_ahead"]) for row in rows)


def newest_manifest(session: Session, model: str) -> str | None:
    """Return the first bundle's manifest of the newest version that is ready, or None."""
    return session.scalars(
        select(BundleVariant.manifest)
        .join(ModelVersion, BundleVariant.version_id == ModelVersion.id)
        .where(ModelVersion.model == model, ModelVersion.state == "ready")
        .order_by(ModelVersion.id.desc(), BundleVariant.rank, BundleVariant.variant)
        .limit(1)
    ).first()


def version_in_service(
    session: Session, model: str, *meant: ColumnElement[bool]
) -> ModelVersion | None:
    """Return the version that most devices run; none does: the newest that is ready, or None.

    The newest may have been rolled back, or let out to nobody: what is better than that one may
    still be worse than what serves.

    Args:
        session: to read with.
        model: its name.
        meant: conditions on `Device`: those that count; none: all that are enrolled.
    """
    running = (
        select(func.count())
        .select_from(ReportedSlot)
        .join(Device, Device.id == ReportedSlot.device)
        .where(
            ReportedSlot.slot == ModelVersion.model,
            ReportedSlot.version == ModelVersion.version,
            Device.state == "enrolled",
            *meant,
        )
        .scalar_subquery()
    )
    made = select(ModelVersion).where(ModelVersion.model == model, ModelVersion.state == "ready")
    return session.scalars(made.order_by(running.desc(), ModelVersion.id.desc()).limit(1)).first()


def ancestors_of(session: Session, row: ModelVersion) -> Iterator[ModelVersion]:
    """Yield the versions that one descends from, the nearest first."""
    seen = {row.version}
    while row.parent is not None and row.parent not in seen and len(seen) <= ANCESTORS_MAX:
        seen.add(row.parent)
        found = find_version(session, row.model, row.parent)
        if found is None:
            return
        row = found
        yield row
