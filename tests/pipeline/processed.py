"""Models with steps around them, as the tests make and run them."""

import msgspec
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from edgectl_server.pipeline.checks import DATATYPES, check_model
from edgectl_server.pipeline.processing import add_processing
from edgectl_server.pipeline.spec import PipelineLimits
from edgectl_server.pipeline.steps import Processing, decode_steps
from pipeline import crafted

LIMITS = PipelineLimits()
ELEMENTS = {name: element for element, (name, _) in DATATYPES.items()}
NUMPY = dict(DATATYPES.values())


def steps_of(**entries):
    """The steps as structs; `input` and `output` are lists of tables."""
    return msgspec.convert(entries, Processing)


def through(shape, *, opset=17, datatype="FP32", output=None, ir_version=8):
    """A model that gives what it gets: x to y."""
    element = ELEMENTS[datatype]
    model = crafted.build(
        [helper.make_node("Identity", ["x"], ["y"])],
        inputs=[helper.make_tensor_value_info("x", element, shape)],
        outputs=[helper.make_tensor_value_info("y", element, output or shape)],
        opset=opset,
    )
    model.ir_version = ir_version
    return model


def add(model, steps):
    """The model with its steps, checked before and after."""
    if isinstance(steps, str):
        steps = decode_steps(steps)
    facts = check_model(model, LIMITS)
    processed = add_processing(model, facts.inputs, steps)
    check_model(processed.model, LIMITS, free_inputs=processed.free_inputs)
    return processed


def answer(model, **feeds):
    """The outputs by name; no optimizer is in between."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def in_front(array, axes, steps, wanted, *, opset=17, datatype="FP32"):
    """What input steps make of an array, whose result has the shape `wanted` without the batch."""
    names = {dtype: name for name, dtype in NUMPY.items()}
    model = through(("N", *wanted), opset=opset, datatype=datatype)
    entry = {
        "datatype": names[array.dtype],
        "layout": axes,
        "shape": ["N", *array.shape[1:]],
        "steps": steps,
    }
    return answer(add(model, steps_of(input=[entry])).model, x=array)["y"]


def behind(array, steps, *, opset=17, name="y"):
    """What output steps make of an array, by the name of the output."""
    model = through(("N", *array.shape[1:]), opset=opset)
    entry = {"name": name, "steps": steps}
    return answer(add(model, steps_of(output=[entry])).model, x=array)


def picture(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


FLOAT = TensorProto.FLOAT
