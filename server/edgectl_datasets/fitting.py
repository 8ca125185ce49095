"""Whether a sample is one row of the inputs that a dataset has."""

from __future__ import annotations

from collections.abc import Sequence

from edgectl_datasets.samples import Arrays
from edgectl_protocol.manifest import TensorSpec
from edgectl_protocol.samples import sample_datatype

__all__ = ["misfit_of"]

_DTYPES = {
    "BOOL": "b1", "U8": "u1", "U16": "u2", "U32": "u4", "U64": "u8", "I8": "i1", "I16": "i2",
    "I32": "i4", "I64": "i8", "F16": "f2", "F32": "f4", "F64": "f8",
}  # fmt: skip


def misfit_of(arrays: Arrays, inputs: Sequence[TensorSpec]) -> str:
    """Say where a sample is not one row of the dataset's inputs; empty where it is."""
    for spec in inputs:
        array = arrays.get(f"input.{spec.name}")
        if array is None:
            return f"it has no input {spec.name}"
        expected = _DTYPES.get(sample_datatype(spec.datatype) or "")
        if expected is None or array.dtype.str.lstrip("<|=") != expected:
            return f"{spec.name} is {array.dtype}, not {spec.datatype}"
        fits = len(array.shape) == len(spec.shape) and all(
            size in {-1, got} for size, got in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            return f"{spec.name} is {list(array.shape)}, not {list(spec.shape)}"
    return ""
