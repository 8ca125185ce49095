"""What can end the pipeline, sorted by who must act.

::

    PipelineError
    ├── PipelineRefused     the model or its data: whoever pushed them must change something
    ├── PipelineFailed      a process limit or a crash; trying again may or may not help
    └── PipelineCancelled   somebody asked for it

Codes are stable, an area and a problem; these are all of them:

==========================  ==================================================================
``model.too_large``         the file is longer than the limit, or has become so
``model.not_onnx``          it is something else
``model.damaged``           it begins like ONNX but cannot be read to the end
``model.opset``             its operator set is older or newer than devices can run
``model.tflite``            a ``.tflite`` file, and the push asks for what only ONNX can have
``model.operator``          an operator that its operator set or the oldest device does not have
``model.functions``         it brings functions of its own
``model.custom_op``         it uses operators outside ONNX and onnxruntime
``model.external_data``     weights are in another file
``model.limit``             too many nodes or tensors, or nested too deeply
``model.shape``             an input without a fixed shape but for the batch, or an output without;
                            or both so large that no golden case can be brought to a device
``model.input_shape``       a shape was given for an input that does not have or take it
``model.datatype``          an input or output that is no tensor of numbers
``model.invalid``           the ONNX checker or shape inference refuses it
``model.unsupported``       onnxruntime cannot load it
``model.run``               onnxruntime cannot run it
``model.non_finite``        it answers finite inputs with NaN or infinity
``model.not_repeatable``    it answers the same inputs differently
``model.labels``            the number of class names is not that of its classes
``data.not_npz``            no archive of arrays, or it is damaged
``data.too_large``          unpacked, it is larger than the limit
``data.keys``               an input is missing, or an array is none of the model's
``data.shape``              other dimensions, no samples, or numbers of samples that differ
``data.dtype``              another element type
``data.non_finite``         NaN or infinity
``data.label``              a label that is no class
``processing.invalid``      the file of declared steps cannot be read, or a step is out of bounds
``processing.tensor``       steps for an input or output that is not there, or a name that is taken
``processing.shape``        what a step takes, or what the model takes, is of another shape
``processing.datatype``     the steps of an input end in another datatype than the model takes
``processing.opset``        a step needs a newer operator set than the model has
``processing.limit``        the steps make too large tensors or need too many constants
``pipeline.accuracy``       every int8 recipe loses more than is allowed
``pipeline.quantization``   no int8 recipe can make a variant of the model
``pipeline.no_data``        only int8 was asked for, without data to measure it
``pipeline.metric``         the metric that was asked for cannot be measured with model and data
``pipeline.data``           the data checks found an error: what is measured would mean nothing
``pipeline.contract``       applications of the version that is replaced would not work
``pipeline.gates``          no variant passes what is required
``metric.source``           metric.py cannot be loaded, or has no function metric
``metric.failed``           it raised an error
``metric.value``            it returned no finite number
``metric.time``             it took more than the limit
``metric.crashed``          its process ended without an answer
``pipeline.memory``         failed: the memory limit
``pipeline.time``           failed: the limit of processor time or of the wall clock
``pipeline.disk``           failed: a file cannot be read or written
``pipeline.crashed``        failed: the process crashed or was killed
``pipeline.step``           failed: a library could not do what it was asked to
``pipeline.cancelled``      cancelled
==========================  ==================================================================
"""

from __future__ import annotations

from typing import Any

__all__ = ["PipelineCancelled", "PipelineError", "PipelineFailed", "PipelineRefused"]


class PipelineError(Exception):
    """The pipeline ended without variants.

    Attributes:
        code: stable, for programs.
        detail: what was found, for a person.
        hint: what to do next, for a person.
        data: more, as JSON can hold it; ``report`` is the report as far as it got.
    """

    def __init__(
        self, code: str, detail: str, hint: str = "", data: dict[str, Any] | None = None
    ) -> None:
        super().__init__(f"{code}: {detail}" + (f" {hint}" if hint else ""))
        self.code = code
        self.detail = detail
        self.hint = hint
        self.data = data or {}


class PipelineRefused(PipelineError):
    """The model or its data cannot be accepted as they are."""


class PipelineFailed(PipelineError):
    """The child ran into a limit (``pipeline.memory``, ``pipeline.time``) or crashed."""


class PipelineCancelled(PipelineError):
    """The work was stopped because somebody asked for it."""
