"""What rules of data look at, gathered sample by sample.

Pure but for arithmetic: rows and arrays in, facts out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl_datasets.documents import Dataset, Row
from edgectl_datasets.fitting import misfit_of
from edgectl_datasets.samples import Arrays
from edgectl_protocol.manifest import TensorSpec
from edgectl_protocol.watching import Reference
from edgectl_statistics.tensors import describe, names_of

__all__ = ["Facts", "gather"]

_INPUT = "input."


@dataclass
class Facts:
    """What is known of a dataset.

    Attributes:
        dataset: what it says of itself.
        rows: all of them.
        misfits: by sample, what is wrong with its tensors.
        not_finite: samples with an input that holds NaN or infinity.
        contents: by sample, a digest of its inputs alone.
        features: by feature of the reference, its value in each sample that fits; NaN: no number.
        reference: of the model; None: there is none.
        model_inputs: of the newest version of the model; None: nobody asked.
    """

    dataset: Dataset
    rows: Sequence[Row]
    misfits: dict[str, str] = field(default_factory=dict)
    not_finite: list[str] = field(default_factory=list)
    contents: dict[str, str] = field(default_factory=dict)
    features: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    reference: Reference | None = None
    model_inputs: Sequence[TensorSpec] | None = None


def gather(
    dataset: Dataset,
    rows: Sequence[Row],
    samples: Iterable[tuple[Row, Arrays]],
    *,
    reference: Reference | None = None,
    model_inputs: Sequence[TensorSpec] | None = None,
) -> Facts:
    """Look at every sample once.

    Args:
        dataset: what it says of itself.
        rows: all of them.
        samples: each row with its tensors.
        reference: what the model's features were like when it was pushed.
        model_inputs: what the newest version of the model takes.
    """
    facts = Facts(dataset, rows, reference=reference, model_inputs=model_inputs)
    described: dict[str, list[float]] = {}
    for row, arrays in samples:
        misfit = misfit_of(arrays, dataset.inputs)
        if misfit:
            facts.misfits[row.sample] = misfit
            continue
        inputs = {spec.name: arrays[f"{_INPUT}{spec.name}"] for spec in dataset.inputs}
        if not all(np.isfinite(one).all() for one in inputs.values() if one.dtype.kind == "f"):
            facts.not_finite.append(row.sample)
        facts.contents[row.sample] = _digest(inputs)
        if reference is not None:
            _describe(reference, inputs, described)
    facts.features = {name: np.asarray(values) for name, values in described.items()}
    return facts


def _digest(inputs: Mapping[str, npt.NDArray[Any]]) -> str:
    state = hashlib.sha256()
    for name, array in sorted(inputs.items()):
        state.update(f"{name}\n{array.dtype.str}\n{array.shape}\n".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def _describe(
    reference: Reference,
    inputs: Mapping[str, npt.NDArray[Any]],
    described: dict[str, list[float]],
) -> None:
    """Add a sample's features, as far as the reference has them."""
    known = {feature.name for feature in reference.features}
    for tensor in reference.inputs:
        array = inputs.get(tensor.name)
        if array is None or array.ndim < 1 or not array.size:
            continue
        names = names_of(tensor, array.shape[1:])
        for name, value in zip(names, describe(tensor, array)[0].tolist(), strict=True):
            if name in known:
                described.setdefault(name, []).append(value)
