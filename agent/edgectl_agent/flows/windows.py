"""Sliding windows over the rows of a sensor, in the order of axes that the model takes."""

from __future__ import annotations

from collections import deque

import numpy as np

from edgectl_agent.flows.addresses import Address
from edgectl_agent.flows.items import Malformed
from edgectl_agent.session import Tensor
from edgectl_protocol.manifest import TensorSpec

__all__ = ["Windows", "arranged", "windows_of"]

ROWS_MAX = 65536
CHANNELS_MAX = 256


class Windows:
    """The last `size` rows, every `step` rows; all rows have as many numbers as the first."""

    def __init__(self, size: int, step: int) -> None:
        self._size, self._step = size, step
        self._rows: deque[list[float]] = deque(maxlen=size)
        self._since = 0
        self._channels = 0

    def push(self, row: list[float]) -> Tensor | None:
        """Take a row; return a window, (size, channels) float64, where one is due.

        Raises:
            Malformed: the row is not like the others, and is left out.
        """
        if not self._channels and 0 < len(row) <= CHANNELS_MAX:
            self._channels = len(row)
        if len(row) != self._channels:
            raise Malformed(f"a row of {len(row)} numbers, expected {self._channels or 'some'}")
        self._rows.append(row)
        self._since += 1
        if len(self._rows) < self._size or self._since < self._step:
            return None
        self._since = 0
        return np.array(self._rows)


def windows_of(address: Address) -> Windows:
    """Return the windows that the options ``window`` and ``step`` ask for; one row by default."""
    size = address.number("window", 1, 1, ROWS_MAX)
    return Windows(size, address.number("step", size, 1, ROWS_MAX))


def arranged(window: Tensor, inputs: tuple[TensorSpec, ...]) -> Tensor:
    """Return a window as the model's only input: rows or channels first, or flat.

    Raises:
        Malformed: it fits in no order.
    """
    if len(inputs) != 1:
        raise Malformed("a window fits a model with one input")
    shape = inputs[0].shape
    batched = shape[1:] if len(shape) > 1 and shape[0] in {-1, 1} else shape
    rows, channels = window.shape
    fits = [
        (window, (rows, channels)),
        (np.ascontiguousarray(window.T), (channels, rows)),
        (window.ravel(), (rows * channels,)),
    ]
    for array, offered in fits:
        if len(batched) == len(offered) and all(
            wanted in {-1, got} for wanted, got in zip(batched, offered, strict=True)
        ):
            return array if batched is shape else array[np.newaxis]
    raise Malformed(f"windows of {rows} rows of {channels} do not fit {list(shape)}")
