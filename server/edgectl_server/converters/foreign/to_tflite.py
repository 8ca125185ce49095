"""ONNX → TFLite by onnx2tf: float32, or full-integer int8 calibrated with given data.

onnx2tf makes a Keras model in TensorFlow's layout (channels last); TensorFlow's own converter
writes it, for int8 with the data as representative samples: weights and activations are int8.

Applications must not notice which variant a device runs. So the file takes and gives what the ONNX
does, in its order, for one sample: inputs and outputs are transposed in the graph where onnx2tf has
moved the channels, and those of int8 stay in float32, with one operator at each that converts.

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
_PROBES = 4
"""Samples by which the layout of an output is told."""
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
    run, names = onnx_runner(source)
    expected = run(samples.arrays)
    arrays = [samples.arrays[one.name] for one in inputs]
    function = _as_in_onnx(network, arrays, expected)
    tell(f"writing {job['precision']}")
    _write(function, network, target, arrays, integer=integer)
    tell("comparing")
    found = _answers(target, arrays, expected)
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


def _as_in_onnx(network: Any, arrays: list[Any], expected: list[Any]) -> Any:
    """Return a function that takes and gives tensors in the layout of the ONNX.

    Args:
        network: the Keras model.
        arrays: samples for each input.
        expected: what the ONNX answers to them.
    """
    import tensorflow as tf

    moved = [_is_moved(one, made.shape) for one, made in zip(arrays, network.inputs, strict=True)]

    def laid_out(tensors: Any) -> list[Any]:
        pairs = zip(tensors, moved, strict=True)
        return [tf.transpose(one, _to_last(len(one.shape))) if move else one for one, move in pairs]

    few = [tf.constant(one[:_PROBES]) for one in arrays]
    answers = _listed(network(laid_out(few), training=False))
    if len(answers) != len(expected):
        raise Refusal(
            "convert.unsupported",
            f"onnx2tf has made {len(answers)} outputs of {len(expected)}.",
            _HINT,
        )
    orders = [_order(got.numpy(), want) for got, want in zip(answers, expected, strict=True)]

    def function(*tensors: Any) -> list[Any]:
        found = _listed(network(laid_out(tensors), training=False))
        pairs = zip(found, orders, strict=True)
        return [one if order is None else tf.transpose(one, order) for one, order in pairs]

    return function


def _listed(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def _to_last(rank: int) -> list[int]:
    """Return the order of axes that puts the channels last."""
    return [0, *range(2, rank), 1]


def _to_first(rank: int) -> list[int]:
    """Return the order of axes that puts the channels behind the batch."""
    return [0, rank - 1, *range(1, rank - 1)]


def _is_moved(array: Any, shape: tuple[int | None, ...]) -> bool:
    """Say whether onnx2tf has moved the channels of an input; where both would do, it has."""
    rank = array.ndim
    orders = [list(range(rank))]
    if rank >= 3:  # noqa: PLR2004 - no channels
        orders.insert(0, _to_last(rank))
    for order in orders:
        sizes = [array.shape[axis] for axis in order]
        if len(shape) == rank and all(
            want in (None, got) for want, got in zip(tuple(shape)[1:], sizes[1:], strict=True)
        ):
            return order != list(range(rank))
    raise Refusal(
        "convert.unsupported",
        f"onnx2tf has made an input of the shape {list(shape)[1:]} of {list(array.shape[1:])}.",
        _HINT,
    )


def _order(got: Any, wanted: Any) -> list[int] | None:
    """Return the order of axes that makes an output that of the ONNX; None if it is already."""
    wanted = wanted[:_PROBES]
    orders = [None, _to_first(got.ndim)] if got.ndim >= 3 else [None]  # noqa: PLR2004 - no channels
    fitting = []
    for order in orders:
        array = got if order is None else np.transpose(got, order)
        if array.shape == wanted.shape:
            difference = np.abs(array.astype(np.float64) - wanted.astype(np.float64))
            fitting.append((float(difference.mean()) if difference.size else 0.0, order))
    if not fitting:
        raise Refusal(
            "convert.unsupported",
            f"onnx2tf has made an output of the shape {list(got.shape[1:])} of "
            f"{list(wanted.shape[1:])}.",
            _HINT,
        )
    return min(fitting, key=lambda pair: pair[0])[1]


def _write(function: Any, network: Any, target: Path, arrays: list[Any], *, integer: bool) -> None:
    """Write the TFLite file, for one sample at a time.

    What onnx2tf writes itself is not taken: its SavedModel needs renames between folders, which the
    confinement refuses, and its int8 takes calibration data by mean and deviation alone.
    """
    import tensorflow as tf

    # By names in alphabetical order, which is one of the orders that the converter may write.
    specs = [
        tf.TensorSpec([1, *array.shape[1:]], array.dtype, name=f"input_{number:02}")
        for number, array in enumerate(arrays)
    ]
    concrete = tf.function(function).get_concrete_function(*specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], network)
    if integer:

        def representative() -> Iterator[list[Any]]:
            # Spread over all of them: data is often sorted by class.
            count = min(_CALIBRATION_MAX, len(arrays[0]))
            for i in np.linspace(0, len(arrays[0]) - 1, count).astype(np.int64):
                yield [array[i : i + 1] for array in arrays]

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    try:
        target.write_bytes(converter.convert())
    except Exception as error:  # TensorFlow's converter raises its own and Python's
        raise Refusal(
            "convert.unsupported",
            f"TensorFlow cannot write the model as TFLite: {one_line(error)}.",
            _HINT,
        ) from error


def _answers(target: Path, arrays: list[Any], expected: list[Any]) -> list[Any]:
    """Run the TFLite file, sample by sample, and return its outputs, all in the file's order."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_path=str(target), num_threads=1)
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    given = [(list(one["shape"]), one["dtype"]) for one in inputs]
    if given != [([1, *array.shape[1:]], array.dtype) for array in arrays] or len(outputs) != len(
        expected
    ):
        raise Refusal(
            "convert.unsupported",
            "TensorFlow has written other inputs or outputs than the model has.",
            _HINT,
        )
    answers: list[list[Any]] = [[] for _ in outputs]
    for i in range(len(arrays[0])):
        for array, one in zip(arrays, inputs, strict=True):
            interpreter.set_tensor(one["index"], array[i : i + 1])
        interpreter.invoke()
        for answer, one in zip(answers, outputs, strict=True):
            answer.append(interpreter.get_tensor(one["index"]))
    return [np.concatenate(one) for one in answers]


def _tolerance(expected: list[Any], *, integer: bool) -> Tolerance:
    if not integer:
        return EXACT
    span = max(float(np.ptp(one)) for one in expected)
    return Tolerance(_ROUNDED * span, _ROUNDED, agreement=_AGREEMENT, outside=0.05)
