"""The rest of a bundle: all that a device has of it but the model, as one file for one delta.

Beside the model a version has its manifest, its description, golden data and what is watched for
drift. Most of that is as it was in the version before, so that one delta leads from the rest of one
bundle to the rest of another one::

    of the base    manifest · each layer of a device but the model, in the manifest's order
    of the target  u32, little endian, bytes of the manifest · manifest
                   · each such layer that is no layer of the base

A layer that is named twice is there once. What comes out is believed as what was fetched is: the
manifest by the digest in the signed order, each layer by its digest in the manifest.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable

from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.manifest import (
    MANIFEST_BYTES_MAX,
    MODEL_FILES,
    Descriptor,
    Manifest,
    device_layers,
)

__all__ = [
    "REST_HEAD_BYTES",
    "join_base",
    "join_target",
    "manifest_length",
    "missing_layers",
    "rest_layers",
    "target_length",
]

_HEAD = struct.Struct("<I")
REST_HEAD_BYTES = _HEAD.size
"""In front of the manifest in the rest of a target."""


def rest_layers(manifest: Manifest) -> tuple[Descriptor, ...]:
    """Return the layers of a device but the model, each content once."""
    found = {
        one.digest: one for one in device_layers(manifest) if one.file not in MODEL_FILES.values()
    }
    return tuple(found.values())


def missing_layers(manifest: Manifest, base: Manifest) -> tuple[Descriptor, ...]:
    """Return the layers that the rest of `manifest` has for a device that has `base`."""
    there = {one.digest for one in device_layers(base)}
    return tuple(one for one in rest_layers(manifest) if one.digest not in there)


def target_length(manifest_bytes: int, layers: Iterable[Descriptor]) -> int:
    """Return how long the rest of a target is.

    Args:
        manifest_bytes: of the target's manifest.
        layers: as `missing_layers` returns them.
    """
    return REST_HEAD_BYTES + manifest_bytes + sum(one.size for one in layers)


def manifest_length(head: bytes) -> int:
    """Return how long the manifest is in the rest of a target.

    Args:
        head: its first `REST_HEAD_BYTES`.

    Raises:
        MalformedMessage: too short, or longer than a manifest may be.
    """
    if len(head) < REST_HEAD_BYTES:
        raise MalformedMessage("the rest of a bundle ends before its manifest")
    (length,) = _HEAD.unpack_from(head)
    if length > MANIFEST_BYTES_MAX:
        raise MalformedMessage(f"a manifest of {length} bytes, at most {MANIFEST_BYTES_MAX}")
    return int(length)


def join_base(manifest: bytes, layers: Collection[bytes]) -> bytes:
    """Return the rest of a base; `layers` are the contents of `rest_layers`, in order."""
    return b"".join((manifest, *layers))


def join_target(manifest: bytes, layers: Collection[bytes]) -> bytes:
    """Return the rest of a target; `layers` are the contents of `missing_layers`, in order."""
    return b"".join((_HEAD.pack(len(manifest)), manifest, *layers))
