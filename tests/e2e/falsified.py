"""A version whose bundle promises what its model does not do, packed and signed by the real code.

Written into the data folder of a server that does not run, as a pipeline that went wrong would.
"""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import numpy as np
from sqlalchemy import inspect, select
from sqlalchemy.orm import Session

from edgectl_protocol.manifest import (
    CONFIG_FILE,
    GOLDEN_FILE,
    LAYER_CONFIG,
    LAYER_DATASET,
    decode_config,
    decode_manifest,
    layer_by_file,
)
from edgectl_protocol.metadata import target_path
from edgectl_protocol.names import digest_of
from edgectl_server.clock import now
from edgectl_server.pipeline.pack import _bytes_layer
from edgectl_server.pipeline.spec import encode
from edgectl_server.settings import Settings
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Repository, Target
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Base, Blob, BundleVariant, ModelVersion


def add_falsified_version(
    data: Path, model: str, source: str, version: str, *, falsified: str
) -> dict[str, str]:
    """Copy a version; the golden outputs of one variant are turned upside down.

    Args:
        data: the server's data folder.
        model: the model.
        source: the version that is copied.
        version: the new one.
        falsified: the variant that lies; it is made the first to be tried.

    Returns:
        The manifest of each variant.
    """
    settings = Settings(data=str(data))
    database = Database(settings.database_address)
    blobs = BlobStore(settings.blobs_address)
    repository = Repository.open(data / "tuf", Keys.open(data / "keys"), now())
    manifests: dict[str, str] = {}
    targets = []
    with database.write() as session:
        wanted = (ModelVersion.model == model, ModelVersion.version == source)
        row = session.scalars(select(ModelVersion).where(*wanted)).one()
        content = digest_of(f"{model} {version}".encode())
        copy = _copy(row, id=None, version=version, content=content, job=None)
        session.add(copy)
        session.flush()
        variants = select(BundleVariant).where(BundleVariant.version_id == row.id)
        for one in session.scalars(variants).all():
            lies = one.variant == falsified
            manifest = _repack(session, blobs, one.manifest, version, lies=lies)
            manifests[one.variant] = digest_of(manifest)
            path = target_path(model, version, one.variant)
            targets.append(Target(path, manifests[one.variant], len(manifest)))
            session.add(
                _copy(
                    one,
                    id=None,
                    version_id=copy.id,
                    target=path,
                    manifest=manifests[one.variant],
                    manifest_size=len(manifest),
                    trial={**one.trial, "latency_p50_us": 1.0 if lies else 100.0},
                )
            )
    repository.add_targets(targets, now())
    database.close()
    return manifests


def _repack(session: Session, blobs: BlobStore, digest: str, version: str, *, lies: bool) -> bytes:
    """Store the manifest of a bundle anew, as another version; return it."""
    manifest = decode_manifest(blobs.read(digest))
    config = decode_config(blobs.read(layer_by_file(manifest, CONFIG_FILE).digest))
    changed = {
        CONFIG_FILE: (encode(msgspec.structs.replace(config, version=version)), LAYER_CONFIG)
    }
    if lies:
        golden = blobs.read(layer_by_file(manifest, GOLDEN_FILE).digest)
        changed[GOLDEN_FILE] = (_upside_down(golden), LAYER_DATASET)
    layers = tuple(
        _bytes_layer(blobs, changed[layer.file][0], layer.file, changed[layer.file][1])
        if layer.file in changed
        else layer
        for layer in manifest.layers
    )
    content = encode(msgspec.structs.replace(manifest, layers=layers))
    blobs.add_bytes(content)
    for stored, size in ((digest_of(content), len(content)), *((x.digest, x.size) for x in layers)):
        session.merge(Blob(digest=stored, size=size, created_at=now()))
    return content


def _upside_down(golden: bytes) -> bytes:
    with np.load(io.BytesIO(golden)) as arrays:
        changed = {
            name: -array if name.startswith("output.") else array for name, array in arrays.items()
        }
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **changed)
    return file.getvalue()


def _copy(row: Base, **changes: object) -> Base:
    values = {column.key: getattr(row, column.key) for column in inspect(type(row)).column_attrs}
    return type(row)(**{**values, **changes})
