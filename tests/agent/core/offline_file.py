"""Files of exported versions, whole and spoiled, made by hand."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from agent.core.control_plane import ControlPlane
from agent.core.made import MadeBundle
from edgectl_protocol.offline import (
    INDEX_FILE,
    LAYOUT_CONTENT,
    LAYOUT_FILE,
    METADATA_FOLDER,
    OfflineIndex,
    blob_file,
    make_index_entry,
)

Entries = dict[str, bytes]


def index_of(*bundles: MadeBundle) -> bytes:
    """The index of these variants."""
    return msgspec.json.encode(
        OfflineIndex(
            schema_version=2,
            media_type="application/vnd.oci.image.index.v1+json",
            manifests=tuple(
                make_index_entry(
                    model=one.config.model,
                    version=one.config.version,
                    variant=one.config.variant,
                    digest=one.digest,
                    size=len(one.manifest),
                )
                for one in bundles
            ),
        )
    )


def entries_of(plane: ControlPlane, *bundles: MadeBundle) -> Entries:
    """What a server would write for these variants of one version."""
    entries = {LAYOUT_FILE: LAYOUT_CONTENT, INDEX_FILE: index_of(*bundles)}
    targets = [one.candidate.target for one in bundles]
    for role, version, content in plane.repository.metadata_for(targets):
        name = f"{role}.json" if version is None else f"{version}.{role}.json"
        entries[METADATA_FOLDER + name] = content
    for one in bundles:
        entries |= {blob_file(digest): content for digest, content in one.blobs.items()}
    return entries


def header(name: str, size: int, kind: bytes = b"0", link: str = "") -> bytes:
    """One header of a tar."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.USTAR_FORMAT)


def tar(entries: Entries | Iterable[tuple[str, bytes]]) -> bytes:
    """A plain tar of these entries."""
    pairs = entries.items() if isinstance(entries, dict) else entries
    parts = []
    for name, content in pairs:
        parts += [header(name, len(content)), content, bytes(-len(content) % 512)]
    return b"".join(parts) + bytes(1024)


def write(path: Path, entries: Entries) -> Path:
    """Write a file of these entries."""
    path.write_bytes(tar(entries))
    return path
