"""The reference of a bundle, by the bundle's manifest: what counts are checked and judged by.

A reference is believed because its digest is in the manifest, and the manifest is one that this
server has published. It never changes, so that it is read once.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import (
    CONFIG_FILE,
    MANIFEST_BYTES_MAX,
    decode_config,
    decode_manifest,
    layer_by_file,
)
from edgectl_protocol.watching import (
    REFERENCE_BYTES_MAX,
    REFERENCE_FILE,
    WATCHED_FILE,
    Reference,
    decode_reference,
)
from edgectl_server.errors import NotFound
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.tables import BundleVariant, ModelVersion

__all__ = ["Known", "References"]

logger = logging.getLogger(__name__)

_KEPT_MAX = 64


@dataclass(frozen=True)
class Known:
    """A published bundle with a reference.

    Attributes:
        model: its name.
        version: its version.
        variant: its variant.
        digest: of the reference's file.
        watched: of what devices may count by in its place; empty where there is no such file.
        reference: what is in it.
        labels: names of the classes, or none.
    """

    model: str
    version: str
    variant: str
    digest: str
    reference: Reference
    labels: tuple[str, ...] = ()
    watched: str = ""


class References:
    """Finds references. Its methods may be called from any thread."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Known | None] = OrderedDict()

    def find(self, session: Session, manifest: str) -> Known | None:
        """Return what is known of a manifest; None where it is not ours or has no reference.

        Raises:
            Unavailable: ``blobs.unavailable``.
        """
        with self._lock:
            if manifest in self._kept:
                self._kept.move_to_end(manifest)
                return self._kept[manifest]
        wanted = (
            select(ModelVersion.model, ModelVersion.version, BundleVariant.variant)
            .join(ModelVersion, BundleVariant.version_id == ModelVersion.id)
            .where(BundleVariant.manifest == manifest)
        )
        row = session.execute(wanted).first()
        if row is None:
            return None  # not kept: it may be published in a moment
        known = self._read(manifest, *row)
        with self._lock:
            self._kept[manifest] = known
            while len(self._kept) > _KEPT_MAX:
                self._kept.popitem(last=False)
        return known

    def _read(self, manifest: str, model: str, version: str, variant: str) -> Known | None:
        try:
            content = self._blobs.read(manifest, 0, MANIFEST_BYTES_MAX)
            layers = decode_manifest(content)
            layer = layer_by_file(layers, REFERENCE_FILE)
            if layer.size > REFERENCE_BYTES_MAX:
                return None
            reference = decode_reference(self._blobs.read(layer.digest))
            config = decode_config(self._blobs.read(layer_by_file(layers, CONFIG_FILE).digest))
        except (ProtocolError, NotFound) as error:
            logger.info("%s %s %s is not watched for drift: %s", model, version, variant, error)
            return None
        watched = next((one.digest for one in layers.layers if one.file == WATCHED_FILE), "")
        return Known(model, version, variant, layer.digest, reference, config.labels, watched)
