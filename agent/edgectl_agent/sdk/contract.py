"""From what an application has to the arrays of a model's contract.

Taken are: an array (a model with one input), a list or a number, and a dict of them by input name.
A sample without its batch axis gets one. Numbers are converted where nothing is lost but precision:
float64 to float32, small integers to floats; an integer outside the range of its input, text for
numbers, floats for integers are refused. Whether numbers are finite is the model's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgectl_agent.sdk.errors import InputRefused
from edgectl_agent.session import DTYPES, Tensor
from edgectl_protocol.manifest import TensorSpec

__all__ = ["arrays_of", "shaped_array"]


def arrays_of(given: Any, specs: tuple[TensorSpec, ...]) -> dict[str, Tensor]:
    """Return one array for each input.

    Args:
        given: as the module says.
        specs: the model's inputs.

    Raises:
        InputRefused: it does not fit; the sentence names expected and got.
    """
    names = [spec.name for spec in specs]
    if not isinstance(given, Mapping):
        if len(specs) != 1:
            raise _refused(f"the model has the inputs {names}: give a dict of them")
        return {names[0]: shaped_array(given, specs[0])}
    if set(given) != set(names):
        raise _refused(f"inputs {sorted(map(str, given))} were given, the model has {names}")
    return {spec.name: shaped_array(given[spec.name], spec) for spec in specs}


def shaped_array(value: Any, spec: TensorSpec) -> Tensor:
    """Return `value` as an array of the datatype and shape of `spec`; raise `InputRefused`."""
    array = _typed(value, spec)
    wanted = spec.shape
    if array.ndim == len(wanted) - 1 and wanted[0] in {-1, 1}:
        array = array[np.newaxis]
    if len(array.shape) != len(wanted) or any(
        got != size and not (size == -1 and got > 0)
        for got, size in zip(array.shape, wanted, strict=True)
    ):
        raise _refused(
            f"input {spec.name!r} has shape {list(np.shape(value))}, expected {list(wanted)}"
            + (" where -1 is any size from 1" if -1 in wanted else "")
        )
    return array


def _typed(value: Any, spec: TensorSpec) -> Tensor:
    dtype = DTYPES[spec.datatype]
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise _refused(f"input {spec.name!r} is no array: its rows differ in length") from error
    kinds = array.dtype.kind + dtype.kind
    if dtype.kind == "O":
        texts = array.astype(object)
        if all(isinstance(text, str) for text in texts.ravel()):
            return texts
        raise _refused(f"input {spec.name!r} is BYTES: its elements are str")
    if array.dtype == dtype:
        return array
    if kinds in {"ff", "if", "uf", "bf"}:
        with np.errstate(over="ignore"):
            return array.astype(dtype)
    if kinds in {"ii", "iu", "ui", "uu"}:
        bounds = np.iinfo(dtype)
        if array.size == 0 or (bounds.min <= array.min() and array.max() <= bounds.max):
            return array.astype(dtype)
        raise _refused(
            f"input {spec.name!r} is {spec.datatype}: its numbers are from {bounds.min} to "
            f"{bounds.max}, got {array.min()} to {array.max()}"
        )
    raise _refused(f"input {spec.name!r} is {spec.datatype}, got {array.dtype}")


def _refused(detail: str) -> InputRefused:
    return InputRefused("sdk.input", detail, hint="`inputs` of the model says what it takes")
