"""A published bundle with a reference, without a push."""

from datetime import UTC, datetime

import msgspec

from edgectl_protocol.manifest import (
    ARTIFACT_TYPE,
    CONFIG_MEDIA_TYPE,
    LAYER_CONFIG,
    LAYER_DATASET,
    LAYER_WEIGHT,
    MANIFEST_MEDIA_TYPE,
    TITLE_ANNOTATION,
    BundleConfig,
    Descriptor,
    Golden,
    Lineage,
    Manifest,
    Quantization,
    TensorSpec,
)
from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import Reference
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import BundleVariant, Model, ModelVersion


def publish(
    database: Database, blobs: BlobStore, reference: Reference, model: str = "har"
) -> tuple[str, str]:
    """Publish it; return the digests of manifest and reference."""
    at = datetime(2031, 1, 1, tzinfo=UTC)
    tensor = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
    config = BundleConfig(
        model=model,
        version="1",
        variant="fp32",
        runtime="onnxruntime",
        format="onnx",
        precision="fp32",
        inputs=(tensor,),
        outputs=(tensor,),
        golden=Golden(cases=1, tolerances={}),
        quantization=Quantization(recipe="fp32"),
        lineage=Lineage(source=digest_of(b"source")),
        labels=("still", "moving"),
    )

    def layer(content: bytes, file: str, media_type: str) -> Descriptor:
        digest = blobs.add_bytes(content)
        annotations = {TITLE_ANNOTATION: file} if file else {}
        return Descriptor(
            media_type=media_type, digest=digest, size=len(content), annotations=annotations
        )

    told = layer(msgspec.json.encode(reference), "reference.json", LAYER_DATASET)
    manifest = Manifest(
        schema_version=2,
        media_type=MANIFEST_MEDIA_TYPE,
        artifact_type=ARTIFACT_TYPE,
        config=layer(b"{}", "", CONFIG_MEDIA_TYPE),
        layers=(
            layer(model.encode(), "model.onnx", LAYER_WEIGHT),
            layer(msgspec.json.encode(config), "edgectl.json", LAYER_CONFIG),
            told,
        ),
    )
    content = msgspec.json.encode(manifest)
    digest = blobs.add_bytes(content)
    with database.write() as session:
        session.add(Model(name=model, created_at=at, created_by="test"))
        session.flush()
        version = ModelVersion(
            model=model, version="1", state="ready", content=digest, source=digest, source_size=1,
            source_name="m.onnx", calibration=None, evaluation=None, options={}, report=None,
            parent=None, job=None, created_at=at, created_by="test",
        )  # fmt: skip
        session.add(version)
        session.flush()
        session.add(
            BundleVariant(
                version_id=version.id, variant="fp32", precision="fp32", target="t",
                manifest=digest, manifest_size=len(content), bundle_bytes=1, model_bytes=1,
                rank=0, trial={},
            )
        )  # fmt: skip
    return digest, told.digest
