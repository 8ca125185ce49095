"""One model in memory, by the runtime that its contract names.

Only the inference process and the trial process import this module; the supervisor never does,
because runtime and NumPy cost 40 MB of resident memory. A runtime is imported when the first model
needs it.

Rules:

* A model is refused at loading unless its inputs and outputs are those of the signed contract.
* Threads and provider are those that the bundle's trial has chosen. Where nobody has, it is one
  thread for small models, for larger ones all cores, because a device has other work to do between
  two requests; one in LiteRT.
* A provider that is not there any more, or does not take the model, is replaced by the usual one.
* An encrypted model is opened in memory and handed to the runtime there.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Mapping
from pathlib import Path

from edgectl_agent.bundle import Bundle
from edgectl_agent.decryption import Undecipherable, read_layer
from edgectl_agent.session import (
    DTYPES,
    ModelRefused,
    Node,
    RunFailed,
    Session,
    Stop,
    Tensor,
)
from edgectl_protocol.manifest import BundleConfig, Runtime, TensorSpec

__all__ = [
    "DTYPES",
    "Model",
    "ModelRefused",
    "RunFailed",
    "Stop",
    "Tensor",
    "check_runtime",
    "free",
    "providers_for",
    "shape_fits",
    "threads_for",
    "trim_memory",
]

_ONE_THREAD_BYTES_MAX = 1024 * 1024
"""Up to this file size a second thread costs more in hand-over than it saves."""


class Model:
    """A loaded model.

    Attributes:
        bundle: what it was loaded from.
        config: the signed contract.
        load_ms: how long loading took, in milliseconds.
        threads: within one operator.
        provider: what runs it.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        """Load `bundle`.

        Args:
            bundle: verified files.
            threads: within one operator; None for what the bundle says, or the file's size.

        Raises:
            ModelRefused: unreadable, not to be opened with the bundle's key, not a model for its
                runtime, outside its contract, or its runtime is not installed.
            MemoryError: there was not enough memory for it.
        """
        self.bundle = bundle
        self.config: BundleConfig = bundle.config
        try:
            check_runtime(self.config.runtime)
        except ImportError as error:
            raise ModelRefused("load.runtime", f"no {self.config.runtime} here: {error}") from error
        started = time.perf_counter()
        source, size = _source(bundle)
        usual = threads_for(size) if self.config.runtime == "onnxruntime" else 1
        self.threads = min(threads or bundle.threads or usual, len(os.sched_getaffinity(0)))
        self._session: Session | None = _open(self.config, source, self.threads, bundle.provider)
        self.provider = self._session.provider
        self.load_ms = (time.perf_counter() - started) * 1000
        _check_contract("input", self.config.inputs, self._session, self._session.inputs)
        _check_contract("output", self.config.outputs, self._session, self._session.outputs)
        self._outputs = tuple(spec.name for spec in self.config.outputs)

    def run(self, inputs: Mapping[str, Tensor], stop: Stop | None = None) -> dict[str, Tensor]:
        """Compute all outputs.

        Args:
            inputs: one array for each input of the contract, of its datatype and shape.
            stop: by which another thread may end the run.

        Raises:
            RunFailed: the runtime refused, or was stopped; the message is its first line.
            MemoryError: there was not enough memory for it.
        """
        assert self._session is not None, "it was closed"
        values = self._session.run(self._outputs, inputs, stop)
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """Free the session; the model cannot run afterwards."""
        self._session = None


def free(model: Model) -> None:
    """Free a session and give its memory back to the system."""
    model.close()
    trim_memory()


def trim_memory() -> None:
    """Give the system back what was freed: loading leaves as much behind as a model takes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def check_runtime(runtime: Runtime) -> None:
    """Import a runtime; raise ImportError where it is not installed."""
    if runtime == "cortex-m":
        raise ImportError("a model for microcontrollers runs on no other device")
    if runtime == "litert":
        from edgectl_agent.litert_session import check_installed

        check_installed()
    else:
        from edgectl_agent import onnx_session  # noqa: F401


def providers_for(runtime: Runtime) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the providers here that may be faster than the usual one, and those that are safer."""
    if runtime == "litert":
        from edgectl_agent.litert_session import PLAIN

        return (), (PLAIN,)
    from edgectl_agent.onnx_session import providers

    return providers()[1:], ()


def threads_for(model_bytes: int) -> int:
    """Return how many threads a model of this file size gets within one operator."""
    return 1 if model_bytes <= _ONE_THREAD_BYTES_MAX else len(os.sched_getaffinity(0))


def shape_fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    """Say whether an array of `shape` may be given for `spec`; -1 there is any size from 1."""
    if len(shape) != len(spec.shape):
        return False
    for got, wanted in zip(shape, spec.shape, strict=True):  # for every request: faster
        if got != wanted and (wanted != -1 or got <= 0):
            return False
    return True


def _source(bundle: Bundle) -> tuple[str | bytes, int]:
    """Return the path of a plain model, or the content of an encrypted one, and its size."""
    try:
        if bundle.key is None:
            return bundle.model, Path(bundle.model).stat().st_size
        content = read_layer(bundle, bundle.model, bundle.config.model_file)
    except OSError as error:
        raise ModelRefused("load.unreadable", f"cannot read the model file: {error}") from error
    except Undecipherable as error:
        raise ModelRefused("load.undecipherable", str(error)) from error
    return content, len(content)


def _open(config: BundleConfig, source: str | bytes, threads: int, provider: str) -> Session:
    if config.runtime == "litert":
        from edgectl_agent.litert_session import LitertSession

        return LitertSession(source, config.inputs, threads, provider)
    from edgectl_agent.onnx_session import OnnxSession

    return OnnxSession(source, threads, provider)


def _check_contract(
    side: str, specs: tuple[TensorSpec, ...], session: Session, nodes: tuple[Node, ...]
) -> None:
    """Compare the signed contract with what the session says; raise `ModelRefused`."""
    names = [spec.name for spec in specs]
    if session.named:
        by_name = {node.name: node for node in nodes}
        same = set(names) == set(by_name)
    else:
        by_name = dict(zip(names, nodes, strict=False))
        same = len(names) == len(nodes)
    if not same or len(set(names)) != len(names):
        found = sorted(node.name for node in nodes)
        raise ModelRefused("load.contract", f"{side}s are {found}, the bundle says {sorted(names)}")
    for spec in specs:
        node = by_name[spec.name]
        if node.datatype != spec.datatype:
            raise ModelRefused(
                "load.contract",
                f"{side} {spec.name!r} is {node.datatype}, the bundle says {spec.datatype}",
            )
        if not _shape_agrees(side, spec.shape, node.shape):
            shown = None if node.shape is None else list(node.shape)
            raise ModelRefused(
                "load.contract",
                f"{side} {spec.name!r} has shape {shown}, the bundle says {list(spec.shape)}",
            )


def _shape_agrees(
    side: str, promised: tuple[int, ...], actual: tuple[int | None, ...] | None
) -> bool:
    """Say whether the contract promises no more than the model can do.

    An input may be promised narrower than the model takes it, an output wider than it gives it.
    The runtime knows some outputs' shapes only after a run and then reports none.
    """
    if actual is None:
        return side == "output" or not promised
    if len(promised) != len(actual):
        return False
    return all(
        size is None or promise == size or (side == "output" and promise == -1)
        for promise, size in zip(promised, actual, strict=True)
    )
