"""What refers to a bundle in a registry: its documents, each as an artifact of its own.

OCI distribution specification 1.1, "Listing Referrers", and image specification 1.1, "Guidelines
for Artifact Usage": an artifact is a manifest whose subject is the bundle's, with the document as
its only layer. The document is the layer that the signed manifest names, so that nothing is made
up: bytes of artifacts follow from the manifest alone, and are the same on server and mirrors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from edgectl_protocol.manifest import (
    CARD_FILE,
    MANIFEST_MEDIA_TYPE,
    SBOM_FILE,
    TITLE_ANNOTATION,
    Descriptor,
    Manifest,
)
from edgectl_protocol.names import digest_of

__all__ = [
    "DOCUMENT_TYPES",
    "EMPTY_CONTENT",
    "EMPTY_DIGEST",
    "INDEX_MEDIA_TYPE",
    "Referrer",
    "list_of",
    "referrers_of",
]

DOCUMENT_TYPES: Mapping[str, str] = {
    SBOM_FILE: "application/vnd.cyclonedx+json",
    CARD_FILE: "text/markdown",
}
"""Artifact type of each document that may be in a bundle."""
EMPTY_MEDIA_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY_CONTENT = b"{}"
EMPTY_DIGEST = digest_of(EMPTY_CONTENT)
INDEX_MEDIA_TYPE = "application/vnd.oci.image.index.v1+json"


class _Artifact(Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int
    media_type: str
    artifact_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor


class Referrer(Struct, frozen=True):
    """An artifact that refers to a bundle."""

    artifact_type: str
    content: bytes
    """Its manifest."""

    @property
    def digest(self) -> str:
        """Of the manifest."""
        return digest_of(self.content)


def referrers_of(content: bytes, manifest: Manifest) -> tuple[Referrer, ...]:
    """Return the artifacts that refer to a bundle, given its manifest as bytes and decoded."""
    subject = Descriptor(
        media_type=MANIFEST_MEDIA_TYPE, digest=digest_of(content), size=len(content)
    )
    config = Descriptor(media_type=EMPTY_MEDIA_TYPE, digest=EMPTY_DIGEST, size=len(EMPTY_CONTENT))
    found = []
    for layer in manifest.layers:
        kind = DOCUMENT_TYPES.get(layer.file)
        if kind is None:
            continue
        document = Descriptor(
            media_type=kind,
            digest=layer.digest,
            size=layer.size,
            annotations={TITLE_ANNOTATION: layer.file},
        )
        artifact = _Artifact(
            schema_version=2,
            media_type=MANIFEST_MEDIA_TYPE,
            artifact_type=kind,
            config=config,
            layers=(document,),
            subject=subject,
        )
        found.append(Referrer(kind, msgspec.json.encode(artifact)))
    return tuple(found)


def list_of(referrers: Iterable[Referrer], artifact_type: str = "") -> bytes:
    """Return the index that lists artifacts; of one type alone, if it is named."""
    listed: list[dict[str, Any]] = [
        {
            "mediaType": MANIFEST_MEDIA_TYPE,
            "digest": one.digest,
            "size": len(one.content),
            "artifactType": one.artifact_type,
        }
        for one in referrers
        if artifact_type in {"", one.artifact_type}
    ]
    return msgspec.json.encode(
        {"schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPE, "manifests": listed}
    )
