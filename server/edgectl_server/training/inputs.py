"""What a trainer learns from, as arrays: a dataset's folder, and the data of the last push.

The folder is of our own making, and read by `edgectl_datasets`, which checks everything in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgectl_datasets.errors import BadDataset
from edgectl_datasets.fitting import misfit_of
from edgectl_datasets.folders import Folder, open_folder
from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.checks import check_model, parse_model
from edgectl_server.pipeline.data import Samples, load_samples
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.spec import PipelineLimits

__all__ = ["load_optional", "read_dataset", "read_model", "read_splits"]


def read_model(path: Path, limits: PipelineLimits) -> tuple[Any, tuple[TensorSpec, ...]]:
    """Return a checked model and its inputs; raise `PipelineRefused` ``model.…``."""
    model = parse_model(path.read_bytes(), limits)
    return model, check_model(model, limits).inputs


def read_dataset(path: Path, inputs: Sequence[TensorSpec]) -> Folder:
    """Open the dataset, which must be of the model's inputs.

    Raises:
        PipelineRefused: ``training.dataset``.
    """
    try:
        folder = open_folder(path)
    except BadDataset as error:
        raise _refused(str(error)) from error
    theirs = {(one.name, one.datatype, one.shape[1:]) for one in folder.dataset.inputs}
    ours = {(one.name, one.datatype, one.shape[1:]) for one in inputs}
    if theirs != ours:
        raise _refused(
            f"it is of the inputs {sorted(one[0] for one in theirs)}, the model file takes "
            f"{sorted(one[0] for one in ours)} (or of other shapes or datatypes)"
        )
    return folder


def read_splits(folder: Folder, inputs: Sequence[TensorSpec]) -> dict[str, Samples]:
    """Return the labelled rows of each split that has any.

    Raises:
        PipelineRefused: ``training.dataset``.
    """
    rows: dict[str, list[tuple[dict[str, Any], int]]] = {}
    try:
        for row, _, arrays in folder.samples():
            problem = misfit_of(arrays, folder.dataset.inputs)
            if problem:
                raise _refused(f"the sample {row.sample}: {problem}")
            if row.number >= 0:
                feeds = {one.name: arrays[f"input.{one.name}"] for one in inputs}
                rows.setdefault(row.split, []).append((feeds, row.number))
    except BadDataset as error:
        raise _refused(str(error)) from error
    return {
        split: Samples(
            role="evaluation",
            inputs={
                one.name: np.concatenate([feeds[one.name] for feeds, _ in found]) for one in inputs
            },
            labels=np.array([number for _, number in found], np.int64),
        )
        for split, found in rows.items()
    }


def load_optional(
    path: Path, role: Any, inputs: tuple[TensorSpec, ...], limits: PipelineLimits
) -> Samples | None:
    """Return the data of a push, or None where there is none."""
    if not path.exists():
        return None
    return load_samples(path, role, inputs, bytes_max=limits.data_bytes_max)


def _refused(problem: str) -> PipelineRefused:
    return PipelineRefused(
        "training.dataset",
        f"The dataset cannot be learned from: {problem}."[:1000],
        "Make a new one with `edgectl dataset create` from samples of this model.",
    )
