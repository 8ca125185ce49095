"""A version as one file: what `edgectl export` writes and `edgectl-agent install` reads.

A plain tar (POSIX ustar, not compressed) that is an OCI image layout (image specification 1.1,
image-layout.md), so that other tools read it too, with the signed metadata beside it::

    oci-layout                      {"imageLayoutVersion": "1.0.0"}
    index.json                      `OfflineIndex`: the manifest of each variant, best first
    edgectl/metadata/<file>         as a TUF client asks for them: 1.root.json … timestamp.json
    blobs/sha256/<hex>              manifests, then layers

Nothing in it is believed because it is there: a manifest counts when the metadata has signed for
it, and a layer when the manifest names its digest.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from edgectl_protocol.errors import InvalidName, LimitExceeded, MalformedMessage
from edgectl_protocol.manifest import ARTIFACT_TYPE, LAYERS_MAX, MANIFEST_BYTES_MAX
from edgectl_protocol.messages import CANDIDATES_MAX, Candidate
from edgectl_protocol.metadata import parse_metadata_file, target_path
from edgectl_protocol.names import Digest, hex_of

__all__ = [
    "ENTRIES_MAX",
    "INDEX_BYTES_MAX",
    "INDEX_FILE",
    "LAYOUT_CONTENT",
    "LAYOUT_FILE",
    "METADATA_FILES_MAX",
    "METADATA_FOLDER",
    "OFFLINE_MEDIA_TYPE",
    "IndexEntry",
    "OfflineIndex",
    "blob_file",
    "candidates_of",
    "check_entry",
    "decode_index",
    "make_index_entry",
]

OFFLINE_MEDIA_TYPE = "application/x-tar"
LAYOUT_FILE = "oci-layout"
LAYOUT_CONTENT = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()
INDEX_FILE = "index.json"
INDEX_BYTES_MAX = 64 * 1024
METADATA_FOLDER = "edgectl/metadata/"
METADATA_FILES_MAX = 320
"""256 roots, 33 roles of targets, and the rest."""
ENTRIES_MAX = 3 + METADATA_FILES_MAX + CANDIDATES_MAX * (LAYERS_MAX + 2)
TARGET_ANNOTATION = "io.edgectl.target"
NAME_ANNOTATION = "org.opencontainers.image.ref.name"
_BLOB = re.compile(r"blobs/sha256/[0-9a-f]{64}")
_TARGET = re.compile(r"models/([^/]{1,64})/([^/]{1,64})/([^/]{1,64})")


class IndexEntry(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One variant: the descriptor of its manifest (OCI descriptor.md)."""

    media_type: Literal["application/vnd.oci.image.manifest.v1+json"]
    digest: Digest
    size: Annotated[int, Meta(ge=1, le=MANIFEST_BYTES_MAX)]
    artifact_type: str = ""
    annotations: dict[str, str] = {}


class OfflineIndex(Struct, frozen=True, kw_only=True, rename="camel"):
    """``index.json`` (OCI image-index.md)."""

    schema_version: Literal[2]
    media_type: Literal["application/vnd.oci.image.index.v1+json"]
    manifests: Annotated[tuple[IndexEntry, ...], Meta(min_length=1, max_length=CANDIDATES_MAX)]


def make_index_entry(
    *, model: str, version: str, variant: str, digest: str, size: int
) -> IndexEntry:
    """Return the entry of a variant."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"{model}-{version}-{variant}").strip("-")
    return IndexEntry(
        media_type="application/vnd.oci.image.manifest.v1+json",
        digest=digest,
        size=size,
        artifact_type=ARTIFACT_TYPE,
        annotations={
            TARGET_ANNOTATION: target_path(model, version, variant),
            NAME_ANNOTATION: name,
        },
    )


def decode_index(content: bytes) -> OfflineIndex:
    """Decode ``index.json``; raise `LimitExceeded` or `MalformedMessage`."""
    if len(content) > INDEX_BYTES_MAX:
        raise LimitExceeded(f"index.json of {len(content)} bytes, at most {INDEX_BYTES_MAX}")
    try:
        return msgspec.json.decode(content, type=OfflineIndex)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("not the index of an exported version") from error


def candidates_of(index: OfflineIndex) -> tuple[str, str, tuple[Candidate, ...]]:
    """Return model, version and the variants of an index, best first.

    Raises:
        MalformedMessage: they are not variants of one version, or one is there twice.
    """
    found = []
    whose = set()
    for entry in index.manifests:
        target = entry.annotations.get(TARGET_ANNOTATION, "")
        match = _TARGET.fullmatch(target)
        try:
            if match is None or target_path(*match.groups()) != target:
                raise MalformedMessage(f"{target[:80]!r} is not the target of a bundle")
        except InvalidName as error:
            raise MalformedMessage(f"{target[:80]!r} is not the target of a bundle") from error
        model, version, variant = match.groups()
        whose.add((model, version))
        found.append(Candidate(variant=variant, target=target, manifest=entry.digest))
    if len(whose) != 1 or len({one.variant for one in found}) != len(found):
        raise MalformedMessage("the index is not of the variants of one version")
    ((model, version),) = whose
    return model, version, tuple(found)


def blob_file(digest: str) -> str:
    """Return the name of a blob's entry."""
    return f"blobs/sha256/{hex_of(digest)}"


def check_entry(name: str) -> str:
    """Return the name of an entry if there may be one; raise `MalformedMessage` otherwise."""
    if name in {LAYOUT_FILE, INDEX_FILE} or _BLOB.fullmatch(name):
        return name
    if name.startswith(METADATA_FOLDER):
        parse_metadata_file(name.removeprefix(METADATA_FOLDER))
        return name
    raise MalformedMessage(f"{name[:80]!r} is no file of an exported version")
