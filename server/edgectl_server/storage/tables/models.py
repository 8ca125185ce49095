"""Models, their versions and variants, the blobs and the jobs that make them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ForeignKey,
    Index,
    LargeBinary,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from edgectl_server.storage.tables.base import Base, Document

__all__ = [
    "Blob",
    "BundleVariant",
    "Delta",
    "Job",
    "KnownTrial",
    "Model",
    "ModelPolicyRow",
    "ModelVersion",
    "Origin",
    "Worker",
]


class Blob(Base):
    """Content that the blob store holds whole and checked."""

    __tablename__ = "blob"
    digest: Mapped[str] = mapped_column(String(71), primary_key=True)
    size: Mapped[int]
    created_at: Mapped[datetime]
    published: Mapped[bool] = mapped_column(default=False)  # part of a bundle, for ever


class Worker(Base):
    """A machine that makes trials for the server, and trains."""

    __tablename__ = "worker"
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    seen_at: Mapped[datetime]
    trainers: Mapped[list[Any] | None]  # their names; None: an older edgectl, which does not say


class KnownTrial(Base):
    """What a trial of the pipeline has given, so that it need not be made again."""

    __tablename__ = "known_trial"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)  # pipeline.known.trial_key
    recipe: Mapped[str] = mapped_column(String(128), primary_key=True)
    measured: Mapped[Document]
    model: Mapped[str | None] = mapped_column(String(71), index=True)  # a blob
    size: Mapped[int]
    used_at: Mapped[datetime] = mapped_column(index=True)


class Model(Base):
    """A model by name; its versions are `ModelVersion`."""

    __tablename__ = "model"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))


class ModelPolicyRow(Base):
    """What every push of a model must keep; by name, so that it may be there before the model."""

    __tablename__ = "model_policy"
    model: Mapped[str] = mapped_column(String(64), primary_key=True)
    document: Mapped[Document]
    revision: Mapped[int]  # grows with each change
    changed_at: Mapped[datetime]
    changed_by: Mapped[str] = mapped_column(String(128))


class ModelVersion(Base):
    """One pushed version; immutable but for its state, report and job."""

    __tablename__ = "model_version"
    __table_args__ = (UniqueConstraint("model", "version"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(ForeignKey("model.name"))
    version: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))  # processing, unsigned, ready, refused, failed
    content: Mapped[str] = mapped_column(String(71))  # digest over source, data and options
    source: Mapped[str] = mapped_column(String(71))
    source_size: Mapped[int]
    source_name: Mapped[str] = mapped_column(String(256))
    calibration: Mapped[str | None] = mapped_column(String(71))
    evaluation: Mapped[str | None] = mapped_column(String(71))
    own_metric: Mapped[str | None] = mapped_column(String(71))  # a metric.py
    options: Mapped[Document]
    encrypted: Mapped[bool] = mapped_column(default=False)  # in all its variants
    report: Mapped[Document | None]
    parent: Mapped[str | None] = mapped_column(String(64))
    job: Mapped[str | None] = mapped_column(String(32))
    problem: Mapped[Document | None]  # why it has failed though its job has not
    imported: Mapped[Document | None]  # where it came from as a file: schemas.ImportedInfo
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))


class Origin(Base):
    """Another server whose exported versions are imported; signed metadata exactly as believed."""

    __tablename__ = "origin"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    pinned: Mapped[str] = mapped_column(String(71))  # digest of the root that was named first
    root: Mapped[bytes] = mapped_column(LargeBinary)  # the newest one
    timestamp: Mapped[bytes] = mapped_column(LargeBinary)
    snapshot: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))
    imported_at: Mapped[datetime]  # the newest time


class BundleVariant(Base):
    """A published bundle of a version."""

    __tablename__ = "bundle_variant"
    __table_args__ = (UniqueConstraint("version_id", "variant"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    variant: Mapped[str] = mapped_column(String(64))
    precision: Mapped[str] = mapped_column(String(8))
    target: Mapped[str] = mapped_column(String(256))  # path in the TUF targets
    manifest: Mapped[str] = mapped_column(String(71))
    manifest_size: Mapped[int]
    bundle_bytes: Mapped[int]  # what a device fetches: manifest and layers, without documents
    model_bytes: Mapped[int]
    rank: Mapped[int]  # 0 is tried first
    trial: Mapped[Document]  # the pipeline's row for it: accuracy, latency, recipe
    content_key: Mapped[str | None] = mapped_column(
        String(128)
    )  # of an encrypted bundle, sealed to the server's key


class Delta(Base):
    """How a bundle is made from another one, model and rest, or why that is not done."""

    __tablename__ = "delta"
    __table_args__ = (
        UniqueConstraint("base_manifest", "manifest"),
        Index("ix_delta_version_id", "version_id", "state"),
    )
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))  # that it leads to
    variant: Mapped[str] = mapped_column(String(64))  # of both
    base_version: Mapped[str] = mapped_column(String(64))
    base_manifest: Mapped[str] = mapped_column(String(71))
    manifest: Mapped[str] = mapped_column(String(71))
    state: Mapped[str] = mapped_column(String(16))  # waiting, ready, same, useless, failed
    base: Mapped[str | None] = mapped_column(String(71))  # the model files; None while it waits
    target: Mapped[str | None] = mapped_column(String(71))
    target_bytes: Mapped[int] = mapped_column(default=0)
    shared_bytes: Mapped[int] = mapped_column(default=0)  # of layers that both bundles have
    digest: Mapped[str | None] = mapped_column(String(71), index=True)  # of the delta, a blob
    bytes: Mapped[int | None]
    chunk_index: Mapped[str | None] = mapped_column(String(71), index=True)
    codec: Mapped[str | None] = mapped_column(String(16))  # whole, patch, tensor
    # The same of the rest of the bundle, whatever became of the model; None: there is no delta.
    rest_target: Mapped[str | None] = mapped_column(String(71))  # the file that it makes
    rest_target_bytes: Mapped[int] = mapped_column(default=0)
    rest_digest: Mapped[str | None] = mapped_column(String(71), index=True)
    rest_bytes: Mapped[int | None]
    rest_chunk_index: Mapped[str | None] = mapped_column(String(71), index=True)
    reason: Mapped[Document | None]
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class Job(Base):
    """Long work; the row is the truth, whoever does it."""

    __tablename__ = "job"
    __table_args__ = (Index("ix_job_state", "state", "created_at"),)
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16))  # queued, running, succeeded, failed, cancelled
    payload: Mapped[Document]
    progress: Mapped[Document]
    result: Mapped[Document | None]
    error: Mapped[Document | None]  # code, detail, data
    fence: Mapped[int]  # grows with every claim; a late worker's write is refused by it
    attempts: Mapped[int]
    worker: Mapped[str | None] = mapped_column(String(128))  # who holds it, or held it last
    lease_until: Mapped[datetime | None]
    cancel_requested: Mapped[bool]
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
