"""Writes a version as one file, for devices without a network: `edgectl_protocol.offline`.

The signed metadata that a device needs to believe it goes along: all roots, and of the rest what
lies on the way to the version's targets. Everything is looked up before the first byte is sent, so
that what can be refused is; the file is written piece by piece, and never whole in memory.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy.orm import Session

from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import decode_manifest
from edgectl_protocol.messages import CANDIDATES_MAX, Capabilities
from edgectl_protocol.offline import (
    INDEX_FILE,
    LAYOUT_CONTENT,
    LAYOUT_FILE,
    METADATA_FOLDER,
    OfflineIndex,
    blob_file,
    make_index_entry,
)
from edgectl_server.domain.targets import Target
from edgectl_server.domain.variants import VariantFacts, rank_variants
from edgectl_server.errors import Conflict, NotFound, ServerFault
from edgectl_server.measurements import Measurements
from edgectl_server.ordering import variants_of
from edgectl_server.signing.repository import Repository
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.targets import Targets
from edgectl_server.version_rows import get_version

__all__ = ["Export", "Exports"]

_PIECE_BYTES = 256 * 1024
_RECORD_BYTES = 10240


@dataclass(frozen=True)
class _Entry:
    name: str
    size: int
    content: bytes | None
    """None: the blob of that name."""
    digest: str = ""


@dataclass(frozen=True)
class Export:
    """A file that is about to be written."""

    filename: str
    length: int
    """Bytes."""
    entries: tuple[_Entry, ...]


class Exports:
    """Writes versions; may be used from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        blobs: BlobStore,
        repository: Repository,
        targets: Targets,
        measurements: Measurements,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._repository = repository
        self._targets = targets
        self._measurements = measurements

    def prepare(
        self, model: str, version: str, *, variant: str | None, device_class: str | None
    ) -> Export:
        """Look everything up.

        Args:
            model: name of the model.
            version: of the model.
            variant: this one alone; None: all of them, as devices try them.
            device_class: only those that may run on the class, in the order that is best there.

        Raises:
            NotFound: ``version.unknown``, ``variant.unknown``, ``target.unknown``.
            Conflict: ``export.not_ready``: it is not signed; ``export.nothing``: no variant may run
                on that class.
        """
        chosen = self._chosen(model, version, variant, device_class)
        entries = [
            *self._metadata([one.target for one in chosen]),
            *self._blob_entries([one.manifest for one in chosen]),
        ]
        index = OfflineIndex(
            schema_version=2,
            media_type="application/vnd.oci.image.index.v1+json",
            manifests=tuple(
                make_index_entry(
                    model=model,
                    version=version,
                    variant=one.variant,
                    digest=one.manifest,
                    size=self._blobs.size(one.manifest),
                )
                for one in chosen
            ),
        )
        content = msgspec.json.encode(index)
        head = (
            _Entry(LAYOUT_FILE, len(LAYOUT_CONTENT), LAYOUT_CONTENT),
            _Entry(INDEX_FILE, len(content), content),
        )
        whole = (*head, *entries)
        length = sum(tarfile.BLOCKSIZE + _padded(one.size, tarfile.BLOCKSIZE) for one in whole)
        return Export(
            filename=f"{model}-{version}.oci",
            length=_padded(length + 2 * tarfile.BLOCKSIZE, _RECORD_BYTES),
            entries=whole,
        )

    def write(self, export: Export) -> Iterator[bytes]:
        """Yield the file; raise `NotFound` or `Unavailable` where a blob cannot be read."""
        written = 0
        for entry in export.entries:
            info = tarfile.TarInfo(entry.name)
            info.size = entry.size
            header = info.tobuf(tarfile.USTAR_FORMAT)
            assert len(header) == tarfile.BLOCKSIZE, entry.name
            yield header
            written += len(header)
            if entry.content is not None:
                yield entry.content
            elif entry.size:
                yield from self._blobs.stream(entry.digest, _PIECE_BYTES)
            written += _padded(entry.size, tarfile.BLOCKSIZE)
            yield bytes(_padded(entry.size, tarfile.BLOCKSIZE) - entry.size)
        yield bytes(export.length - written)

    def _chosen(
        self, model: str, version: str, variant: str | None, device_class: str | None
    ) -> Sequence[VariantFacts]:
        target = None if device_class is None else self._targets.get(device_class)
        if device_class is not None and target is None:
            raise NotFound(
                "target.unknown",
                f"there is no device class {device_class}",
                hint="edgectl targets list",
            )
        with self._database.read() as session:
            row = get_version(session, model, version)
            variants = sorted(variants_of(session, row.id), key=lambda one: (one.rank, one.variant))
            if row.state != "ready" or not variants:
                raise Conflict(
                    "export.not_ready",
                    f"{model}@{version} is {row.state}: only what is signed can be exported",
                    hint=f"edgectl models show {model}@{version}",
                )
            chosen: Sequence[VariantFacts] = variants
            if target is not None:
                chosen = self._ranked(session, target, variants)
        if variant is not None:
            chosen = [one for one in chosen if one.variant == variant]
            if variant not in {one.variant for one in variants}:
                made = ", ".join(one.variant for one in variants)
                raise NotFound(
                    "variant.unknown",
                    f"{model}@{version} has no variant {variant}",
                    hint=f"what was made: {made}",
                )
        if not chosen:
            raise Conflict(
                "export.nothing",
                f"nothing of {model}@{version} that was asked for may run on {device_class}",
                hint=f"edgectl targets show {device_class}",
            )
        return chosen[:CANDIDATES_MAX]

    def _ranked(
        self, session: Session, target: Target, variants: Sequence[VariantFacts]
    ) -> Sequence[VariantFacts]:
        """Return the variants as a device of the class would get them that is just of the class."""
        capabilities = Capabilities(
            machine=target.machine[0],
            cpu_features=tuple(sorted(one.partition("|")[0] for one in target.cpu_features)),
            memory_bytes=target.memory_bytes,
            runtimes=dict.fromkeys(target.runtimes, ""),
        )
        manifests = [one.manifest for one in variants]
        figures = self._measurements.of_class(session, target.name, manifests)
        return rank_variants(capabilities, variants, target=target, figures=figures)

    def _metadata(self, targets: Sequence[str]) -> list[_Entry]:
        for target in targets:
            if self._repository.find(target) is None:
                raise Conflict(
                    "export.not_ready",
                    f"{target} is not in the signed metadata",
                    hint="edgectl keys status says who has to sign",
                )
        entries = []
        for role, version, content in self._repository.metadata_for(targets):
            name = f"{role}.json" if version is None else f"{version}.{role}.json"
            entries.append(_Entry(METADATA_FOLDER + name, len(content), content))
        return entries

    def _blob_entries(self, manifests: Sequence[str]) -> list[_Entry]:
        """Return manifests, then what they name, each once."""
        sizes: dict[str, int] = {}
        layers: dict[str, int] = {}
        for digest in manifests:
            content = self._blobs.read(digest)
            sizes[digest] = len(content)
            try:
                manifest = decode_manifest(content)
            except ProtocolError as error:
                raise ServerFault("export.damaged", f"{digest} is no manifest: {error}") from error
            for part in (manifest.config, *manifest.layers):
                layers[part.digest] = self._blobs.size(part.digest)
        return [
            _Entry(blob_file(digest), size, None, digest)
            for digest, size in {**sizes, **layers}.items()
        ]


def _padded(size: int, block: int) -> int:
    return -(-size // block) * block
