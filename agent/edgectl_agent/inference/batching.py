"""Requests that wait for the same model, computed as one.

Only where the first size of every input and output is free, which is what a batch is in every
format that we know; that a model's rows have nothing to do with one another is for its author to
say, which is why somebody has to ask for this (`batch_rows_max`). Only requests that wait already
are joined: nobody waits longer for company.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgectl_agent.runtime import Tensor
from edgectl_protocol.manifest import BundleConfig

__all__ = ["is_batchable", "join", "joinable", "rows_of", "split"]


def is_batchable(config: BundleConfig) -> bool:
    """Say whether a model takes any number of rows in every input, and gives as many."""
    return all(spec.shape[:1] == (-1,) for spec in (*config.inputs, *config.outputs))


def rows_of(inputs: Mapping[str, Tensor]) -> int | None:
    """Return the number of rows of a request; None where its inputs have different numbers."""
    rows = {len(array) for array in inputs.values()}
    return rows.pop() if len(rows) == 1 else None


def joinable(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Say whether the rows of two requests are of the same shape."""
    return all(array.shape[1:] == other[name].shape[1:] for name, array in one.items())


def join(requests: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the rows of all requests, in order."""
    return {name: np.concatenate([one[name] for one in requests]) for name in requests[0]}


def split(outputs: Mapping[str, Tensor], rows: Sequence[int]) -> list[dict[str, Tensor]] | None:
    """Return each request's rows; None where the model did not give a row for each row.

    Args:
        outputs: of the joined requests.
        rows: of each request, in order.
    """
    if any(array.ndim == 0 or len(array) != sum(rows) for array in outputs.values()):
        return None
    ends = np.cumsum(rows).tolist()
    return [
        {name: array[end - count : end] for name, array in outputs.items()}
        for count, end in zip(rows, ends, strict=True)
    ]
