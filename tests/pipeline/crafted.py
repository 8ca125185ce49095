"""Models made to order: small good ones, and hostile ones of which each is valid protobuf."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
INT64 = TensorProto.INT64


def build(
    nodes: list[Any],
    *,
    shape: tuple[Any, ...] = ("N", 3),
    output: tuple[Any, ...] = ("N", 3),
    opset: int = 17,
    domains: tuple[str, ...] = (),
    initializers: tuple[Any, ...] = (),
    **values: Any,
) -> Any:
    """A model with input x and output y."""
    graph = helper.make_graph(
        nodes,
        "g",
        values.get("inputs") or [helper.make_tensor_value_info("x", FLOAT, shape)],
        values.get("outputs") or [helper.make_tensor_value_info("y", FLOAT, output)],
        list(initializers),
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(
        graph, opset_imports=imports, ir_version=8, functions=values.get("functions")
    )


def layers(width: int = 24, count: int = 6) -> Any:
    """A perceptron with one large weight for a small activation in the middle: int8 spoils it."""
    random = np.random.default_rng(5)
    nodes, initializers, name = [], [], "x"
    for number in range(count):
        rows, columns = 5 if number == 0 else width, 1 if number == count - 1 else width
        weights = random.normal(size=(rows, columns), scale=rows**-0.5).astype(np.float32)
        if number == count // 2 - 1:
            weights[:, 0] /= 500
        if number == count // 2:
            weights[0] *= 500
        initializers.append(numpy_helper.from_array(weights, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [name, f"w{number}"], [f"m{number}"], f"n{number}"))
        name = "y" if number == count - 1 else f"r{number}"
        nodes.append(helper.make_node("Tanh", [f"m{number}"], [name]))
    return build(nodes, shape=("N", 5), output=("N", 1), initializers=tuple(initializers))


def relu(**options: Any) -> Any:
    return build([helper.make_node("Relu", ["x"], ["y"])], **options)


def constant(name: str, array: Any) -> Any:
    return numpy_helper.from_array(np.asarray(array), name)


def custom_domain() -> Any:
    return build([helper.make_node("Evil", ["x"], ["y"], domain="com.evil")], domains=("com.evil",))


def unknown_operator() -> Any:
    return build([helper.make_node("Frobnicate", ["x"], ["y"])])


def hidden_custom_operator() -> Any:
    """A custom operator that sits in the branch of an If."""
    branch = helper.make_graph(
        [helper.make_node("Evil", ["x"], ["b"], domain="com.evil")],
        "branch",
        [],
        [helper.make_tensor_value_info("b", FLOAT, ("N", 3))],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    return build([node], initializers=(constant("c", np.array(True)),), domains=("com.evil",))


def _external(name: str, location: str) -> Any:
    tensor = TensorProto(name=name, data_type=FLOAT, dims=[3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def external_initializer() -> Any:
    return build(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        initializers=(_external("w", "../../../etc/passwd"),),
    )


def external_attribute() -> Any:
    return build(
        [
            helper.make_node("Constant", [], ["w"], value=_external("c", "../secret.bin")),
            helper.make_node("Add", ["x", "w"], ["y"]),
        ]
    )


def functions(depth: int = 12) -> Any:
    """Each function calls the next ten times: 10^depth nodes when inlined."""
    made = []
    for level in range(depth):
        names = [f"t{number}" for number in range(9)]
        operator = f"F{level + 1}" if level + 1 < depth else "Relu"
        domain = "f" if level + 1 < depth else ""
        chain = ["a", *names, "b"]
        nodes = [
            helper.make_node(operator, [chain[at]], [chain[at + 1]], domain=domain)
            for at in range(10)
        ]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
        made.append(helper.make_function("f", f"F{level}", ["a"], ["b"], nodes, imports))
    node = helper.make_node("F0", ["x"], ["y"], domain="f")
    return build([node], domains=("f",), functions=made)


def huge_dimension() -> Any:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[2**40], raw_data=b"\0" * 64)
    return build([helper.make_node("Add", ["x", "w"], ["y"])], initializers=(tensor,))


def short_tensor() -> Any:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[1024], raw_data=b"\0" * 64)
    return build([helper.make_node("Add", ["x", "w"], ["y"])], initializers=(tensor,))


def nested(depth: int) -> Any:
    """`depth` If nodes, each in a branch of the one before."""
    output = helper.make_tensor_value_info("y", FLOAT, ("N", 3))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "inner", [], [output])
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "g", [], [output])
    return build(list(graph.node), initializers=(constant("c", np.array(True)),))


def chain(length: int) -> Any:
    names = ["x", *(f"t{number}" for number in range(length - 1)), "y"]
    return build([helper.make_node("Relu", [names[at]], [names[at + 1]]) for at in range(length)])


def undefined_value() -> Any:
    return build([helper.make_node("Relu", ["nobody"], ["y"])])


def text_input() -> Any:
    value = helper.make_tensor_value_info("x", TensorProto.STRING, ("N", 3))
    return build([helper.make_node("Identity", ["x"], ["y"])], inputs=[value])


def sequence_output() -> Any:
    value = helper.make_tensor_sequence_value_info("y", FLOAT, None)
    return build([helper.make_node("SequenceConstruct", ["x"], ["y"])], outputs=[value])


def memory_bomb() -> Any:
    """Eight gigabytes of ones, from a constant shape."""
    return build(
        [
            helper.make_node(
                "ConstantOfShape", ["s"], ["c"], value=helper.make_tensor("v", FLOAT, [1], [1.0])
            ),
            helper.make_node("ReduceMean", ["c"], ["m"], keepdims=0),
            helper.make_node("Add", ["x", "m"], ["y"]),
        ],
        initializers=(constant("s", np.array([2_000_000_000], np.int64)),),
    )


def endless_loop() -> Any:
    """2^62 rounds."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Mul", ["v", "v"], ["w"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("v", FLOAT, ("N", 3)),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("w", FLOAT, ("N", 3)),
        ],
    )
    return build(
        [helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)],
        initializers=(
            constant("rounds", np.array(2**62, np.int64)),
            constant("yes", np.array(True)),
        ),
    )


def random_answers() -> Any:
    return build(
        [
            helper.make_node("RandomNormalLike", ["x"], ["r"]),
            helper.make_node("Add", ["x", "r"], ["y"]),
        ]
    )


def not_finite() -> Any:
    return build(
        [helper.make_node("Div", ["x", "zero"], ["y"])],
        initializers=(constant("zero", np.array(0, np.float32)),),
    )


def wrong_batch() -> Any:
    """The output has lost the batch axis."""
    return build(
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)],
        output=(),
    )


def dense(*, batch: Any = "N", scores: bool = True, outputs: int = 3, opset: int = 17) -> Any:
    """A small multi-layer perceptron with seeded weights: x [N, 8] → y [N, outputs]."""
    random = np.random.default_rng(7)
    weights = random.normal(size=(8, 16)).astype(np.float32)
    head = random.normal(size=(16, outputs)).astype(np.float32)
    return build(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "u"], ["z"]),
            helper.make_node("Softmax" if scores else "Tanh", ["z"], ["y"]),
        ],
        shape=(batch, 8),
        output=(batch, outputs),
        opset=opset,
        initializers=(constant("w", weights), constant("u", head)),
    )


def pictures(*, height: Any = 8, width: Any = 8, opset: int = 17) -> Any:
    """A small convolutional net with seeded weights: x [N, 3, height, width] → y [N, 4]."""
    random = np.random.default_rng(11)
    kernels = random.normal(size=(4, 3, 3, 3)).astype(np.float32) * 0.3
    return build(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        shape=("N", 3, height, width),
        output=("N", 4),
        opset=opset,
        initializers=(constant("w", kernels),),
    )


def save(model: Any, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def save_arrays(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


HOSTILE: tuple[tuple[Callable[[], Any], str], ...] = (
    (custom_domain, "model.custom_op"),
    (unknown_operator, "model.custom_op"),
    (hidden_custom_operator, "model.custom_op"),
    (external_initializer, "model.external_data"),
    (external_attribute, "model.external_data"),
    (functions, "model.functions"),
    (huge_dimension, "model.limit"),
    (short_tensor, "model.invalid"),
    (undefined_value, "model.invalid"),
    (text_input, "model.datatype"),
    (sequence_output, "model.datatype"),
)


def retrained(source, target, share):
    """A model whose weights have moved a little, as a light fine-tune moves them."""
    model, random = onnx.load(source), np.random.default_rng(1)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 1:
            moved = array + random.normal(size=array.shape, scale=share * array.std())
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(array.dtype), tensor.name))
    onnx.save(model, target)
    return target
