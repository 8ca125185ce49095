"""Pairs of models that no part of the encoder was tuned on, trained here from a fixed seed.

A perceptron on scikit-learn's pictures of digits, and one on made-up data of a made-up teacher;
each is released, and trained further: a few steps at a low rate (``light``), or wholly (``full``),
on data that has shifted (other pen and noise; another teacher), or on more of the same (``more``).
The files lie as `benchmarks.distribution.model_pairs` wants a folder of families.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

__all__ = ["make_held_out"]

Array = npt.NDArray[Any]
_CALIBRATION = 200
_OPSET = 17


@dataclass(frozen=True)
class _Data:
    """Inputs and classes, to train on and to measure on."""

    train: tuple[Array, Array]
    measure: tuple[Array, Array]


def make_held_out(folder: Path) -> Path:
    """Write the families into `folder`, unless they are there, and return it."""
    for name, (before, after, layers) in {
        "digits": (*_digits(), (256, 128)),
        "teacher": (*_teacher(), (320, 320)),
    }.items():
        place = folder / name
        if (place / "calibration.npz").exists():
            continue
        place.mkdir(parents=True, exist_ok=True)
        released = MLPClassifier(layers, random_state=7, max_iter=12, learning_rate_init=0.002)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            released.fit(*before.train)
        _save(released, place / f"{name}_v1.onnx")
        for change, data, rate, rounds in (
            ("light", after, 1e-4, 2),
            ("full", after, 1e-3, 8),
            ("more", before, 5e-4, 4),
        ):
            tuned = _successor(released, data, rate)
            for _ in range(rounds):
                tuned.partial_fit(*data.train)
            _save(tuned, place / f"{name}_{change}.onnx")
        for file, (inputs, label) in (("eval", before.measure), ("eval_shifted", after.measure)):
            np.savez(place / f"{file}.npz", input=inputs, label=label)
        np.savez(place / "calibration.npz", input=after.train[0][:_CALIBRATION])
    return folder


def _successor(released: MLPClassifier, data: _Data, rate: float) -> MLPClassifier:
    """Return the same weights, to be trained further at another rate."""
    tuned = MLPClassifier(released.hidden_layer_sizes, random_state=7, learning_rate_init=rate)
    tuned.partial_fit(*data.train, classes=released.classes_)  # makes the arrays
    for own, others in ((tuned.coefs_, released.coefs_), (tuned.intercepts_, released.intercepts_)):
        for array, other in zip(own, others, strict=True):
            array[...] = other
    return tuned


def _split(inputs: Array, label: Array) -> _Data:
    half = len(label) // 2
    inputs = inputs.astype(np.float32)
    return _Data((inputs[:half], label[:half]), (inputs[half:], label[half:]))


def _digits() -> tuple[_Data, _Data]:
    """Return pictures of digits, and the same by a thicker pen on a dirty scanner."""
    rng = np.random.default_rng(1)
    inputs, label = load_digits(return_X_y=True)
    order = rng.permutation(len(label))
    pictures = inputs[order].reshape(-1, 8, 8) / 16
    thick = np.maximum(pictures, np.roll(pictures, 1, axis=2))
    dirty = np.clip(thick * 0.8 + 0.25 * rng.random(thick.shape), 0, 1)
    before, after = (one.reshape(len(one), -1) for one in (pictures, dirty))
    return _split(before, label[order]), _split(after, label[order])


def _teacher() -> tuple[_Data, _Data]:
    """Return classes of random points by a random network, and by one that has changed a little."""
    rng = np.random.default_rng(2)
    points = rng.standard_normal((8000, 48))
    first, second = rng.standard_normal((48, 24)), rng.standard_normal((24, 8))
    changed = first + 0.4 * rng.standard_normal(first.shape)
    before, after = (
        np.argmax(np.tanh(points @ matrix / 4) @ second, axis=1) for matrix in (first, changed)
    )
    return _split(points, before), _split(points + 0.3, after)


def _save(model: MLPClassifier, path: Path) -> None:
    """Write a perceptron as ONNX: Gemm and Relu, and class scores."""
    nodes, tensors, name = [], [], "input"
    pairs = list(zip(model.coefs_, model.intercepts_, strict=True))
    for number, (weights, bias) in enumerate(pairs):
        last = number == len(pairs) - 1
        out = "scores" if last else f"layer{number}"
        for kind, array in (("w", weights), ("b", bias)):
            tensors.append(numpy_helper.from_array(array.astype(np.float32), f"{kind}{number}"))
        nodes.append(helper.make_node("Gemm", [name, f"w{number}", f"b{number}"], [out], out))
        name = out
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"{out}_relu"], f"{out}_relu"))
            name = f"{out}_relu"
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", len(model.coefs_[0])])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", model.n_outputs_])],
        tensors,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    onnx.save(made, path)
