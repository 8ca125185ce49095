"""A pushed ``.tflite`` file: checked, its data read; it is published as it is, or refused.

Its data may be what the model takes, or floats where the model takes integers that stand for
numbers: they are rounded as the file says.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from edgectl_server.pipeline.checks import DATATYPES, ModelFacts
from edgectl_server.pipeline.course import Subject
from edgectl_server.pipeline.data import Array, Role, Samples, load_samples
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.spec import PipelineSpec, Progress
from edgectl_server.pipeline.tflite_checks import Scaling, TfliteFacts, check_tflite

__all__ = ["TFLITE_FILE", "check_pushed"]

TFLITE_FILE = "pushed.tflite"
_NUMPY_TYPES = dict(DATATYPES.values())


def check_pushed(
    content: bytes, spec: PipelineSpec, directory: Path, progress: Callable[[Progress], None]
) -> Subject:
    """Check a file that begins like ``.tflite``, and read the data for it.

    Args:
        content: the file; what has been checked is written to `TFLITE_FILE`.
        spec: what is asked for; that of the subject has the precision of the file alone.
        directory: where files are made.
        progress: told of every step.

    Raises:
        PipelineRefused: ``model.…``, ``data.…``, or the push asks for what cannot be had.
    """
    facts = check_tflite(content, spec.limits)
    _check_asked(facts, spec)
    (directory / TFLITE_FILE).write_bytes(content)

    def load(path: Path | None, role: Role) -> Samples | None:
        if path is None:
            return None
        progress(Progress(stage="check", message=f"{role} data"))
        return load_samples(
            path,
            role,
            facts.inputs,
            bytes_max=spec.limits.data_bytes_max,
            quantize={
                one.name: functools.partial(
                    _elements, scaling=facts.scalings[one.name], dtype=_NUMPY_TYPES[one.datatype]
                )
                for one in facts.inputs
                if one.name in facts.scalings and _NUMPY_TYPES[one.datatype].kind in "iu"
            },
        )

    return Subject(
        spec=msgspec.structs.replace(spec, precisions=(facts.precision,)),
        source="sha256:" + hashlib.sha256(content).hexdigest(),
        model=None,
        facts=ModelFacts(
            opset=0, nodes=facts.nodes, parameters=facts.parameters, inputs=facts.inputs
        ),
        processing=(),
        calibration=load(spec.calibration, "calibration"),
        evaluation=load(spec.evaluation, "evaluation"),
        tflite=facts,
    )


def _check_asked(facts: TfliteFacts, spec: PipelineSpec) -> None:
    if spec.processing is not None or spec.input_shapes:
        what = "declared steps" if spec.processing is not None else "shapes of inputs"
        raise PipelineRefused(
            "model.tflite",
            f"A .tflite file is published as it is: {what} cannot become part of it.",
            "Push the model as ONNX, or make them part of what you convert.",
        )
    if facts.precision != "fp16" and facts.precision not in spec.precisions:
        raise PipelineRefused(
            "model.tflite",
            f"A .tflite file is published as it is, and this one is {facts.precision}; asked for "
            f"was {', '.join(spec.precisions)}.",
            f"Push it with --precision {facts.precision}, or push the model as ONNX.",
        )


def _elements(numbers: Array, *, scaling: Scaling, dtype: np.dtype[np.generic]) -> Array:
    return scaling.elements(numbers, dtype)
