"""What every runtime gives: a loaded model with its tensors, and the ways in which it fails.

Imports NumPy and no runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DTYPES",
    "ModelRefused",
    "Node",
    "RunFailed",
    "Session",
    "Stop",
    "Tensor",
    "first_line",
    "raise_if_memory",
]

Tensor = NDArray[Any]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
"""NumPy type of each datatype of the Open Inference Protocol; BYTES are str objects."""

_NO_MEMORY = ("bad_alloc", "Failed to allocate memory", "Cannot allocate memory")


class ModelRefused(Exception):
    """The model cannot be loaded, or is not what its contract says.

    Attributes:
        code: ``load.unreadable`` (the file), ``load.undecipherable`` (file or key),
            ``load.runtime`` (its runtime is not installed), ``load.invalid`` or ``load.contract``
            (the model).
        detail: a sentence for a person.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class RunFailed(Exception):
    """The runtime could not compute the outputs of inputs that fit the contract."""


class Stop:
    """Ends runs from another thread: at once those to come, and where it can one under way."""

    def __init__(self) -> None:
        self._is_set = False
        self._end: Callable[[], None] = _nothing

    def set(self) -> None:
        """End them; they raise `RunFailed`."""
        self._is_set = True
        self._end()

    def is_set(self) -> bool:
        """Say whether runs are ended."""
        return self._is_set

    def ends(self, end: Callable[[], None]) -> None:
        """Say what ends the run that begins now; it is called at once if runs are ended."""
        self._end = end
        if self._is_set:
            end()


@dataclass(frozen=True)
class Node:
    """An input or output as the runtime sees it.

    Attributes:
        name: in the file.
        datatype: of the Open Inference Protocol, or the runtime's own word for another one.
        shape: None is any size; None as a whole is not known before a run.
    """

    name: str
    datatype: str
    shape: tuple[int | None, ...] | None


class Session(Protocol):
    """A model in memory.

    Attributes:
        inputs: in the order of the file.
        outputs: in the order of the file.
        named: whether their names are those of the contract; otherwise their order is.
        provider: execution provider or delegate that runs it.
    """

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    named: bool
    provider: str

    def run(
        self, outputs: tuple[str, ...], inputs: Mapping[str, Tensor], stop: Stop | None
    ) -> list[Tensor]:
        """Compute the outputs.

        Args:
            outputs: names in the contract, in its order.
            inputs: by the names of the contract.
            stop: by which another thread may end the run.

        Raises:
            RunFailed: the runtime refused, or was stopped; the message is its first line.
            MemoryError: there was not enough memory for it.
        """
        ...


def raise_if_memory(error: Exception) -> None:
    """Raise MemoryError for what the runtime says in its own words when it gets no memory."""
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        raise MemoryError(first_line(error)) from error


def first_line(error: BaseException) -> str:
    """Return the first line of what the runtime says, bounded."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]


def _nothing() -> None:
    pass
