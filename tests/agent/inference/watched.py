"""Bundles with a reference, made as the pipeline makes it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnxruntime

from agent.inference.models import Array, make_bundle
from edgectl_agent.bundle import Bundle
from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import Feature, Reference
from edgectl_statistics.features import plan_of


def answers(bundle: Bundle, rows: Array) -> Array:
    """Return what the model of a bundle with one input answers."""
    session = onnxruntime.InferenceSession(bundle.model, providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {bundle.config.inputs[0].name: rows})[0]
    return found


def watched_bundle(directory: Path, rows: Array, *, bins: int = 32) -> Bundle:
    """Return the activity model with a reference of these rows."""
    bundle = make_bundle(directory, scores=True, labels=tuple("abcdefg"))
    config = bundle.config
    plan = plan_of(config.inputs, config.outputs, config.scores)
    assert plan is not None
    inputs = {config.inputs[0].name: rows}
    outputs = {config.outputs[0].name: answers(bundle, rows)}
    described = plan.describe(inputs, outputs)
    features = []
    for name, values in zip(plan.names(inputs, outputs), described.values.T, strict=True):
        edges = np.unique(np.quantile(values, np.arange(1, bins) / bins))
        places = np.searchsorted(edges, values, "right")
        features.append(
            Feature(
                name=name,
                edges=tuple(edges.tolist()),
                counts=tuple(np.bincount(places, minlength=len(edges) + 1).tolist()),
                low=float(values.min()),
                high=float(values.max()),
            )
        )
    reference = Reference(
        definition=1,
        source="evaluation",
        dataset=digest_of(b"data"),
        rows=len(rows),
        inputs=plan.inputs,
        features=tuple(features),
        classes=tuple(np.bincount(described.classes, minlength=7).tolist()),
    )
    path = directory / "reference.json"
    path.write_bytes(msgspec.json.encode(reference))
    return msgspec.structs.replace(bundle, reference=str(path))
