"""Which tensor of the base a tensor of the target was: by name, else by what is in it."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from edgectl_delta.elements import Array
from edgectl_protocol.deltas import Kind
from edgectl_server.deltas.tensors import Tensor

__all__ = ["match_tensors", "values"]

_DTYPES = {
    Kind.F32: "<f4", Kind.F16: "<f2", Kind.BF16: "<u2", Kind.I8: "<i1", Kind.U8: "<u1",
    Kind.I32: "<i4",
}  # fmt: skip
_SAMPLES_MAX = 2048
_CANDIDATES_MAX = 64
_ALIKE_MIN = 0.5
"""Correlation with which a renamed tensor is taken for its successor."""


def values(content: memoryview, tensor: Tensor) -> Array:
    """Return the elements of a tensor; bfloat16 as its bits."""
    return np.frombuffer(content, _DTYPES[tensor.kind], tensor.size, tensor.offset)


def match_tensors(
    base: memoryview, befores: list[Tensor], target: memoryview, afters: list[Tensor]
) -> list[Tensor | None]:
    """Return for each tensor of the target the one it is made from, or None.

    A tensor with the same name, type and number of elements is it. Otherwise, of those with the
    same type and number of elements, the one that is most like it.
    """
    by_name: dict[tuple[str, Kind, int], Tensor] = {}
    by_size: defaultdict[tuple[Kind, int], list[Tensor]] = defaultdict(list)
    for tensor in befores:
        by_name.setdefault((tensor.name, tensor.kind, tensor.size), tensor)
        by_size[tensor.kind, tensor.size].append(tensor)
    names = {tensor.name for tensor in afters}
    found = []
    for tensor in afters:
        before = by_name.get((tensor.name, tensor.kind, tensor.size))
        if before is None:
            candidates = by_size[tensor.kind, tensor.size]
            free = [one for one in candidates if one.name not in names]
            others = [one for one in candidates if one.name in names]
            before = _most_alike(base, (free + others)[:_CANDIDATES_MAX], target, tensor)
        found.append(before)
    return found


def _most_alike(
    base: memoryview, candidates: list[Tensor], target: memoryview, tensor: Tensor
) -> Tensor | None:
    best, best_alike = None, _ALIKE_MIN
    wanted = _sample(target, tensor)
    for candidate in candidates:
        alike = _correlation(wanted, _sample(base, candidate))
        if alike > best_alike:
            best, best_alike = candidate, alike
    return best


def _sample(content: memoryview, tensor: Tensor) -> Array:
    found = values(content, tensor)
    step = max(1, tensor.size // _SAMPLES_MAX)
    with np.errstate(all="ignore"):
        return found[::step].astype(np.float64)


def _correlation(one: Array, other: Array) -> float:
    """Return the cosine of two vectors; 1 if both are the same."""
    if np.array_equal(one, other):
        return 1.0
    with np.errstate(all="ignore"):
        size = float(np.sqrt(np.dot(one, one) * np.dot(other, other)))
        found = float(np.dot(one, other)) / size if size > 0 else 0.0
    return found if np.isfinite(found) else 0.0
