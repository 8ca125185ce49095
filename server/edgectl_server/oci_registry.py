"""What the pull-only OCI registry holds: the bundles of every version that is signed, and no more.

Rules:

1. A repository is a model: ``models/<model>``. The blob store also holds what people have uploaded,
   training data among it: a blob is served from a repository when a manifest of a ``ready``
   version of that model names it, and never because it is in the store.
2. A version's tag is the version, with ``_`` for the ``+`` that tags cannot have; it is an OCI
   index over its variants, best first. A variant's tag is ``<version>-<variant>``, where no version
   has that name, and where it is not too long for a tag. Tags are for people; devices go by
   digests.
3. The chunk index of a layer is a blob of its repository too: its digest is in the manifest. It is
   computed when it is asked for.
4. What refers to a bundle (`edgectl_protocol.referrers`) follows from its manifest, and is in its
   repository too: a manifest by its digest, and the empty configuration of those.
5. A delta to a version of the model, and its chunk index, are blobs of its repository for as long
   as there is that delta. No manifest names them: orders do.
6. Versions are never changed nor deleted once they are ready, so that what was found to be part of
   a repository stays found.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec
from sqlalchemy import Select, select

from edgectl_protocol.chunks import CHUNK_BYTES, chunk_count, make_index
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import MANIFEST_MEDIA_TYPE, decode_manifest
from edgectl_protocol.names import digest_of
from edgectl_protocol.offline import OfflineIndex, make_index_entry
from edgectl_protocol.referrers import (
    EMPTY_CONTENT,
    EMPTY_DIGEST,
    Referrer,
    list_of,
    referrers_of,
)
from edgectl_server.delta_rows import find_delta_blob
from edgectl_server.errors import NotFound, Refused, ServerFault
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import BundleVariant, Model, ModelVersion

__all__ = ["INDEX_MEDIA_TYPE", "Content", "OciRegistry"]

INDEX_MEDIA_TYPE: Final = "application/vnd.oci.image.index.v1+json"
BLOB_MEDIA_TYPE = "application/octet-stream"
_NAME = re.compile(r"models/([a-z0-9][a-z0-9_-]{0,63})")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_MANIFESTS_MAX = 4096
_FOUND_MAX = 16384
_INDEXES_MAX = 64
"""Of at most 128 KiB each."""
_VERSIONS_MAX = 4096
"""Versions of a model that are looked through, newest first."""


class Content(NamedTuple):
    """Something that is served."""

    digest: str
    size: int
    media_type: str
    content: bytes | None
    """None: it is in the blob store, by its digest."""


class _Part(NamedTuple):
    """A blob that a manifest names."""

    size: int
    index_of: str = ""
    """Set for a chunk index: the digest of the blob whose chunks it lists."""


class _Named(NamedTuple):
    """What follows from a manifest."""

    parts: dict[str, _Part]
    referrers: tuple[Referrer, ...]


class _Bundle(NamedTuple):
    version: str
    variant: str
    manifest: str
    size: int


Key = TypeVar("Key")
Value = TypeVar("Value")


class _Recent(Generic[Key, Value]):
    """A mapping that forgets what was used longest ago; the caller has the lock."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: Key, value: Value) -> Value:
        self._entries[key] = value
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)
        return value


class OciRegistry:
    """Finds what is asked for. Its methods may be called from any thread."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs
        self._lock = threading.Lock()
        self._manifests: _Recent[str, _Named] = _Recent(_MANIFESTS_MAX)
        self._found: _Recent[tuple[str, str], _Part] = _Recent(_FOUND_MAX)
        self._indexes: _Recent[str, bytes] = _Recent(_INDEXES_MAX)
        self._indexing = threading.Lock()  # a fleet asks for the same one at the same time

    def tags(self, name: str) -> list[str]:
        """Return every tag of a repository, in the order of their characters.

        Raises:
            Refused: ``oci.name``.
            NotFound: ``oci.repository``.
        """
        return sorted(_tags(self._bundles(_model(name))))

    def manifest(self, name: str, reference: str) -> Content:
        """Return a manifest or an index, by its digest or a tag.

        Raises:
            Refused: ``oci.name`` or ``oci.reference``.
            NotFound: ``oci.repository`` or ``oci.manifest``.
        """
        model = _model(name)
        bundles = self._bundles(model)
        if _DIGEST.fullmatch(reference):
            return self._by_digest(model, bundles, reference)
        if not _TAG.fullmatch(reference):
            raise Refused("oci.reference", f"{reference[:140]!r} is no digest and no tag")
        chosen = _tags(bundles).get(reference)
        if chosen is None:
            raise _no_manifest(name, reference)
        if isinstance(chosen, _Bundle):
            return self._stored_manifest(chosen)
        return _index(model, chosen)

    def blob(self, name: str, digest: str) -> Content:
        """Return a layer, a config or a chunk index.

        Raises:
            Refused: ``oci.name`` or ``oci.digest``.
            NotFound: ``oci.repository`` or ``oci.blob``.
        """
        model = _model(name)
        _check_digest(digest)
        if digest == EMPTY_DIGEST:
            self._bundles(model)
            return Content(digest, len(EMPTY_CONTENT), BLOB_MEDIA_TYPE, EMPTY_CONTENT)
        with self._lock:
            part = self._found.get((model, digest))
        if part is None:
            part = self._search(model, digest)
        content = self._chunk_index(digest, part) if part.index_of else None
        return Content(digest, part.size, BLOB_MEDIA_TYPE, content)

    def referrers(self, name: str, digest: str, artifact_type: str = "") -> bytes:
        """Return the index of what refers to a manifest: the documents of a bundle.

        Raises:
            Refused: ``oci.name`` or ``oci.digest``.
            NotFound: ``oci.repository``.
        """
        bundles = self._bundles(_model(name))
        _check_digest(digest)
        found: Sequence[Referrer] = ()
        if any(one.manifest == digest for one in bundles):
            found = self._named(digest).referrers
        return list_of(found, artifact_type)

    # ------------------------------------------------------------ what is in a repository

    def _bundles(self, model: str) -> Sequence[_Bundle]:
        """Return the bundles of the signed versions, newest version first, best variant first."""
        with self._database.read() as session:
            if session.get(Model, model) is None:
                raise NotFound("oci.repository", f"there is no repository models/{model}")
            return [_Bundle._make(row) for row in session.execute(_bundles_query(model))]

    def _by_digest(self, model: str, bundles: Sequence[_Bundle], digest: str) -> Content:
        for one in bundles:
            if one.manifest == digest:
                return self._stored_manifest(one)
        for of_version in _by_version(bundles).values():
            index = _index(model, of_version)
            if index.digest == digest:
                return index
        for one in bundles:
            for referrer in self._named(one.manifest).referrers:
                if referrer.digest == digest:
                    content = referrer.content
                    return Content(digest, len(content), MANIFEST_MEDIA_TYPE, content)
        raise _no_manifest(f"models/{model}", digest)

    def _stored_manifest(self, bundle: _Bundle) -> Content:
        content = self._blobs.read(bundle.manifest)
        return Content(bundle.manifest, len(content), MANIFEST_MEDIA_TYPE, content)

    def _search(self, model: str, digest: str) -> _Part:
        for bundle in self._bundles(model):
            part = self._named(bundle.manifest).parts.get(digest)
            if part is not None:
                with self._lock:
                    return self._found.put((model, digest), part)
        with self._database.read() as session:
            delta = find_delta_blob(session, model, digest)
            if delta is not None:
                if delta.digest == digest:
                    return _Part(delta.bytes)
                return _Part(32 * chunk_count(delta.bytes), delta.digest)
        raise NotFound("oci.blob", f"models/{model} has no blob {digest}")

    def _named(self, manifest: str) -> _Named:
        with self._lock:
            named = self._manifests.get(manifest)
        if named is not None:
            return named
        content = self._blobs.read(manifest)
        try:
            decoded = decode_manifest(content)
        except ProtocolError as error:
            raise ServerFault("oci.damaged", f"{manifest} is no manifest: {error}") from error
        parts = {}
        for one in (decoded.config, *decoded.layers):
            parts[one.digest] = _Part(one.size)
            if one.chunk_index is not None:
                parts[one.chunk_index] = _Part(32 * chunk_count(one.size), one.digest)
        with self._lock:
            return self._manifests.put(manifest, _Named(parts, referrers_of(content, decoded)))

    def _chunk_index(self, digest: str, part: _Part) -> bytes:
        with self._indexing:
            content = self._indexes.get(digest)
            if content is None:
                content = make_index(self._blobs.stream(part.index_of, CHUNK_BYTES))
                self._indexes.put(digest, content)
        return content


def _bundles_query(model: str) -> Select[str, str, str, int]:
    newest = (
        select(ModelVersion.id)
        .where(ModelVersion.model == model, ModelVersion.state == "ready")
        .order_by(ModelVersion.id.desc())
        .limit(_VERSIONS_MAX)
    )
    return (
        select(
            ModelVersion.version,
            BundleVariant.variant,
            BundleVariant.manifest,
            BundleVariant.manifest_size,
        )
        .join(BundleVariant, BundleVariant.version_id == ModelVersion.id)
        .where(ModelVersion.id.in_(newest))
        .order_by(ModelVersion.id.desc(), BundleVariant.rank, BundleVariant.variant)
    )


def _tags(bundles: Iterable[_Bundle]) -> dict[str, _Bundle | list[_Bundle]]:
    """Return what each tag means: a variant, or the variants of a version."""
    tags: dict[str, _Bundle | list[_Bundle]] = {}
    for one in bundles:
        tag = f"{_tag_of(one.version)}-{one.variant}"
        if _TAG.fullmatch(tag):
            tags.setdefault(tag, one)
    versions = _by_version(bundles)
    return tags | {_tag_of(version): of_version for version, of_version in versions.items()}


def _by_version(bundles: Iterable[_Bundle]) -> dict[str, list[_Bundle]]:
    versions: dict[str, list[_Bundle]] = {}
    for one in bundles:
        versions.setdefault(one.version, []).append(one)
    return versions


def _tag_of(version: str) -> str:
    return version.replace("+", "_")


def _index(model: str, bundles: Sequence[_Bundle]) -> Content:
    """Return the OCI index of a version; the same bundles give the same bytes."""
    content = msgspec.json.encode(
        OfflineIndex(
            schema_version=2,
            media_type=INDEX_MEDIA_TYPE,
            manifests=tuple(
                make_index_entry(
                    model=model,
                    version=one.version,
                    variant=one.variant,
                    digest=one.manifest,
                    size=one.size,
                )
                for one in bundles
            ),
        )
    )
    return Content(digest_of(content), len(content), INDEX_MEDIA_TYPE, content)


def _model(name: str) -> str:
    match = _NAME.fullmatch(name)
    if match is None:
        raise Refused("oci.name", f"{name[:140]!r} is no repository: they are models/<model>")
    return match[1]


def _check_digest(digest: str) -> None:
    if not _DIGEST.fullmatch(digest):
        raise Refused("oci.digest", f"{digest[:140]!r} is no digest: expected sha256:…")


def _no_manifest(name: str, reference: str) -> NotFound:
    return NotFound("oci.manifest", f"{name} has no manifest {reference}")
