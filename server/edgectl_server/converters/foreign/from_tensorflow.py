"""TensorFlow → ONNX by tf2onnx: a SavedModel in a ZIP archive, or a Keras file.

Both become one function with a fixed signature: of a SavedModel its signature ``serving_default``,
of a Keras model its call, not in training. A Keras model with code of its own (a Lambda layer) is
refused: Keras' safe mode does not run it, and here it is not switched off. Inputs and outputs keep
their names. Sources: the tf2onnx README and TensorFlow's guide "Using the SavedModel format".
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from edgectl_server.converters.foreign.archives import check_archive, unpack
from edgectl_server.converters.foreign.comparison import (
    EXACT,
    Input,
    check,
    onnx_runner,
    read_samples,
)
from edgectl_server.converters.foreign.refusal import Refusal, one_line

__all__ = ["convert"]

_OPSET = 17
_SIGNATURE = "serving_default"
_SAVED_MODEL = "saved_model.pb"
_ZIP = b"PK\x03\x04"
_EXPORT = "Export it with model.export(folder), or tf.saved_model.save with signatures."


def convert(job: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Convert ``job["source"]`` to ``job["target"]``; the result's fields are `Conversion`'s."""
    saved = job["format"] == "savedmodel"
    find = _unpacked if saved else _named
    path = find(Path(job["source"]), job["unpacked_bytes_max"])
    tell("starting TensorFlow")
    import tensorflow as tf

    tell("reading the model")
    function, signature = (_saved_model if saved else _keras)(path)
    inputs = [_input(spec) for spec in signature]
    tell("converting")
    outputs = _write(function, signature, Path(job["target"]))
    tell("comparing")
    samples = read_samples(job["data"], inputs)
    run, names = onnx_runner(Path(job["target"]))
    assert names == outputs, (names, outputs)
    try:
        tensors = [tf.constant(samples.arrays[one.name]) for one in inputs]
        answers = function(*tensors)
    except Exception as error:  # whatever TensorFlow's operators raise
        raise Refusal(
            "convert.source",
            f"The model cannot be run before its conversion: {one_line(error)}.",
            "Push data of the model's own shape and range, or repair the model.",
        ) from error
    expected = [answers[name].numpy() for name in outputs]
    rows = check(names, expected, run(samples.arrays), samples, EXACT)
    return {"checks": rows}


def _unpacked(path: Path, bytes_max: int) -> Path:
    """Return the folder of the SavedModel in an archive."""
    folder = Path.cwd() / "saved_model"
    unpack(path, folder, bytes_max)
    entries = list(folder.iterdir())
    if not (folder / _SAVED_MODEL).exists() and len(entries) == 1 and entries[0].is_dir():
        folder = entries[0]
    if not (folder / _SAVED_MODEL).is_file():
        raise Refusal(
            "convert.no_model",
            f"The archive holds no {_SAVED_MODEL}, so it is no SavedModel.",
            "Push the folder that holds it: edgectl push FOLDER.",
        )
    return folder


def _named(path: Path, bytes_max: int) -> Path:
    """Return a copy with the ending that Keras goes by; the server gives the file another name."""
    with path.open("rb") as file:
        archive = file.read(len(_ZIP)) == _ZIP
    if archive:
        check_archive(path, bytes_max)
    named = Path.cwd() / ("model.keras" if archive else "model.h5")
    shutil.copyfile(path, named)
    return named


def _saved_model(folder: Path) -> tuple[Any, list[Any]]:
    """Return the function of a SavedModel, and its inputs as ``tf.TensorSpec``."""
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(folder))
        signatures = dict(loaded.signatures)
    except Exception as error:  # protobuf's, TensorFlow's, and what a crafted graph makes of them
        raise Refusal(
            "convert.damaged",
            f"TensorFlow cannot read the SavedModel: {one_line(error)}.",
            _EXPORT,
        ) from error
    if _SIGNATURE not in signatures:
        raise Refusal(
            "convert.signature",
            f"The SavedModel has no signature {_SIGNATURE}; it has:"
            f" {', '.join(sorted(signatures)[:10]) or 'none'}.",
            _EXPORT,
        )
    serving = signatures[_SIGNATURE]
    specs = dict(serving.structured_input_signature[1])
    names = sorted(specs)
    signature = [tf.TensorSpec(specs[name].shape, specs[name].dtype, name=name) for name in names]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator,unused-ignore]
    def function(*tensors: Any) -> Any:
        return serving(**dict(zip(names, tensors, strict=True)))

    function.kept = loaded  # its variables live as long as it does
    return function, signature


def _keras(path: Path) -> tuple[Any, list[Any]]:
    """Return the call of a Keras model, and its inputs as ``tf.TensorSpec``."""
    import keras
    import tensorflow as tf

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
        inputs, outputs = model.inputs, model.outputs
    except Exception as error:
        raise _unreadable(error) from error
    if not inputs or not outputs:
        raise Refusal(
            "convert.no_model",
            "The Keras model does not know its inputs: it was never built.",
            "Call it once on data, or give it an Input layer, then save it again.",
        )
    signature = [tf.TensorSpec(one.shape, one.dtype, name=_plain(one.name)) for one in inputs]
    names = _different([_plain(one) for one in getattr(model, "output_names", [])], len(outputs))

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator,unused-ignore]
    def function(*tensors: Any) -> Any:
        answers = model(tensors[0] if len(tensors) == 1 else list(tensors), training=False)
        return dict(zip(names, tf.nest.flatten(answers), strict=True))

    function.kept = model
    return function, signature


def _unreadable(error: Exception) -> Refusal:
    text = one_line(error)
    if "unsafe" in text or "safe_mode" in text or "Lambda" in text:
        return Refusal(
            "convert.unsafe",
            "The Keras model brings Python code of its own, such as a Lambda layer, which is never"
            f" run: {text}.",
            "Use layers of Keras, or export the model to ONNX yourself.",
        )
    return Refusal(
        "convert.damaged",
        f"Keras cannot read the model: {text}.",
        "Save it with model.save('model.keras') of Keras 3, without classes of your own.",
    )


def _plain(name: str) -> str:
    return name.partition(":")[0].replace("/", "_") or "input"


def _different(names: list[str], count: int) -> list[str]:
    if len(set(names)) == count:
        return names
    return [f"output_{i}" for i in range(count)]


def _input(spec: Any) -> Input:
    if spec.shape.rank is None or (not spec.dtype.is_floating and not spec.dtype.is_integer):
        raise Refusal(
            "convert.unsupported",
            f"Input {spec.name!r} is {spec.dtype.name} of the shape {spec.shape}; taken are tensors"
            " of numbers with a known number of dimensions.",
            "Export the model with a fixed input, and its preprocessing outside of it.",
        )
    shape = tuple(-1 if size is None else int(size) for size in spec.shape.as_list())
    return Input(spec.name, shape[1:], spec.dtype.as_numpy_dtype().dtype.name)


def _write(function: Any, signature: list[Any], target: Path) -> list[str]:
    """Write the ONNX file and return the names of its outputs."""
    import onnx
    import tf2onnx

    try:
        model, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=_OPSET)
    except Exception as error:  # tf2onnx raises what its rewriters do
        raise Refusal(
            "convert.unsupported",
            f"tf2onnx cannot convert the model: {one_line(error)}.",
            "Use operators that tf2onnx supports, or export the model to ONNX yourself.",
        ) from error
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    foreign = sorted({f"{node.op_type}" for node in model.graph.node} - known)
    if foreign:
        raise Refusal(
            "convert.unsupported",
            f"The model uses {', '.join(foreign[:5])}, for which ONNX has no operator.",
            "Use other layers, or export the model to ONNX yourself.",
        )
    target.write_bytes(model.SerializeToString(deterministic=True))
    return [output.name for output in model.graph.output]
