"""A ``.tflite`` file in LiteRT, one thread, one sample at a time.

Inputs and outputs are found by their place in the file: names there are what a converter has left.
The runtime is imported when the first such file is loaded, which is in a task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LitertSession", "litert_tool"]

Array = npt.NDArray[Any]


def litert_tool() -> str:
    """Return name and version of the runtime."""
    return f"LiteRT {metadata.version('ai-edge-litert')}"


class LitertSession:
    """A loaded model; whatever the runtime raises passes through."""

    def __init__(self, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Load a model.

        Args:
            path: the file.
            inputs: what its inputs are called here, in the order of the file.
            outputs: the same of its outputs.

        Raises:
            ValueError: it has another number of them, or LiteRT cannot load it.
            RuntimeError: LiteRT cannot prepare it.
        """
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter: Any = Interpreter(model_path=str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        self._inputs = _places(inputs, self._interpreter.get_input_details())
        self._outputs = _places(outputs, self._interpreter.get_output_details())

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Compute the outputs that are named, of one sample."""
        for name, place in self._inputs.items():
            self._interpreter.set_tensor(place, np.ascontiguousarray(feeds[name]))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(self._outputs[name]) for name in names]


def _places(names: Sequence[str], details: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    if len(names) != len(details):
        raise ValueError(f"it has {len(details)} tensors there, expected are {len(names)}")
    return {name: int(one["index"]) for name, one in zip(names, details, strict=True)}
