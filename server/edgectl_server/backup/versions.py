"""Which versions of models need given blobs, by the tables in a backup and its manifests."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import MANIFEST_BYTES_MAX, decode_manifest
from edgectl_server.errors import ServerError
from edgectl_server.storage.blobs import BlobStore

__all__ = ["versions_with"]

# The tables may be of an older edgectl: these columns are of the first.
_SOURCES = "SELECT model, version, source, calibration, evaluation FROM model_version"
_BUNDLES = """
SELECT model, version, manifest FROM bundle_variant
JOIN model_version ON bundle_variant.version_id = model_version.id
"""


def versions_with(digests: set[str], rows: Path, store: BlobStore | None) -> list[str]:
    """Return the versions (``model version``) whose sources or bundles are among `digests`.

    Args:
        digests: ``sha256:`` and 64 digits.
        rows: the tables, as SQLite.
        store: holds what else there is; None: nothing.
    """
    found = set()
    with contextlib.closing(sqlite3.connect(f"file:{rows}?mode=ro", uri=True)) as tables:
        for model, version, *blobs in tables.execute(_SOURCES):
            if digests.intersection(blobs):
                found.add(f"{model} {version}")
        for model, version, manifest in tables.execute(_BUNDLES):
            if digests.intersection([manifest, *_layers(manifest, store)]):
                found.add(f"{model} {version}")
    return sorted(found)


def _layers(manifest: str, store: BlobStore | None) -> list[str]:
    """Return the digests of a bundle's layers; none where its manifest is itself damaged."""
    if store is None:
        return []
    try:
        found = decode_manifest(store.read(manifest, 0, MANIFEST_BYTES_MAX))
        return [one.digest for one in (found.config, *found.layers)]
    except (ServerError, ProtocolError):
        return []
