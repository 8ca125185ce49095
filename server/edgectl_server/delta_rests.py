"""The rest of two bundles (`edgectl_protocol.rests`) as two files, for a delta between them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from edgectl_protocol.manifest import decode_manifest
from edgectl_protocol.names import digest_of
from edgectl_protocol.rests import (
    join_base,
    join_target,
    missing_layers,
    rest_layers,
    target_length,
)
from edgectl_protocol.transfers import REST_BYTES_MAX
from edgectl_server.storage.blobs import BlobStore

__all__ = ["RestTarget", "write_rests"]


class RestTarget(NamedTuple):
    """What a delta of the rest makes."""

    digest: str
    bytes: int


def write_rests(
    blobs: BlobStore, base_manifest: str, manifest: str, *, base: Path, target: Path
) -> RestTarget | None:
    """Write the rest of two bundles into files; return what is to be made, None if it is too long.

    Args:
        blobs: holds both bundles.
        base_manifest: of the bundle that devices have.
        manifest: of the one that they get.
        base: the file of the first.
        target: the file of the second.

    Raises:
        NotFound: ``blobs.unknown``: a layer is not there.
        ProtocolError: one of them is outside of the contract.
        OSError: the disk.
    """
    before, after = blobs.read(base_manifest), blobs.read(manifest)
    bundle_before, bundle_after = decode_manifest(before), decode_manifest(after)
    there, layers = rest_layers(bundle_before), missing_layers(bundle_after, bundle_before)
    length = target_length(len(after), layers)
    if max(length, sum(one.size for one in there)) > REST_BYTES_MAX:
        return None
    base.write_bytes(join_base(before, [blobs.read(one.digest) for one in there]))
    content = join_target(after, [blobs.read(one.digest) for one in layers])
    target.write_bytes(content)
    return RestTarget(digest_of(content), len(content))
