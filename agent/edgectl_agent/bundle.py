"""A verified bundle on this device's disk: the paths and the decoded description.

Whoever makes a `Bundle` has already checked its files against the signed manifest. The inference
process and the trial process get it as JSON and read the files themselves.
"""

from __future__ import annotations

from msgspec import Struct

from edgectl_protocol.manifest import BundleConfig
from edgectl_protocol.names import Digest, ModelName, Variant, Version

__all__ = ["Bundle"]


class Bundle(Struct, frozen=True, kw_only=True):
    """One variant of a model version, ready to be loaded into a slot."""

    slot: ModelName
    version: Version
    variant: Variant
    manifest: Digest
    model: str
    """Path of the model file."""
    golden: str
    """Path of ``golden.npz``."""
    config: BundleConfig
