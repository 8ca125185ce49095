"""One model in memory: an onnxruntime session behind a small interface.

Only the inference process and the trial process import this module; the supervisor never does,
because runtime and NumPy cost 40 MB of resident memory.

Rules:

* A model is refused at loading unless its inputs and outputs are those of the signed contract.
* One thread for small models; for larger ones all cores, without spinning, because a device has
  other work to do between two requests.
* An encrypted model is opened in memory and handed to the runtime there; the runtime keeps what it
  makes of it, and our copy is let go.
* No memory arena: what a run has used goes back to the allocator (measured: no slower).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgectl_agent.bundle import Bundle
from edgectl_agent.decryption import Undecipherable, read_layer
from edgectl_protocol.manifest import MODEL_FILE, BundleConfig, TensorSpec

__all__ = [
    "DTYPES",
    "Model",
    "ModelRefused",
    "RunFailed",
    "Stop",
    "Tensor",
    "shape_fits",
    "threads_for",
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

_ONNX_DATATYPES: Mapping[str, str] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_ONE_THREAD_BYTES_MAX = 1024 * 1024
"""Up to this file size a second thread costs more in hand-over than it saves."""
_LOG_ERRORS = 3
_NO_MEMORY = ("bad_alloc", "Failed to allocate memory", "Cannot allocate memory")


class ModelRefused(Exception):
    """The model cannot be loaded, or is not what its contract says.

    Attributes:
        code: ``load.unreadable`` (the file), ``load.undecipherable`` (file or key),
            ``load.invalid`` or ``load.contract`` (the model).
        detail: a sentence for a person.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class RunFailed(Exception):
    """The runtime could not compute the outputs of inputs that fit the contract."""


class Stop:
    """Ends runs from another thread: at once those to come, at its next operator one under way."""

    def __init__(self) -> None:
        self.options = onnxruntime.RunOptions()

    def set(self) -> None:
        """End them; they raise `RunFailed`."""
        self.options.terminate = True

    def is_set(self) -> bool:
        """Say whether runs are ended."""
        return bool(self.options.terminate)


class _Node(Protocol):
    name: str
    type: str
    shape: list[int | str | None] | None


class Model:
    """A loaded model.

    Attributes:
        bundle: what it was loaded from.
        config: the signed contract.
        load_ms: how long loading took, in milliseconds.
        threads: within one operator.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        """Load `bundle`.

        Args:
            bundle: verified files.
            threads: threads within one operator; None decides by the size of the file.

        Raises:
            ModelRefused: unreadable, not to be opened with the bundle's key, not a model for this
                runtime, or outside its contract.
            MemoryError: there was not enough memory for it.
        """
        self.bundle = bundle
        self.config: BundleConfig = bundle.config
        started = time.perf_counter()
        source, size = _source(bundle)
        self.threads = threads or threads_for(size)
        self._session = _open_session(source, self.threads)
        self.load_ms = (time.perf_counter() - started) * 1000
        _check_contract("input", self.config.inputs, self._session.get_inputs())
        _check_contract("output", self.config.outputs, self._session.get_outputs())
        self._outputs = [spec.name for spec in self.config.outputs]

    def run(self, inputs: Mapping[str, Tensor], stop: Stop | None = None) -> dict[str, Tensor]:
        """Compute all outputs.

        Args:
            inputs: one array for each input of the contract, of its datatype and shape.
            stop: by which another thread may end the run.

        Raises:
            RunFailed: the runtime refused, or was stopped; the message is its first line.
            MemoryError: there was not enough memory for it.
        """
        try:
            values = self._session.run(self._outputs, inputs, stop and stop.options)
        except Exception as error:  # the runtime raises a dozen unrelated types
            _raise_if_memory(error)
            raise RunFailed(_first_line(error)) from error
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """Free the session; the model cannot run afterwards."""
        self._session = None


def threads_for(model_bytes: int) -> int:
    """Return how many threads a model of this file size gets within one operator."""
    return 1 if model_bytes <= _ONE_THREAD_BYTES_MAX else len(os.sched_getaffinity(0))


def shape_fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    """Say whether an array of `shape` may be given for `spec`; -1 there is any size from 1."""
    return len(shape) == len(spec.shape) and all(
        got == wanted or (wanted == -1 and got > 0)
        for got, wanted in zip(shape, spec.shape, strict=True)
    )


def _source(bundle: Bundle) -> tuple[str | bytes, int]:
    """Return the path of a plain model, or the content of an encrypted one, and its size."""
    try:
        if bundle.key is None:
            return bundle.model, Path(bundle.model).stat().st_size
        content = read_layer(bundle, bundle.model, MODEL_FILE)
    except OSError as error:
        raise ModelRefused("load.unreadable", f"cannot read the model file: {error}") from error
    except Undecipherable as error:
        raise ModelRefused("load.undecipherable", str(error)) from error
    return content, len(content)


def _open_session(source: str | bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = _LOG_ERRORS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        _raise_if_memory(error)
        raise ModelRefused(
            "load.invalid",
            f"onnxruntime {onnxruntime.__version__} cannot load it: {_first_line(error)}",
        ) from error
    if isinstance(source, bytes) and hasattr(session, "_model_bytes"):
        # Kept only to open the session again with other providers, of which there are none.
        session._model_bytes = b""  # noqa: SLF001
    return session


def _check_contract(side: str, specs: tuple[TensorSpec, ...], nodes: list[_Node]) -> None:
    """Compare the signed contract with what the session says; raise `ModelRefused`."""
    by_name = {node.name: node for node in nodes}
    names = [spec.name for spec in specs]
    if set(names) != set(by_name) or len(set(names)) != len(names):
        raise ModelRefused(
            "load.contract", f"{side}s are {sorted(by_name)}, the bundle says {sorted(names)}"
        )
    for spec in specs:
        node = by_name[spec.name]
        datatype = _ONNX_DATATYPES.get(node.type, node.type)
        if datatype != spec.datatype:
            raise ModelRefused(
                "load.contract",
                f"{side} {spec.name!r} is {datatype}, the bundle says {spec.datatype}",
            )
        if not _shape_agrees(side, spec.shape, tuple(node.shape or ())):
            raise ModelRefused(
                "load.contract",
                f"{side} {spec.name!r} has shape {node.shape}, the bundle says {list(spec.shape)}",
            )


def _shape_agrees(
    side: str, promised: tuple[int, ...], actual: tuple[int | str | None, ...]
) -> bool:
    """Say whether the contract promises no more than the model can do.

    An input may be promised narrower than the model takes it, an output wider than it gives it.
    The runtime knows some outputs' shapes only after a run and then reports none.
    """
    if side == "output" and not actual:
        return True
    if len(promised) != len(actual):
        return False
    for promise, size in zip(promised, actual, strict=True):
        free = not isinstance(size, int)
        if not (free or promise == size or (side == "output" and promise == -1)):
            return False
    return True


def _raise_if_memory(error: Exception) -> None:
    """Raise MemoryError for what the runtime says in its own words when it gets no memory."""
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        raise MemoryError(_first_line(error)) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
