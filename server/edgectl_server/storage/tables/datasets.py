"""Datasets, and which blobs they hold."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from edgectl_server.storage.tables.base import Base, Document

__all__ = ["DatasetBlobRow", "DatasetRow"]


class DatasetRow(Base):
    """A dataset; never changed, only deleted."""

    __tablename__ = "dataset"
    __table_args__ = (Index("ix_dataset_model", "model", "created_at"),)
    id: Mapped[str] = mapped_column(String(71), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    model: Mapped[str] = mapped_column(String(64))
    parent: Mapped[str | None] = mapped_column(String(71))  # it may have been deleted since
    document: Mapped[Document]  # dataset.json
    rows: Mapped[int]
    bytes: Mapped[int]  # of its blobs
    rows_blob: Mapped[str] = mapped_column(String(71))  # rows.parquet
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))


class DatasetBlobRow(Base):
    """A blob that stays for as long as its dataset does."""

    __tablename__ = "dataset_blob"
    __table_args__ = (Index("ix_dataset_blob_digest", "digest"),)
    dataset: Mapped[str] = mapped_column(
        ForeignKey("dataset.id", ondelete="CASCADE"), primary_key=True
    )
    digest: Mapped[str] = mapped_column(String(71), primary_key=True)
    length: Mapped[int]
