"""The bundle: an OCI image manifest with ModelPack media types, and our own description in a layer.

Formats: OCI image specification 1.1 (manifest, descriptor), CNCF ModelPack specification (media
types; its config forbids further properties, so that ours travels as the layer ``edgectl.json``).
Layers are ``.raw``, so that a layer's digest is the file's digest and the blob store's key.

::

    manifest ── config          application/vnd.cncf.model.config.v1+json
             ├─ model.onnx      …weight.v1.raw          the model, or model.tflite
             ├─ edgectl.json    …weight.config.v1.raw   `BundleConfig`
             ├─ golden.npz      …dataset.v1.raw         golden inputs and outputs
             ├─ reference.json  …dataset.v1.raw         `edgectl_protocol.watching`, where there is
             │                                          data, and in no encrypted bundle
             ├─ watched.json    …dataset.v1.raw         what a device needs of the reference
             ├─ model-card.md   …doc.v1.raw             for people
             └─ sbom.cdx.json   …doc.v1.raw             bill of materials, CycloneDX

Devices do not fetch documents, nor the reference where there is ``watched.json``; those that do not
know that file fetch both. Nothing in a bundle is measured by a clock, so that the same inputs
give the same digest; what was measured is in the report of the version, beside it.

In an encrypted bundle the model and the golden data are sealed (`edgectl_protocol.encryption`):
their media types end in ``+encrypted``, an annotation says how, and size, digest and chunk index
are those of the ciphertext, so that nothing which only moves or checks bytes needs to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from edgectl_protocol.chunks import BLOB_BYTES_MAX, INDEX_ANNOTATION, chunk_count
from edgectl_protocol.encryption import (
    ENCRYPTED_SUFFIX,
    ENCRYPTION_ANNOTATION,
    SCHEME,
    plain_size,
)
from edgectl_protocol.errors import LimitExceeded, MalformedMessage
from edgectl_protocol.names import Digest, ModelName, Variant, Version
from edgectl_protocol.watching import REFERENCE_FILE, WATCHED_FILE

__all__ = [
    "ARTIFACT_TYPE",
    "CARD_FILE",
    "CONFIG_FILE",
    "CONFIG_MEDIA_TYPE",
    "FORMATS",
    "GATES_MAX",
    "GOLDEN_FILE",
    "LAYER_CONFIG",
    "LAYER_DATASET",
    "LAYER_DOC",
    "LAYER_WEIGHT",
    "MANIFEST_BYTES_MAX",
    "MANIFEST_MEDIA_TYPE",
    "MODEL_FILES",
    "PROCESSING_LINE_MAX",
    "SBOM_FILE",
    "TITLE_ANNOTATION",
    "Budget",
    "BundleConfig",
    "Descriptor",
    "Evaluation",
    "Format",
    "GateResult",
    "Golden",
    "Lineage",
    "Manifest",
    "Quantization",
    "Runtime",
    "Scores",
    "TensorSpec",
    "Tolerance",
    "bundle_bytes",
    "decode_config",
    "decode_manifest",
    "device_layers",
    "is_encrypted",
    "layer_by_file",
    "model_layer",
    "offered_layers",
]

MANIFEST_MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_MEDIA_TYPE = "application/vnd.cncf.model.config.v1+json"
LAYER_WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
LAYER_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"
LAYER_DATASET = "application/vnd.cncf.model.dataset.v1.raw"
LAYER_DOC = "application/vnd.cncf.model.doc.v1.raw"
TITLE_ANNOTATION = "org.opencontainers.image.title"
FILEPATH_ANNOTATION = "org.cncf.model.filepath"

Runtime = Literal["onnxruntime", "litert", "cortex-m"]
"""What runs a model, by the name that devices report it under."""
Format = Literal["onnx", "tflite", "flat"]
FORMATS: Mapping[Runtime, Format] = {
    "onnxruntime": "onnx",
    "litert": "tflite",
    "cortex-m": "flat",
}
"""What each runtime reads."""
MODEL_FILES: Mapping[Format, str] = {
    "onnx": "model.onnx",
    "tflite": "model.tflite",
    "flat": "model.emb",
}
"""Name of the model's file by its format; a bundle has one of them."""
CONFIG_FILE = "edgectl.json"
GOLDEN_FILE = "golden.npz"
CARD_FILE = "model-card.md"
SBOM_FILE = "sbom.cdx.json"

MANIFEST_BYTES_MAX = 64 * 1024
"""A manifest is one chunk."""
CONFIG_BYTES_MAX = 1024 * 1024
LAYERS_MAX = 32
PROCESSING_LINE_MAX = 512
GATES_MAX = 32

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip
"""Element types by their names in the Open Inference Protocol v2."""


class Descriptor(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """OCI content descriptor (image specification 1.1, descriptor.md)."""

    media_type: Annotated[str, Meta(max_length=255)]
    digest: Digest
    size: Annotated[int, Meta(ge=0, le=BLOB_BYTES_MAX)]
    annotations: dict[str, str] = {}

    @property
    def file(self) -> str:
        """Name of the file that this layer is."""
        return self.annotations.get(TITLE_ANNOTATION, "")

    @property
    def chunk_index(self) -> str | None:
        """Signed digest of the chunk index; None for a blob of one chunk, which needs none."""
        return self.annotations.get(INDEX_ANNOTATION)

    @property
    def encrypted(self) -> bool:
        """Whether the layer is ciphertext."""
        return self.media_type.endswith(ENCRYPTED_SUFFIX)


class Manifest(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """OCI image manifest (image specification 1.1, manifest.md)."""

    schema_version: Literal[2]
    media_type: Literal["application/vnd.oci.image.manifest.v1+json"]
    artifact_type: Literal["application/vnd.cncf.model.manifest.v1+json"]
    config: Descriptor
    layers: Annotated[tuple[Descriptor, ...], Meta(min_length=1, max_length=LAYERS_MAX)]
    annotations: dict[str, str] = {}


class TensorSpec(Struct, frozen=True, kw_only=True):
    """One input or output; -1 in the shape is any size."""

    name: Name
    datatype: Datatype
    shape: Annotated[tuple[Annotated[int, Meta(ge=-1, le=2**31 - 1)], ...], Meta(max_length=8)]


class Scores(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which output holds one score a class, so that classes and confidence can be counted."""

    output: Name
    kind: Literal["logits", "probabilities"]
    scale: Annotated[float, Meta(gt=0)] = 1.0
    """Of an output of integers: a score is ``scale * (element - zero_point)``."""
    zero_point: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] = 0


class Tolerance(Struct, frozen=True, kw_only=True):
    """How far an output may be from the golden one: |got - golden| <= atol + rtol * |golden|."""

    atol: Annotated[float, Meta(ge=0)]
    rtol: Annotated[float, Meta(ge=0)]


class Golden(Struct, frozen=True, kw_only=True):
    """Golden inputs with the outputs of this variant, in ``golden.npz`` (NumPy, no pickles).

    Arrays are ``input.<name>`` and ``output.<name>``; the first axis counts the cases, and each
    case is run alone, as a batch of one where the model has a batch axis.
    """

    cases: Annotated[int, Meta(ge=1, le=1024)]
    tolerances: dict[Name, Tolerance]
    agreement_min: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """Share of cases that must be within tolerance."""


class Budget(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the variant may cost on a device; None is no limit."""

    latency_p95_us: float | None = None
    load_ms: float | None = None
    rss_bytes: int | None = None


class Quantization(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the variant was made."""

    recipe: Annotated[str, Meta(max_length=64)]
    """Such as ``fp32``, ``int8-dynamic``, ``int8-static-minmax-per-tensor``."""
    calibration: Digest | None = None
    calibration_samples: int = 0
    tool: Annotated[str, Meta(max_length=64)] = ""
    float_nodes: Annotated[tuple[Name, ...], Meta(max_length=1024)] = ()
    """Operators that stay in float because int8 spoils them: mixed precision."""


class Evaluation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the change of precision cost."""

    metric: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    """Such as ``accuracy``, ``auc``, ``rmse``; ``agreement`` with fp32 where there are no labels;
    ``own``: what the pushed ``metric.py`` computes."""
    reference: float
    """The fp32 model's value."""
    value: float
    """This variant's value."""
    samples: int
    dataset: Digest | None = None


class GateResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What this variant had to be before it was signed, and what it is."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    """Such as ``drop``, ``contract``, ``size``, ``accuracy``."""
    status: Literal["passed", "failed", "not_enough_data", "overridden"]
    """Only ``passed`` and ``overridden`` are signed, and ``not_enough_data`` where nobody required
    it."""
    measured: float | None = None
    bound: float | None = None
    direction: Literal["<=", ">=", ""] = ""
    unit: Literal["share", "points", "number", "bytes", "time", ""] = ""
    """Of both; see `edgectl_protocol.requirements`."""
    detail: Annotated[str, Meta(max_length=512)] = ""
    overridden_by: Annotated[str, Meta(max_length=128)] = ""
    """Who pushed with ``--allow``."""


class Lineage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the variant comes from."""

    source: Digest
    """The model file as it was pushed."""
    parent: Version | None = None
    steps_from: Digest | None = None
    """The model file of the parent, of a variant that was released in small steps from it."""
    pushed_by: Annotated[str, Meta(max_length=128)] = ""
    training_data: Digest | None = None
    code_revision: Annotated[str, Meta(max_length=128)] = ""


class BundleConfig(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``edgectl.json``: everything about the bundle that decides something on the device."""

    model: ModelName
    version: Version
    variant: Variant
    runtime: Runtime
    format: Format
    precision: Literal["fp32", "fp16", "int8"]
    inputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=64)]
    outputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=64)]
    golden: Golden
    quantization: Quantization
    lineage: Lineage
    evaluation: Evaluation | None = None
    budget: Budget = Budget()
    scores: Scores | None = None
    labels: Annotated[tuple[Annotated[str, Meta(max_length=256)], ...], Meta(max_length=1024)] = ()
    processing: Annotated[
        tuple[Annotated[str, Meta(max_length=PROCESSING_LINE_MAX)], ...], Meta(max_length=128)
    ] = ()
    """Declared pre- and post-processing that is part of the model's graph, a line for each input
    and output; for people, nothing is decided by it."""
    gates: Annotated[tuple[GateResult, ...], Meta(max_length=GATES_MAX)] = ()

    @property
    def model_file(self) -> str:
        """Name of the layer that is the model."""
        return MODEL_FILES[self.format]


def decode_manifest(content: bytes) -> Manifest:
    """Decode a manifest and check that its layers can be fetched and told apart.

    Raises:
        LimitExceeded: longer than `MANIFEST_BYTES_MAX`.
        MalformedMessage: not such a manifest, a file twice, two models, a long layer without chunk
            index, or an encryption that this contract does not know.
    """
    if len(content) > MANIFEST_BYTES_MAX:
        raise LimitExceeded(f"a manifest of {len(content)} bytes, at most {MANIFEST_BYTES_MAX}")
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("not a bundle manifest") from error
    files = [layer.file for layer in manifest.layers]
    if "" in files or len(set(files)) != len(files):
        raise MalformedMessage(f"the manifest's layers need distinct titles, got {files}")
    models = set(files) & set(MODEL_FILES.values())
    if len(models) > 1:
        raise MalformedMessage(f"a bundle holds one model, got {sorted(models)}")
    for layer in manifest.layers:
        if chunk_count(layer.size) > 1 and layer.chunk_index is None:
            raise MalformedMessage(f"layer {layer.file} has no {INDEX_ANNOTATION} annotation")
    _check_encryption(manifest, models)
    return manifest


def _check_encryption(manifest: Manifest, models: set[str]) -> None:
    """Check that model and golden data are sealed both, in a way that is known, or neither."""
    sealed = {layer.file for layer in manifest.layers if layer.encrypted}
    secret = {*models, GOLDEN_FILE}
    if sealed and (sealed != secret or not models):
        raise MalformedMessage(f"encrypted are {sorted(sealed)}, expected {sorted(secret)}")
    for layer in manifest.layers:
        scheme = layer.annotations.get(ENCRYPTION_ANNOTATION)
        if scheme != (SCHEME if layer.encrypted else None):
            raise MalformedMessage(
                f"layer {layer.file} is {layer.media_type} with encryption {scheme!r}, known is "
                f"{SCHEME!r} for media types that end in {ENCRYPTED_SUFFIX!r}"
            )
        if layer.encrypted:
            plain_size(layer.size)


def decode_config(content: bytes) -> BundleConfig:
    """Decode ``edgectl.json``; raise `LimitExceeded` or `MalformedMessage`.

    Malformed is also a format that the runtime does not read.
    """
    if len(content) > CONFIG_BYTES_MAX:
        raise LimitExceeded(f"edgectl.json of {len(content)} bytes, at most {CONFIG_BYTES_MAX}")
    try:
        config = msgspec.json.decode(content, type=BundleConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage("not an edgectl.json") from error
    if FORMATS[config.runtime] != config.format:
        raise MalformedMessage(f"{config.runtime} does not read the format {config.format}")
    return config


def layer_by_file(manifest: Manifest, file: str) -> Descriptor:
    """Return the layer that is `file`; raise `MalformedMessage` if there is none."""
    for layer in manifest.layers:
        if layer.file == file:
            return layer
    raise MalformedMessage(f"the manifest has no layer {file}")


def model_layer(manifest: Manifest) -> Descriptor:
    """Return the layer that is the model; raise `MalformedMessage` if there is none."""
    for layer in manifest.layers:
        if layer.file in MODEL_FILES.values():
            return layer
    raise MalformedMessage("the manifest has no layer that is a model")


def is_encrypted(manifest: Manifest) -> bool:
    """Say whether a content key is needed to use the bundle."""
    return any(layer.encrypted for layer in manifest.layers)


def bundle_bytes(content: bytes, manifest: Manifest) -> int:
    """Return what a device fetches: the manifest, its layers, and their chunk indexes."""
    total = len(content)
    for layer in device_layers(manifest):
        chunks = chunk_count(layer.size)
        total += layer.size + (chunks * 32 if chunks > 1 else 0)
    return total


def offered_layers(manifest: Manifest) -> tuple[Descriptor, ...]:
    """Return the layers that there are for devices of any age: all but the documents."""
    return tuple(layer for layer in manifest.layers if layer.media_type != LAYER_DOC)


def device_layers(manifest: Manifest) -> tuple[Descriptor, ...]:
    """Return the layers that a device fetches: of those, what is counted in place of the counts."""
    offered = offered_layers(manifest)
    if all(layer.file != WATCHED_FILE for layer in offered):
        return offered
    return tuple(layer for layer in offered if layer.file != REFERENCE_FILE)
