"""A model in LiteRT, the runtime of ``.tflite`` files, on the CPU.

PyPI: ``ai-edge-litert``; where that cannot be had, as on 32-bit boards, its predecessor of the same
interface, ``tflite-runtime``.

Rules:

* Tensors are found by their place: the contract lists inputs and outputs in the order of the file,
  because names in such files are what a converter has left there.
* Nothing is resized. Such files are made for one sample; where the contract says any number (-1),
  samples are computed one after the other.
* One run at a time: it sets inputs, computes and reads outputs in one memory.
* XNNPACK computes, which the runtime has built in, unless a trial has found that it is worse than
  the plain operators: that it gives other answers, or dies.
* A run under way cannot be ended; a `Stop` ends those to come.
* The content of an encrypted model stays in memory: the runtime computes with the file itself.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import import_module, metadata
from typing import Any

import numpy as np

from edgectl_agent.session import (
    DTYPES,
    ModelRefused,
    Node,
    RunFailed,
    Stop,
    Tensor,
    first_line,
    raise_if_memory,
)
from edgectl_protocol.manifest import TensorSpec

__all__ = ["PLAIN", "PROVIDERS", "LitertSession", "check_installed"]

PLAIN = "builtin"
PROVIDERS = ("XNNPACK", PLAIN)

_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


def check_installed() -> None:
    """Import the runtime; raise ImportError where it is not installed."""
    _runtime()


def _runtime() -> tuple[Any, str]:
    """Return the module of the interpreter, and the name of its distribution."""
    try:
        import ai_edge_litert.interpreter as newer
    except ImportError as missing:
        try:
            older = import_module("tflite_runtime.interpreter")
        except ImportError:
            raise missing from None
        return older, "tflite-runtime"
    return newer, "ai-edge-litert"


class LitertSession:
    """See `edgectl_agent.session.Session`."""

    named = False

    def __init__(
        self,
        source: str | bytes,
        inputs: tuple[TensorSpec, ...],
        threads: int = 1,
        provider: str = "",
    ) -> None:
        """Load a model.

        Args:
            source: path of the file, or its content.
            inputs: of the contract; the names that `run` gets.
            threads: within one operator.
            provider: one of `PROVIDERS`; the first where it is none of them.

        Raises:
            ModelRefused: ``load.invalid``.
            MemoryError: there was not enough memory for it.
            ImportError: the runtime is not installed.
        """
        runtime, distribution = _runtime()
        given: dict[str, Any] = {"num_threads": threads}
        given["model_path" if isinstance(source, str) else "model_content"] = source
        self.provider = provider if provider in PROVIDERS else PROVIDERS[0]
        if self.provider == PLAIN:
            resolver = runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            given["experimental_op_resolver_type"] = resolver
        try:
            self._interpreter: Any = runtime.Interpreter(**given)
            self._interpreter.allocate_tensors()
            found = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        except Exception as error:  # ValueError and RuntimeError, and what pybind11 makes of others
            raise_if_memory(error)
            version = metadata.version(distribution)
            raise ModelRefused(
                "load.invalid", f"LiteRT {version} cannot load it: {first_line(error)}"
            ) from error
        self._lock = threading.Lock()
        self._loops = all(spec.shape and spec.shape[0] == -1 for spec in inputs)
        self.inputs = _nodes(found[0], free=False, any_number=self._loops)
        self.outputs = _nodes(found[1], free=True, any_number=self._loops)
        pairs = zip(inputs, found[0], strict=False)  # how many there are, the caller compares
        self._input_places = [(spec.name, one["index"]) for spec, one in pairs]
        self._output_places = [one["index"] for one in found[1]]

    def run(
        self,
        outputs: tuple[str, ...],  # noqa: ARG002 - all of them, in their order
        inputs: Mapping[str, Tensor],
        stop: Stop | None,
    ) -> list[Tensor]:
        """Compute the outputs."""
        if not self._loops:
            return self._run_one(inputs, stop)
        count = min(len(inputs[name]) for name, _ in self._input_places)
        if any(len(inputs[name]) != count for name, _ in self._input_places):
            raise RunFailed("the inputs have different numbers of samples")
        if count == 1:
            return self._run_one(inputs, stop)
        rows = [
            self._run_one({name: array[n : n + 1] for name, array in inputs.items()}, stop)
            for n in range(count)
        ]
        return [np.concatenate(values) for values in zip(*rows, strict=True)]

    def _run_one(self, inputs: Mapping[str, Tensor], stop: Stop | None) -> list[Tensor]:
        with self._lock:
            if stop is not None and stop.is_set():
                raise RunFailed("it was stopped")
            try:
                for name, place in self._input_places:
                    self._interpreter.set_tensor(place, inputs[name])
                self._interpreter.invoke()
                return [self._interpreter.get_tensor(place) for place in self._output_places]
            except Exception as error:  # as in loading
                raise_if_memory(error)
                raise RunFailed(first_line(error)) from error


def _nodes(details: list[dict[str, Any]], *, free: bool, any_number: bool) -> tuple[Node, ...]:
    """Describe inputs or outputs.

    Args:
        details: as the interpreter gives them; ``shape`` is the one it has made room for,
            ``shape_signature`` has -1 where another would do.
        free: whether such a size is reported as any size.
        any_number: whether one sample is reported as any number of them.
    """

    def shape(one: dict[str, Any]) -> tuple[int | None, ...]:
        sizes = zip(one["shape"], one["shape_signature"], strict=True)
        found = [None if free and wanted < 0 else int(size) for size, wanted in sizes]
        if any_number and found[:1] == [1]:
            found[0] = None
        return tuple(found)

    return tuple(
        Node(
            str(one["name"]),
            _DATATYPES.get(np.dtype(one["dtype"]), np.dtype(one["dtype"]).name),
            shape(one),
        )
        for one in details
    )
