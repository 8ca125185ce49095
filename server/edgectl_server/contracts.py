"""The contract of a bundle, by its manifest: inputs, outputs, class scores, names of classes.

It is in the bundle in clear, also in an encrypted one, and never changes, so that it is read once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import (
    CONFIG_FILE,
    MANIFEST_BYTES_MAX,
    BundleConfig,
    decode_config,
    decode_manifest,
    layer_by_file,
)
from edgectl_server.errors import NotFound
from edgectl_server.storage.blobs import BlobStore

__all__ = ["Contracts", "classes_of"]

_KEPT_MAX = 64
_CLASSES_MAX = 1024


class Contracts:
    """Finds contracts. Its methods may be called from any thread."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, BundleConfig] = OrderedDict()

    def find(self, manifest: str) -> BundleConfig | None:
        """Return the contract of a manifest that this server has published; None: it is gone.

        Raises:
            Unavailable: ``blobs.unavailable``.
        """
        with self._lock:
            if manifest in self._kept:
                self._kept.move_to_end(manifest)
                return self._kept[manifest]
        try:
            layers = decode_manifest(self._blobs.read(manifest, 0, MANIFEST_BYTES_MAX))
            config = decode_config(self._blobs.read(layer_by_file(layers, CONFIG_FILE).digest))
        except (ProtocolError, NotFound):
            return None
        with self._lock:
            self._kept[manifest] = config
            while len(self._kept) > _KEPT_MAX:
                self._kept.popitem(last=False)
        return config


def classes_of(config: BundleConfig) -> tuple[str, ...]:
    """Return the names of a model's classes: its labels, else numbers; none without scores."""
    if config.labels:
        return config.labels
    if config.scores is None:
        return ()
    for spec in config.outputs:
        if spec.name == config.scores.output and spec.shape and 0 < spec.shape[-1] <= _CLASSES_MAX:
            return tuple(str(number) for number in range(spec.shape[-1]))
    return ()
