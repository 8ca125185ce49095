"""ONNX → TFLite by onnx2tf: float32, or full-integer int8 calibrated with given data.

onnx2tf makes a Keras model in TensorFlow's layout (channels last); TensorFlow's own converter
writes it, for int8 with the data as representative samples: weights, activations, inputs and
outputs are int8. An input [N, C, H, W] becomes [1, H, W, C], and so do the samples.

int8 differs from its source by its rounding, so that it is compared with wide bounds: this finds a
conversion that went wrong. Whether the accuracy holds is for the evaluation data to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgectl_server.converters.foreign.comparison import (
    EXACT,
    Input,
    Tolerance,
    check,
    onnx_runner,
    read_samples,
)
from edgectl_server.converters.foreign.refusal import Refusal, one_line

__all__ = ["convert"]

_CALIBRATION_MAX = 128
_ROUNDED = 0.1
_AGREEMENT = 0.8
_HINT = "Publish it as ONNX: device classes that run ONNX need no TFLite."


def convert(job: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Convert ``job["source"]`` to ``job["target"]``; the result's fields are `Conversion`'s."""
    source, target = Path(job["source"]), Path(job["target"])
    integer = job["precision"] == "int8"
    if integer and job["data"] is None:
        raise Refusal(
            "convert.data",
            "Full-integer int8 needs calibration data.",
            "Push with --calibration or --evaluation.",
        )
    inputs = _inputs(source)
    samples = read_samples(job["data"], inputs)
    tell("starting TensorFlow")
    network = _network(source, tell)
    arrays = [
        _laid_out(samples.arrays[one.name], made.shape)
        for one, made in zip(inputs, network.inputs, strict=True)
    ]
    tell(f"writing {job['precision']}")
    _write(network, target, arrays if integer else None)
    tell("comparing")
    run, names = onnx_runner(source)
    expected = run(samples.arrays)
    found = _answers(target, arrays)
    found = [_back(array, like) for array, like in zip(found, expected, strict=True)]
    return {"checks": check(names, expected, found, samples, _tolerance(expected, integer=integer))}


def _inputs(source: Path) -> list[Input]:
    import onnxruntime

    kinds = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(int32)": "int32"}
    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    found = []
    for one in session.get_inputs():
        if one.type not in kinds:
            raise Refusal("convert.unsupported", f"Input {one.name!r} is a {one.type}.", _HINT)
        shape = tuple(size if isinstance(size, int) else -1 for size in one.shape[1:])
        found.append(Input(one.name, shape, kinds[one.type]))
    return found


def _network(source: Path, tell: Any) -> Any:
    """Return the Keras model that onnx2tf has made; inputs and outputs in the order of ONNX."""
    import onnx2tf

    tell("converting by onnx2tf")
    try:
        return onnx2tf.convert(
            input_onnx_file_path=str(source),
            output_folder_path=str(Path.cwd() / "onnx2tf"),
            not_use_onnxsim=True,
            non_verbose=True,
        )
    except (Exception, SystemExit) as error:  # it ends the program where it gives up
        raise Refusal(
            "convert.unsupported",
            f"onnx2tf cannot convert the model: {one_line(error) or 'it gave up'}.",
            _HINT,
        ) from error


def _write(network: Any, target: Path, calibration: list[Any] | None) -> None:
    """Write the TFLite file, for one sample at a time.

    What onnx2tf writes itself is not taken: its SavedModel needs renames between folders, which the
    confinement refuses, and its int8 takes calibration data by mean and deviation alone.
    """
    import tensorflow as tf

    specs = [tf.TensorSpec([1, *one.shape[1:]], one.dtype) for one in network.inputs]
    function = tf.function(lambda *tensors: network(list(tensors), training=False))
    concrete = function.get_concrete_function(*specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], network)
    if calibration is not None:

        def representative() -> Iterator[list[Any]]:
            for i in range(min(_CALIBRATION_MAX, len(calibration[0]))):
                yield [array[i : i + 1] for array in calibration]

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    try:
        target.write_bytes(converter.convert())
    except Exception as error:  # TensorFlow's converter raises its own and Python's
        raise Refusal(
            "convert.unsupported",
            f"TensorFlow cannot write the model as TFLite: {one_line(error)}.",
            _HINT,
        ) from error


def _laid_out(array: Any, shape: tuple[int | None, ...]) -> Any:
    """Return samples in the layout of a TensorFlow input: channels last, where they were first."""
    wanted = tuple(shape)[1:]
    moved = np.moveaxis(array, 1, -1) if array.ndim > 2 else array  # noqa: PLR2004 - no channels
    for candidate in (array, moved):
        if len(candidate.shape) == len(shape) and all(
            want in (None, got) for want, got in zip(wanted, candidate.shape[1:], strict=True)
        ):
            return np.ascontiguousarray(candidate)
    raise Refusal(
        "convert.unsupported",
        f"onnx2tf has made an input of the shape {list(wanted)} of {list(array.shape[1:])}.",
        _HINT,
    )


def _answers(target: Path, arrays: list[Any]) -> list[Any]:
    """Run the TFLite file, sample by sample, and return its outputs as numbers."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_path=str(target), num_threads=1)
    interpreter.allocate_tensors()
    inputs = sorted(interpreter.get_input_details(), key=_place)
    outputs = sorted(interpreter.get_output_details(), key=_place)
    answers: list[list[Any]] = [[] for _ in outputs]
    for i in range(len(arrays[0])):
        for array, one in zip(arrays, inputs, strict=True):
            interpreter.set_tensor(one["index"], _quantized(array[i : i + 1], one))
        interpreter.invoke()
        for answer, one in zip(answers, outputs, strict=True):
            answer.append(_real(interpreter.get_tensor(one["index"]), one))
    return [np.concatenate(one) for one in answers]


def _place(detail: dict[str, Any]) -> tuple[int, str]:
    """Sort tensors by the number in their name: ``tensors_10`` after ``tensors_2``."""
    digits = "".join(sign for sign in detail["name"].partition(":")[0] if sign.isdigit())
    return int(digits or 0), detail["name"]


def _back(array: Any, like: Any) -> Any:
    """Return an output with the channels where the source has them."""
    if array.shape != like.shape and array.ndim >= 3:  # noqa: PLR2004 - no channels
        moved = np.moveaxis(array, -1, 1)
        if moved.shape == like.shape:
            return moved
    return array


def _quantized(value: Any, detail: dict[str, Any]) -> Any:
    kind, (scale, zero) = detail["dtype"], detail["quantization"]
    if not scale:
        return value.astype(kind)
    bounds = np.iinfo(kind)
    return np.clip(np.round(value / scale) + zero, bounds.min, bounds.max).astype(kind)


def _real(value: Any, detail: dict[str, Any]) -> Any:
    scale, zero = detail["quantization"]
    return (value.astype(np.float32) - zero) * scale if scale else value


def _tolerance(expected: list[Any], *, integer: bool) -> Tolerance:
    if not integer:
        return EXACT
    span = max(float(np.ptp(one)) for one in expected)
    return Tolerance(_ROUNDED * span, _ROUNDED, agreement=_AGREEMENT, outside=0.05)
