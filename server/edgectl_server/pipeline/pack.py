"""From measured variants to bundles: layers, manifest, chunk indexes, all in the blob store.

A bundle is an OCI image manifest as `edgectl_protocol.manifest` describes it. It is deterministic:
JSON with sorted keys, no times, no names of machines, nothing that a clock has measured. The same
inputs, recipe and tools give the same digests, unless the bundle is encrypted: then the key is
another, and with it every byte. What was measured is the report, which is kept beside the bundle.

Chunk indexes of layers of more than one chunk are blobs of their own, named by the annotation
`INDEX_ANNOTATION`, since devices fetch them. Nothing secret of an encrypted bundle goes into the
store; its content key is returned, for the caller to keep.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from edgectl_protocol.chunks import (
    BLOB_BYTES_MAX,
    CHUNK_BYTES,
    INDEX_ANNOTATION,
    chunk_count,
    make_index,
)
from edgectl_protocol.encryption import (
    ENCRYPTED_SUFFIX,
    ENCRYPTION_ANNOTATION,
    SCHEME,
    plain_size,
)
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import (
    ARTIFACT_TYPE,
    CARD_FILE,
    CONFIG_FILE,
    CONFIG_MEDIA_TYPE,
    FILEPATH_ANNOTATION,
    FORMATS,
    GOLDEN_FILE,
    LAYER_CONFIG,
    LAYER_DATASET,
    LAYER_DOC,
    LAYER_WEIGHT,
    MANIFEST_MEDIA_TYPE,
    SBOM_FILE,
    TITLE_ANNOTATION,
    BundleConfig,
    Descriptor,
    Lineage,
    Manifest,
    bundle_bytes,
    decode_config,
    decode_manifest,
)
from edgectl_protocol.metadata import target_path
from edgectl_protocol.watching import (
    REFERENCE_BYTES_MAX,
    REFERENCE_FILE,
    WATCHED_FILE,
    decode_reference,
    watched_of,
)
from edgectl_server.pipeline.encryption import encrypt_layer, make_content_key
from edgectl_server.pipeline.errors import PipelineFailed, PipelineRefused
from edgectl_server.pipeline.flat_bundle import (
    MicrocontrollerBundle,
    make_microcontroller_bundle,
    read_payload,
)
from edgectl_server.pipeline.flat_format import FlatInvalid
from edgectl_server.pipeline.model_card import make_card
from edgectl_server.pipeline.provenance import Provenance, Tool
from edgectl_server.pipeline.sbom import make_sbom
from edgectl_server.pipeline.spec import (
    Candidate,
    PipelineResult,
    TrialReport,
    encode,
    to_document,
)

__all__ = ["Blobs", "MicrocontrollerSigner", "PackedVariant", "pack"]

_FLAT_BYTES_MAX = 32 * 1024 * 1024
"""Of a bundle for microcontrollers, as the child left it."""


class Blobs(Protocol):
    """What packing needs of the blob store."""

    def add_file(self, path: Path, *, expected: str | None = None) -> str:
        """Add a file and return its digest."""
        ...

    def add_bytes(self, content: bytes) -> str:
        """Add bytes and return their digest."""
        ...


@dataclass(frozen=True)
class PackedVariant:
    """A bundle whose blobs are all in the store.

    Attributes:
        variant: its name within the version.
        precision: ``fp32`` or ``int8``.
        manifest: the manifest's bytes, as they are signed.
        digest: of the manifest.
        target: its path in the TUF targets.
        bundle_bytes: what a device fetches: manifest, layers but documents, and their indexes.
        model_bytes: length of the model's file, in the clear.
        rank: 0 is tried first.
        trial: the row of the report, as JSON's plain types.
        content_key: of an encrypted bundle; None for a plain one.
    """

    variant: str
    precision: str
    manifest: bytes
    digest: str
    target: str
    bundle_bytes: int
    model_bytes: int
    rank: int
    trial: dict[str, Any]
    content_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class MicrocontrollerSigner:
    """Makes of a model what a microcontroller installs.

    Attributes:
        counter: of the version, larger than that of those before it.
        sign: returns the Ed25519 signature of a message.
    """

    counter: int
    sign: Callable[[bytes], bytes]


class _ModelPack(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """ModelPack's model configuration (specification docs/config.md); it allows no more fields."""

    descriptor: dict[str, str]
    modelfs: dict[str, Any]
    config: dict[str, str]


def pack(
    result: PipelineResult,
    directory: Path,
    *,
    blobs: Blobs,
    model: str,
    version: str,
    labels: tuple[str, ...],
    lineage: Lineage,
    encrypt: Collection[str] = (),
    tools: tuple[Tool, ...] = (),
    card: str = "",
    microcontrollers: MicrocontrollerSigner | None = None,
) -> list[PackedVariant]:
    """Put the bundles of a result into the blob store, best rank first.

    Args:
        result: what `run_pipeline` returned.
        directory: where it left its files.
        blobs: the store.
        model: the model's name.
        version: the model's version.
        labels: name of each class, or none.
        lineage: where the model comes from; `source` has to be the result's.
        encrypt: precisions of the variants whose model and golden data are to be encrypted.
        tools: that made them, see `tool_versions`.
        card: what whoever pushed it has written about it, for the model card.
        microcontrollers: what signs for them; needed if a variant is theirs.

    Raises:
        PipelineFailed: ``pipeline.crashed``: a file of the result is not there.
        PipelineRefused: ``model.too_large``: a file is longer than devices can fetch.
    """
    assert lineage.source == result.source, (lineage.source, result.source)
    packed = []
    for candidate in sorted(result.candidates, key=lambda candidate: candidate.rank):
        folder = directory / candidate.variant
        config = BundleConfig(
            model=model,
            version=version,
            variant=candidate.variant,
            runtime=candidate.runtime,
            format=FORMATS[candidate.runtime],
            precision=candidate.precision,
            inputs=candidate.inputs,
            outputs=candidate.outputs,
            golden=candidate.golden,
            quantization=candidate.quantization,
            lineage=msgspec.structs.replace(lineage, steps_from=candidate.steps_from),
            evaluation=candidate.evaluation,
            scores=candidate.scores,
            labels=labels if candidate.scores is not None else (),
            processing=result.report.processing,
            gates=candidate.gates,
        )
        content = encode(config)
        assert decode_config(content) == config, "a device reads what was meant"
        key = make_content_key() if candidate.precision in encrypt else None
        file = _model_layer(blobs, folder, config, key, microcontrollers)
        about = _provenance(config, result.report, file, tools=tools, card=card)
        layers = (
            file,
            _bytes_layer(blobs, content, CONFIG_FILE, LAYER_CONFIG),
            _file_layer(blobs, folder / GOLDEN_FILE, GOLDEN_FILE, LAYER_DATASET, key),
            *_reference_layers(blobs, folder, candidate, encrypted=key is not None),
            _bytes_layer(blobs, make_card(about), CARD_FILE, LAYER_DOC),
            _bytes_layer(blobs, make_sbom(about), SBOM_FILE, LAYER_DOC),
        )
        packed.append(
            _pack_variant(
                blobs, config, candidate, layers, parameters=result.report.parameters, key=key
            )
        )
    return packed


def _model_layer(
    blobs: Blobs,
    folder: Path,
    config: BundleConfig,
    key: bytes | None,
    microcontrollers: MicrocontrollerSigner | None,
) -> Descriptor:
    name = config.model_file
    if config.runtime == "cortex-m":
        assert microcontrollers is not None, config.variant
        assert key is None, "a microcontroller could not open it"
        content = _signed(folder / name, config, microcontrollers)
        return _bytes_layer(blobs, content, name, LAYER_WEIGHT)
    return _file_layer(blobs, folder / name, name, LAYER_WEIGHT, key)


def _signed(path: Path, config: BundleConfig, microcontrollers: MicrocontrollerSigner) -> bytes:
    """Return what the child has left for microcontrollers, checked, named and signed."""
    _check_regular(path)
    with path.open("rb") as file:
        content = file.read(_FLAT_BYTES_MAX + 1)
    try:
        cases, model = read_payload(content)
    except FlatInvalid as error:
        raise _missing(path) from error
    bundle = MicrocontrollerBundle(config.model, microcontrollers.counter, cases, model)
    return make_microcontroller_bundle(bundle, microcontrollers.sign)


def _reference_layers(
    blobs: Blobs, folder: Path, candidate: Candidate, *, encrypted: bool
) -> tuple[Descriptor, ...]:
    """Return the reference's layer, and that of what devices need of it.

    None where the data that it tells of is to stay secret.
    """
    if not candidate.watched or encrypted:
        return ()
    path = folder / REFERENCE_FILE
    layer = _file_layer(blobs, path, REFERENCE_FILE, LAYER_DATASET, None)
    if layer.size > REFERENCE_BYTES_MAX:
        raise _missing(path)
    try:
        reference = decode_reference(path.read_bytes())
    except ProtocolError as error:
        raise _missing(path) from error
    watched = encode(watched_of(reference))
    return layer, _bytes_layer(blobs, watched, WATCHED_FILE, LAYER_DATASET)


def _provenance(
    config: BundleConfig,
    report: TrialReport,
    file: Descriptor,
    *,
    tools: tuple[Tool, ...],
    card: str,
) -> Provenance:
    """Collect what the documents say; of the report nothing that another run would measure anew."""
    return Provenance(
        config=config,
        opset=report.opset,
        nodes=report.nodes,
        parameters=report.parameters,
        metric_source=report.metric_source or "",
        golden=report.golden,
        tools=tools,
        model_digest="" if file.encrypted else file.digest,
        model_bytes=0 if file.encrypted else file.size,
        card=card,
    )


def _pack_variant(
    blobs: Blobs,
    config: BundleConfig,
    candidate: Candidate,
    layers: tuple[Descriptor, ...],
    *,
    parameters: int,
    key: bytes | None,
) -> PackedVariant:
    model_pack = encode(
        _ModelPack(
            descriptor={"name": config.model, "version": config.version},
            modelfs={"type": "layers", "diffIds": [layer.digest for layer in layers]},
            config={
                "format": config.format,
                "paramSize": str(parameters),
                "precision": config.precision,
                "quantization": config.quantization.recipe,
            },
        )
    )
    manifest = Manifest(
        schema_version=2,
        media_type=MANIFEST_MEDIA_TYPE,  # type: ignore[arg-type]
        artifact_type=ARTIFACT_TYPE,  # type: ignore[arg-type]
        config=Descriptor(
            media_type=CONFIG_MEDIA_TYPE, digest=blobs.add_bytes(model_pack), size=len(model_pack)
        ),
        layers=layers,
    )
    content = encode(manifest)
    assert decode_manifest(content) == manifest, "a device reads what was meant"
    return PackedVariant(
        variant=config.variant,
        precision=config.precision,
        manifest=content,
        digest=blobs.add_bytes(content),
        target=target_path(config.model, config.version, config.variant),
        bundle_bytes=bundle_bytes(content, manifest),
        model_bytes=layers[0].size if key is None else plain_size(layers[0].size),
        rank=candidate.rank,
        trial=to_document(candidate.trial),
        content_key=key,
    )


def _bytes_layer(blobs: Blobs, content: bytes, file: str, media_type: str) -> Descriptor:
    chunks = (content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES))
    digest = blobs.add_bytes(content)
    layer = Descriptor(media_type=media_type, digest=digest, size=len(content))
    return _described(blobs, layer, file, chunks)


def _file_layer(
    blobs: Blobs, path: Path, file: str, media_type: str, key: bytes | None
) -> Descriptor:
    """Add a file that the child has left."""
    size = _check_regular(path)
    if key is None:
        _check_size(path, file)
        digest = blobs.add_file(path)
        layer = Descriptor(media_type=media_type, digest=digest, size=size)
        return _described(blobs, layer, file, _chunks_of(path))
    sealed = path.with_name(path.name + ENCRYPTED_SUFFIX)
    encrypt_layer(path, sealed, content_key=key, file=file)
    _check_size(sealed, file)
    layer = Descriptor(
        media_type=media_type + ENCRYPTED_SUFFIX,
        digest=blobs.add_file(sealed),
        size=sealed.stat().st_size,
        annotations={ENCRYPTION_ANNOTATION: SCHEME},
    )
    return _described(blobs, layer, file, _chunks_of(sealed))


def _check_regular(path: Path) -> int:
    """Return the size of a file; it is believed to be there and regular only when seen."""
    try:
        status = os.lstat(path)
    except OSError as error:
        raise _missing(path) from error
    if not stat.S_ISREG(status.st_mode) or path.parent.is_symlink():
        raise _missing(path)
    return status.st_size


def _check_size(path: Path, file: str) -> None:
    """Refuse what is longer than devices can fetch, before it is in the store."""
    size = path.stat().st_size
    if size > BLOB_BYTES_MAX:
        raise PipelineRefused(
            "model.too_large",
            f"{file} has become {size} bytes long.",
            f"Preparing a model may add constants to it, and devices take files of up to "
            f"{BLOB_BYTES_MAX} bytes: push a smaller one, or another precision.",
        )


def _chunks_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _described(blobs: Blobs, layer: Descriptor, file: str, chunks: Iterator[bytes]) -> Descriptor:
    """Return the layer with its file name and, if it has more than one chunk, its index."""
    annotations = layer.annotations | {TITLE_ANNOTATION: file, FILEPATH_ANNOTATION: file}
    if chunk_count(layer.size) > 1:
        annotations[INDEX_ANNOTATION] = blobs.add_bytes(make_index(chunks))
    described: Descriptor = msgspec.structs.replace(layer, annotations=annotations)
    return described


def _missing(path: Path) -> PipelineFailed:
    return PipelineFailed(
        "pipeline.crashed",
        f"The pipeline's process left no {path.name} for variant {path.parent.name}.",
        "Push again; if it happens again, report it with the server's log.",
    )
