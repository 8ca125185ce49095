"""Champion and challenger on the same rows: what the gates decide by, counted.

The challenger is a hostile file like any pushed one: it is parsed, checked and run here, in a
process of its own. It must have the inputs and outputs of the champion, to the name, datatype and
shape, because applications and devices know those.

Old rows are those that the champion was pushed with to be measured on; new rows are the dataset's
test split, which no trainer has seen.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.data import LABEL_KEY, Samples
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.execution import Outputs, Runner
from edgectl_server.pipeline.scoring import all_finite, find_scores
from edgectl_server.training.inputs import load_optional, read_dataset, read_model, read_splits
from edgectl_server.training.spec import (
    CALIBRATION,
    DATASET,
    EVALUATION,
    MODEL,
    OUT,
    SOURCE,
    Accuracies,
    Examined,
    TrainSpec,
)

__all__ = ["examine"]


def examine(spec: TrainSpec, directory: Path) -> Examined:
    """Compare ``source.onnx`` with ``out/model.onnx``, and lay out the data for the push.

    Raises:
        PipelineRefused: ``training.incompatible``, ``training.too_few``, ``training.dataset``,
            ``model.…``.
    """
    paths = directory / SOURCE, directory / OUT / MODEL
    (_, inputs), (challenger, others) = (read_model(path, spec.limits) for path in paths)
    del challenger
    if inputs != others:
        raise _incompatible("inputs", inputs, others)
    splits = read_splits(read_dataset(directory / DATASET, inputs), inputs)
    test = splits.get("test")
    if test is None:
        raise PipelineRefused(
            "training.too_few",
            "The dataset has no labelled rows in its test split, by which a model could be judged.",
            "Label more samples, and make a dataset with a larger share for test.",
        )
    runners = [Runner(path, inputs) for path in paths]
    old = load_optional(directory / EVALUATION, "evaluation", inputs, spec.limits)
    usable = old is not None and old.labels is not None and old.labels.dtype == np.int64
    result = Examined(
        old=_compare(runners, old) if usable and old is not None else None,
        new=_compare(runners, test),
        labels=sum(one.count for one in splits.values()),
        same=_digest(paths[0]) == _digest(paths[1]),
    )
    _lay_out(spec, directory, inputs, splits=splits, old=old if usable else None)
    return result


def _compare(runners: list[Runner], samples: Samples) -> Accuracies:
    outputs = [runner.run(samples) for runner in runners]
    forms = [
        {name: (str(array.dtype), array.shape) for name, array in one.items()} for one in outputs
    ]
    if forms[0] != forms[1]:
        raise _incompatible("outputs", *forms)
    if not all_finite(outputs[1]):
        raise PipelineRefused(
            "training.incompatible",
            "The trained model answers real rows with NaN or infinity.",
            "Look for a division or a logarithm of 0 in it, or for a training that diverged.",
        )
    scores = find_scores(outputs[0], samples.inputs)
    if scores is None:
        raise PipelineRefused(
            "training.incompatible",
            "The model has no output of class scores, by which two of them could be compared.",
            "Retraining is for classifiers; push other models by hand.",
        )
    right = [_right(one, scores.output, samples) for one in outputs]
    return Accuracies(
        rows=samples.count,
        champion=int(right[0].sum()),
        challenger=int(right[1].sum()),
        differ=int((right[0] != right[1]).sum()),
    )


def _right(outputs: Outputs, name: str, samples: Samples) -> npt.NDArray[np.bool_]:
    """Return of each row [N] whether it is answered rightly."""
    right: npt.NDArray[np.bool_] = outputs[name].argmax(axis=1) == samples.labels
    return right


def _lay_out(
    spec: TrainSpec,
    directory: Path,
    inputs: tuple[TensorSpec, ...],
    *,
    splits: dict[str, Samples],
    old: Samples | None,
) -> None:
    """Write the data of the push: old rows and new ones, so that both are watched from now on."""
    calibration = load_optional(directory / CALIBRATION, "calibration", inputs, spec.limits)
    for name, parts, labelled in (
        (CALIBRATION, (calibration, splits.get("train")), False),
        (EVALUATION, (old, splits["test"]), True),
    ):
        there = [one for one in parts if one is not None]
        if not there:
            continue
        arrays: dict[str, Any] = {
            one.name: np.concatenate([part.inputs[one.name] for part in there]) for one in inputs
        }
        if labelled:
            arrays[LABEL_KEY] = np.concatenate(
                [part.labels for part in there if part.labels is not None]
            )
        np.savez_compressed(directory / OUT / name, **arrays)


def _incompatible(what: str, expected: object, got: object) -> PipelineRefused:
    return PipelineRefused(
        "training.incompatible",
        f"The trained model has other {what}: {got}, expected {expected}."[:1500],
        "Train a model that takes and gives what the one in service does, by name, type and shape.",
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
