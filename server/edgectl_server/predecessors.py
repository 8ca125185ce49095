"""What a version has of those before it: scales to keep, and a contract to keep."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select

from edgectl_protocol.manifest import (
    CONFIG_FILE,
    decode_config,
    decode_manifest,
    is_encrypted,
    layer_by_file,
    model_layer,
)
from edgectl_server.errors import NotFound
from edgectl_server.pipeline.spec import Replaced
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import BundleVariant, ModelVersion

__all__ = ["Parent", "parent_of", "replaced_by", "variants_of"]

logger = logging.getLogger(__name__)


class Parent(NamedTuple):
    """What a version may take over from the one before."""

    model: str | None = None
    """Digest of its int8 model."""
    recipe: str = ""
    float_nodes: tuple[str, ...] = ()


def variants_of(database: Database, version_id: int) -> Sequence[BundleVariant]:
    """Return the variants of a version, in the order in which devices try them."""
    with database.read() as session:
        return session.scalars(
            select(BundleVariant)
            .where(BundleVariant.version_id == version_id)
            .order_by(BundleVariant.rank)
        ).all()


def parent_of(database: Database, blobs: BlobStore, version: ModelVersion) -> Parent:
    """Return the int8 ONNX variant of the parent that devices try first, where it can be read."""
    with database.read() as session:
        variants = session.scalars(
            select(BundleVariant)
            .join(ModelVersion, ModelVersion.id == BundleVariant.version_id)
            .where(
                ModelVersion.model == version.model,
                ModelVersion.version == version.parent,
                BundleVariant.precision == "int8",
                BundleVariant.content_key.is_(None),
            )
            .order_by(BundleVariant.rank)
        ).all()
    chosen = next((one for one in variants if _is_onnx(one)), None)
    if chosen is None:
        return Parent()
    try:
        bundle = decode_manifest(blobs.read(chosen.manifest))
        config = decode_config(blobs.read(layer_by_file(bundle, CONFIG_FILE).digest))
        blobs.size(model_layer(bundle).digest)
    except NotFound:  # the blob store has lost it: only the update becomes larger
        return Parent()
    return Parent(
        model=model_layer(bundle).digest,
        recipe=config.quantization.recipe,
        float_nodes=config.quantization.float_nodes,
    )


def replaced_by(
    database: Database,
    blobs: BlobStore,
    version: ModelVersion,
    fetch: Callable[[str | None, str], Path | None],
    *,
    needed: bool,
) -> Replaced | None:
    """Return the version that this one replaces: its parent, or the newest that is made.

    Args:
        database: of the versions.
        blobs: of their bundles.
        version: this one.
        fetch: lays a blob into the job's folder, under a name.
        needed: whether its model is wanted as well, where it can be read.
    """
    with database.read() as session:
        made = select(ModelVersion).where(
            ModelVersion.model == version.model,
            ModelVersion.id != version.id,
            ModelVersion.state.in_(("ready", "unsigned")),
        )
        if version.parent is not None:
            made = made.where(ModelVersion.version == version.parent)
        before = session.scalars(made.order_by(ModelVersion.id.desc()).limit(1)).first()
    variants = [] if before is None else variants_of(database, before.id)
    if before is None or not variants:
        return None
    # All variants answer alike; fp32 is what the new fp32 is compared with.
    chosen = next(
        (one for one in sorted(variants, key=_is_onnx, reverse=True) if one.precision == "fp32"),
        variants[0],
    )
    try:
        manifest = decode_manifest(blobs.read(chosen.manifest))
        config = decode_config(blobs.read(layer_by_file(manifest, CONFIG_FILE).digest))
    except NotFound:
        logger.warning("the blob store has lost %s %s", before.model, before.version)
        return None
    model = None
    if needed and not is_encrypted(manifest):
        model = fetch(model_layer(manifest).digest, f"replaced.{config.format}")
    return Replaced(
        version=before.version,
        inputs=config.inputs,
        outputs=config.outputs,
        scores=config.scores,
        labels=config.labels,
        model=model,
    )


def _is_onnx(variant: BundleVariant) -> bool:
    """Say so; variants that were made before there was another runtime name none."""
    return bool(variant.trial.get("runtime", "onnxruntime") == "onnxruntime")
