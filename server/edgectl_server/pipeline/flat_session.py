"""A flat model, run by its reference: for the accuracy of a microcontroller's variant.

What comes out is what the microcontroller gives, bit for bit. How long it takes here says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.flat_format import FlatInvalid
from edgectl_server.pipeline.flat_reading import decode_flat
from edgectl_server.pipeline.flat_reference import dequantize, quantize, run_flat

__all__ = ["FLAT_SUFFIX", "FLAT_TOOL", "FlatSession"]

Array = npt.NDArray[Any]
FLAT_SUFFIX = ".flat"
FLAT_TOOL = "the reference of flat models"
_FILE_BYTES_MAX = 2**24
_AT_ONCE = 8
"""Samples: all windows of a convolution are in memory."""


class FlatSession:
    """A loaded model, which takes and gives numbers as its float original does."""

    def __init__(
        self, path: Path, inputs: Sequence[TensorSpec], outputs: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Load a model.

        Args:
            path: the file.
            inputs: of the original.
            outputs: name and shape of the original's only one, FP32.

        Raises:
            FlatInvalid: it is none, or not of one input and one output.
        """
        with path.open("rb") as file:
            self._model = decode_flat(file.read(_FILE_BYTES_MAX + 1))
        if [one.datatype for one in inputs] != ["FP32"] or len(outputs) != 1:
            raise FlatInvalid("a microcontroller's model has one input and one output, both FP32")
        self._input = inputs[0].name
        ((self._output, self._shape),) = outputs.items()

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Compute the output of some samples."""
        assert list(names) == [self._output], names
        model, numbers = self._model, feeds[self._input]
        parts = [
            run_flat(model, quantize(numbers[at : at + _AT_ONCE], model.tensors[model.input]))
            for at in range(0, len(numbers), _AT_ONCE)
        ]
        found = dequantize(np.concatenate(parts), model.tensors[model.output])
        return [found.reshape(len(numbers), *self._shape[1:])]
