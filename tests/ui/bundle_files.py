"""The signed files of the bundles in the rows: as small as they may be, and really there."""

from __future__ import annotations

import msgspec

from edgectl_protocol.manifest import (
    ARTIFACT_TYPE,
    CONFIG_FILE,
    CONFIG_MEDIA_TYPE,
    LAYER_CONFIG,
    LAYER_DATASET,
    LAYER_WEIGHT,
    MANIFEST_MEDIA_TYPE,
    MODEL_FILES,
    TITLE_ANNOTATION,
    BundleConfig,
    Descriptor,
    Golden,
    Lineage,
    Manifest,
    Quantization,
    Scores,
    TensorSpec,
    Tolerance,
)
from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import REFERENCE_FILE
from ui.watch_rows import reference

CASES = 16
WATCHED = ("har", "3")
"""The version whose bundles have a reference."""


_CONTRACTS: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "har": ((9, 128), ("walking", "upstairs", "downstairs", "sitting", "standing", "<b>lying</b>")),
    "door": ((3, 64, 64), ("open", "closed", "ajar")),
    "kws": ((6,), ("silence", "yes", "no")),
}
_NAMES = {"har": ("window", "probabilities")}
Contract = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], tuple[str, ...]]


def contract_of(model: str) -> Contract:
    """Return inputs, outputs and classes of a model: a series, a picture or a row of a table."""
    shape, labels = _CONTRACTS.get(model, _CONTRACTS["har"])
    given, answered = _NAMES.get(model, ("frame", "scores"))
    return (
        (TensorSpec(name=given, datatype="FP32", shape=(-1, *shape)),),
        (TensorSpec(name=answered, datatype="FP32", shape=(-1, len(labels))),),
        labels,
    )


def bundle_files(model: str, version: str, trial: dict[str, str]) -> list[bytes]:
    """Return the files of a bundle, the manifest last.

    Args:
        model: name.
        version: name.
        trial: of which it was made.
    """
    inputs, outputs, labels = contract_of(model)
    config = BundleConfig(
        model=model,
        version=version,
        variant=trial["variant"],
        runtime="onnxruntime",
        format="onnx",
        precision=trial["precision"],  # type: ignore[arg-type]
        inputs=inputs,
        labels=labels,
        outputs=outputs,
        scores=Scores(output=outputs[0].name, kind="probabilities"),
        golden=Golden(
            cases=CASES,
            tolerances={outputs[0].name: Tolerance(atol=0.02, rtol=0.001)},
            agreement_min=0.9,
        ),
        quantization=Quantization(recipe=trial["recipe"], calibration_samples=200),
        lineage=Lineage(source=digest_of(b"source"), code_revision="4f1c2ab"),
    )
    files: dict[str, tuple[str, bytes]] = {
        MODEL_FILES["onnx"]: (LAYER_WEIGHT, f"{model} {version} {trial['variant']}".encode()),
        CONFIG_FILE: (LAYER_CONFIG, msgspec.json.encode(config)),
    }
    if (model, version) == WATCHED:
        files[REFERENCE_FILE] = (LAYER_DATASET, msgspec.json.encode(reference()))
    manifest = Manifest(
        schema_version=2,
        media_type=MANIFEST_MEDIA_TYPE,
        artifact_type=ARTIFACT_TYPE,
        config=Descriptor(media_type=CONFIG_MEDIA_TYPE, digest=digest_of(b"{}"), size=2),
        layers=tuple(
            Descriptor(
                media_type=kind,
                digest=digest_of(content),
                size=len(content),
                annotations={TITLE_ANNOTATION: name},
            )
            for name, (kind, content) in files.items()
        ),
    )
    return [*(content for _, content in files.values()), msgspec.json.encode(manifest)]


def manifest_of(model: str, version: str, trial: dict[str, str]) -> str:
    """Return the digest of a bundle."""
    return digest_of(bundle_files(model, version, trial)[-1])
