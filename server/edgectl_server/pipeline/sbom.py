"""``sbom.cdx.json``: the bundle's bill of materials, CycloneDX 1.6 (ECMA-424).

A component ``machine-learning-model`` with its model card, the data that it was made and measured
with, the model that was pushed as its ancestor, and the tools that made it. Deterministic: there is
no serial number and no time in it (both are optional), and everything is in a fixed order.
"""

from __future__ import annotations

import json
from typing import Any

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.provenance import Provenance

__all__ = ["make_sbom"]

_TASKS = {"accuracy": "classification", "auc": "classification", "rmse": "regression"}


def make_sbom(about: Provenance) -> bytes:
    """Return the document as JSON, keys sorted."""
    config = about.config
    name = f"{config.model}/{config.variant}"
    data = _data(about)
    component = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name,
        "version": config.version,
        "hashes": _hashes(about.model_digest),
        "pedigree": {"ancestors": _ancestors(about)},
        "modelCard": _model_card(about, data),
        "properties": _properties(about),
        "publisher": config.lineage.pushed_by,
    }
    tools = [
        {
            "type": "application" if tool == "edgectl" else "library",
            "name": tool,
            "version": version,
        }
        for tool, version in about.tools
    ]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _without_empty(component), "tools": {"components": tools}},
        "components": data,
        "dependencies": [
            {"ref": "model", "dependsOn": [one["bom-ref"] for one in data]},
            *({"ref": one["bom-ref"]} for one in data),
        ],
    }
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=True).encode() + b"\n"


def _data(about: Provenance) -> list[dict[str, Any]]:
    """Return the data sets, each once, with what they were used for."""
    config = about.config
    uses: dict[str, list[str]] = {}
    for use, digest in (
        ("calibration", config.quantization.calibration),
        ("evaluation", config.evaluation.dataset if config.evaluation else None),
        ("training", config.lineage.training_data),
    ):
        if digest:
            uses.setdefault(digest, []).append(use)
    return [
        {
            "type": "data",
            "bom-ref": f"data-{'-'.join(found)}",
            "name": f"{' and '.join(found)} data",
            "hashes": _hashes(digest),
            "data": [{"type": "dataset", "name": f"{' and '.join(found)} data"}],
        }
        for digest, found in uses.items()
    ]


def _ancestors(about: Provenance) -> list[dict[str, Any]]:
    lineage = about.config.lineage
    source = {
        "type": "machine-learning-model",
        "name": about.config.model,
        "description": "the file that was pushed",
        "hashes": _hashes(lineage.source),
        "properties": _named({"edgectl:code_revision": lineage.code_revision}),
    }
    parent = {
        "type": "machine-learning-model",
        "name": about.config.model,
        "version": lineage.parent or "",
        "description": "the version that this one was trained from",
    }
    return [_without_empty(source), *([parent] if lineage.parent else [])]


def _model_card(about: Provenance, data: list[dict[str, Any]]) -> dict[str, Any]:
    config, found = about.config, about.config.evaluation
    parameters: dict[str, Any] = {
        "task": _TASKS.get(found.metric, "") if found else "",
        "inputs": [{"format": _format(one)} for one in config.inputs],
        "outputs": [{"format": _format(one)} for one in config.outputs],
        "datasets": [{"ref": one["bom-ref"]} for one in data],
    }
    card: dict[str, Any] = {"modelParameters": _without_empty(parameters)}
    if found is not None:
        of = f"{found.samples} samples of the {about.metric_source} data"
        card["quantitativeAnalysis"] = {
            "performanceMetrics": [
                {"type": found.metric, "value": _number(found.value), "slice": of},
                {"type": f"{found.metric} of fp32", "value": _number(found.reference), "slice": of},
            ]
        }
    return card


def _properties(about: Provenance) -> list[dict[str, str]]:
    config = about.config
    return _named(
        {
            "edgectl:calibration_samples": str(config.quantization.calibration_samples or ""),
            "edgectl:float_nodes": "\n".join(config.quantization.float_nodes),
            "edgectl:format": config.format,
            "edgectl:nodes": str(about.nodes),
            "edgectl:opset": str(about.opset or ""),
            "edgectl:parameters": str(about.parameters),
            "edgectl:precision": config.precision,
            "edgectl:recipe": config.quantization.recipe,
            "edgectl:runtime": config.runtime,
        }
    )


def _named(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in sorted(values.items()) if value]


def _hashes(digest: str | None) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}] if digest else []


def _format(spec: TensorSpec) -> str:
    shape = ", ".join("N" if size < 0 else str(size) for size in spec.shape)
    return f"{spec.name}: {spec.datatype} [{shape}]"


def _number(value: float) -> str:
    return f"{value:.6g}"


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value or value == 0}
