"""A model in onnxruntime.

Rules:

* No memory arena, so that what a run has used goes back to the allocator (measured: no slower); no
  spinning, because a device has other work to do between two requests.
* A small run of one row that nobody may end goes through memory that is bound once; see
  `edgectl_agent.onnx_binding`.
* The processor runs what it is, unless a trial has chosen another execution provider: one of a
  short list that are for devices, load nothing from elsewhere and build nothing for minutes. What
  the provider cannot run, and a model that it does not take, the processor runs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import onnxruntime

from edgectl_agent.onnx_binding import Bound, bind, row_of
from edgectl_agent.session import (
    ModelRefused,
    Node,
    RunFailed,
    Stop,
    Tensor,
    first_line,
    raise_if_memory,
)

__all__ = ["OTHERS", "USUAL", "OnnxSession", "providers"]

_DATATYPES: Mapping[str, str] = {
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
_LOG_ERRORS = 3
USUAL = "CPUExecutionProvider"
OTHERS = ("CUDAExecutionProvider", "ACLExecutionProvider", "XnnpackExecutionProvider")
"""Worth a trial where this onnxruntime has been built with them, in this order."""
log = logging.getLogger(__name__)


def providers() -> tuple[str, ...]:
    """Return the providers that are worth a trial here, the usual one first."""
    there = set(onnxruntime.get_available_providers())
    return (USUAL, *(one for one in OTHERS if one in there))


class OnnxSession:
    """See `edgectl_agent.session.Session`."""

    named = True

    def __init__(self, source: str | bytes, threads: int, provider: str = "") -> None:
        """Load a model.

        Args:
            source: path of the file, or its content.
            threads: within one operator.
            provider: one of `providers`; the usual one where it is empty or not there.

        Raises:
            ModelRefused: ``load.invalid``.
            MemoryError: there was not enough memory for it.
        """
        self._session, self.provider = _open(source, threads, provider)
        self.inputs = _nodes(self._session.get_inputs())
        self.outputs = _nodes(self._session.get_outputs())
        self._options = onnxruntime.RunOptions()  # none at all would be made for every run: 1 us
        self._bound: Bound | None = None
        self._row: dict[str, tuple[int, ...]] | None = None
        """Shapes of the runs that memory is to be bound for; None when that is done."""
        self._run = self._session.run
        inner = vars(self._session).get("_sess")
        if self.provider == USUAL and inner is not None:
            # The same without the questions that onnxruntime's wrapper asks before every run, which
            # the contract has answered, and its way back from other providers: 1 us of 6.
            self._run = inner.run
            self._row = row_of(self.inputs)

    def run(
        self, outputs: tuple[str, ...], inputs: Mapping[str, Tensor], stop: Stop | None
    ) -> list[Tensor]:
        """Compute the outputs; a run under way is ended at its next operator."""
        failed = False
        if stop is None and self._bound is not None:
            try:
                found = self._bound(outputs, inputs)
            except Exception:  # noqa: BLE001 - as below, where it is told why
                failed, found = True, None
            if found is not None:
                return found
        options = self._options
        if stop is not None:
            options = onnxruntime.RunOptions()
            stop.ends(lambda: setattr(options, "terminate", True))
        try:
            values: list[Tensor] = self._run(outputs, inputs, options)
        except Exception as error:  # the runtime raises a dozen unrelated types
            raise_if_memory(error)
            raise RunFailed(first_line(error)) from error
        if failed:
            self._bound = None  # it is at fault, not the inputs: outputs of another shape, say
        elif self._row is not None and stop is None:
            self._learn(outputs, inputs, values)
        return values

    def _learn(
        self, outputs: tuple[str, ...], inputs: Mapping[str, Tensor], values: list[Tensor]
    ) -> None:
        """Bind memory for runs such as this one, which has succeeded."""
        if {name: array.shape for name, array in inputs.items()} == self._row:
            self._row = None  # once, whatever comes of it
            self._bound = bind(self._session, outputs, inputs, values)


def _open(source: str | bytes, threads: int, provider: str) -> tuple[Any, str]:
    """Return a session, and what runs it."""
    if provider in providers()[1:]:
        try:
            return _open_with(source, threads, provider), provider
        except ModelRefused as error:
            log.warning("%s does not take the model, the processor does: %s", provider, error)
    return _open_with(source, threads, USUAL), USUAL


def _open_with(source: str | bytes, threads: int, provider: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = _LOG_ERRORS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted: list[Any] = [provider] if provider == USUAL else [provider, USUAL]
    if provider == "XnnpackExecutionProvider":  # has threads of its own
        wanted[0] = (provider, {"intra_op_num_threads": str(threads)})
    try:
        session = onnxruntime.InferenceSession(source, options, providers=wanted)
    except Exception as error:
        raise_if_memory(error)
        raise ModelRefused(
            "load.invalid",
            f"onnxruntime {onnxruntime.__version__} cannot load it: {first_line(error)}",
        ) from error
    if isinstance(source, bytes) and hasattr(session, "_model_bytes"):
        # Kept only to open the session again with other providers, which nobody does.
        session._model_bytes = b""  # noqa: SLF001
    return session


def _nodes(found: Any) -> tuple[Node, ...]:
    """Describe inputs or outputs; the runtime knows some outputs' shapes only after a run."""
    return tuple(
        Node(
            one.name,
            _DATATYPES.get(one.type, one.type),
            tuple(size if isinstance(size, int) else None for size in one.shape)
            if one.shape
            else None,
        )
        for one in found
    )
