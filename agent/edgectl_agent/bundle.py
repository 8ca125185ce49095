"""A verified bundle on this device's disk: the paths and the decoded description.

Whoever makes a `Bundle` has already checked its files against the signed manifest. The inference
process and the trial process get it as JSON, over a pipe, and read the files themselves. The files
of an encrypted one are ciphertext; its key is in memory only, and is shown nowhere.
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
    reference: str = ""
    """Path of ``reference.json``; empty where the bundle has none, or `watched` has it all."""
    watched: str = ""
    """Path of ``watched.json``; empty where the bundle has none."""
    key: bytearray | None = None
    """Content key of an encrypted bundle; None for a plain one."""
    threads: int = 0
    """Threads within one operator, as its trial has found best; 0: by the model's size."""
    provider: str = ""
    """Execution provider or delegate, as its trial has chosen; empty: the runtime's usual one."""

    def forget_key(self) -> None:
        """Overwrite the content key, once nobody needs it any more."""
        if self.key is not None:
            self.key[:] = bytes(len(self.key))

    def __repr__(self) -> str:
        return f"Bundle({self.slot} {self.version} {self.variant} {self.manifest})"
