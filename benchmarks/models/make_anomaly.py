"""Train the anomaly autoencoder of ``tests/data/anomaly`` from the occupancy data of the tests.

The class of model of MLPerf Tiny's anomaly detection (its ``ad01``): dense layers with batch
normalization and ReLU, narrow in the middle, the score of a sample being the mean squared error of
its reconstruction. A sample is the CO2 in a room over eight minutes; normal is an empty room,
anomalous is one with people in it. Training and calibration see empty rooms of ``train.npz`` alone,
the evaluation is ``test.npz``, which is of other days.

    python -m benchmarks.models.make_anomaly [FOLDER] [SEED]

Default: ``tests/data/anomaly`` and 0. Deterministic on one machine (seeded, NumPy only); another
BLAS library rounds otherwise, so that the last digits of the weights may differ.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, checker, helper, numpy_helper

ROOT = Path(__file__).parents[2]
OCCUPANCY = ROOT / "tests" / "data" / "occupancy"
FOLDER = ROOT / "tests" / "data" / "anomaly"
CO2 = 3
"""Its column in the data, parts per million, one reading a minute."""
LENGTH, LATENT = 8, 2
SIZES = (LENGTH, 64, 64, 64, 64, LATENT, 64, 64, 64, 64, LENGTH)
EPOCHS, BATCH, RATE_MAX = 12, 128, 2e-3
CALIBRATION_SAMPLES = 256
EPSILON, MOMENTUM = 1e-3, 0.9

Array = npt.NDArray[np.float32]


@dataclass
class Dense:
    """A dense layer, and its batch normalization and ReLU unless it is the last one."""

    last: bool
    values: dict[str, Array]
    mean: Array
    variance: Array
    moments: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def forward(self, x: Array, *, training: bool) -> tuple[Array, tuple[Array, ...]]:
        """Return the output [N, out] for `x` [N, in], and what the way back needs."""
        z = x @ self.values["weight"] + self.values["bias"]
        if self.last:
            return z, (x,)
        if training:
            mean, variance = z.mean(0), z.var(0)
            self.mean = MOMENTUM * self.mean + (1 - MOMENTUM) * mean
            self.variance = MOMENTUM * self.variance + (1 - MOMENTUM) * variance
        else:
            mean, variance = self.mean, self.variance
        deviation = np.sqrt(variance + EPSILON)
        normal = (z - mean) / deviation
        scaled = normal * self.values["gain"] + self.values["shift"]
        return np.maximum(scaled, 0), (x, normal, deviation, scaled)

    def backward(self, slope: Array, kept: tuple[Array, ...]) -> tuple[Array, dict[str, Array]]:
        """Return the gradients of the input and of the values."""
        gradients: dict[str, Array] = {}
        if not self.last:
            _, normal, deviation, scaled = kept
            slope = slope * (scaled > 0)
            gradients["gain"] = (slope * normal).sum(0)
            gradients["shift"] = slope.sum(0)
            inner = slope * self.values["gain"]
            slope = (inner - inner.mean(0) - normal * (inner * normal).mean(0)) / deviation
        gradients["weight"] = kept[0].T @ slope
        gradients["bias"] = slope.sum(0)
        return slope @ self.values["weight"].T, gradients

    def learn(self, gradients: dict[str, Array], rate: float, step: int) -> None:
        """Move by Adam (Kingma and Ba 2014), its constants 0.9, 0.999 and 1e-8."""
        for name, gradient in gradients.items():
            first, second = self.moments.get(name, (0.0, 0.0))
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient * gradient
            self.moments[name] = (first, second)
            move = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            self.values[name] = (self.values[name] - rate * move).astype(np.float32)


def windows(name: str) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return windows [N, 8] of consecutive readings, and in how many of each somebody is there."""
    with np.load(OCCUPANCY / name) as data:
        readings, label = data["X"][:, CO2], data["label"]
    view = np.lib.stride_tricks.sliding_window_view
    return view(readings, LENGTH), view(label, LENGTH).sum(1)


def train(data: Array, seed: int) -> list[Dense]:
    """Train on normal samples alone; the rate of learning falls along a half cosine."""
    random = np.random.default_rng(seed)
    layers = []
    for number, (before, after) in enumerate(itertools.pairwise(SIZES)):
        weight = random.normal(size=(before, after)) * np.sqrt(2 / before)
        zeros, ones = np.zeros(after, np.float32), np.ones(after, np.float32)
        values = {"weight": weight.astype(np.float32), "bias": zeros, "gain": ones, "shift": zeros}
        layers.append(Dense(number == len(SIZES) - 2, values, zeros, ones))
    batches = len(data) // BATCH
    step = 0
    for _ in range(EPOCHS):
        order = random.permutation(len(data))
        for number in range(batches):
            step += 1
            rate = RATE_MAX * 0.5 * (1 + np.cos(np.pi * step / (EPOCHS * batches)))
            _train_batch(layers, data[order[number * BATCH : (number + 1) * BATCH]], rate, step)
    return layers


def _train_batch(layers: list[Dense], x: Array, rate: float, step: int) -> None:
    value, kept = x, []
    for layer in layers:
        value, more = layer.forward(value, training=True)
        kept.append(more)
    slope: Array = 2 * (value - x) / np.float32(x.size)
    for layer, more in zip(reversed(layers), reversed(kept), strict=True):
        slope, gradients = layer.backward(slope, more)
        layer.learn(gradients, rate, step)


def to_onnx(layers: list[Dense]) -> Any:
    """Return the ``ModelProto``: ``input`` [N, 192] to ``output`` [N, 192], opset 17."""
    nodes, initializers, value = [], [], "input"
    for number, layer in enumerate(layers):
        arrays = {name: layer.values[name] for name in ("weight", "bias")}
        result = "output" if layer.last else f"dense{number}.out"
        names = [f"dense{number}.{name}" for name in arrays]
        nodes.append(helper.make_node("Gemm", [value, *names], [result], name=f"dense{number}"))
        if not layer.last:
            more = {
                "gain": layer.values["gain"], "shift": layer.values["shift"],
                "mean": layer.mean, "variance": layer.variance,
            }  # fmt: skip
            arrays |= more
            nodes.append(
                helper.make_node(
                    "BatchNormalization",
                    [result, *(f"dense{number}.{name}" for name in more)],
                    [f"norm{number}.out"],
                    name=f"norm{number}",
                    epsilon=EPSILON,
                )
            )
            value = f"relu{number}.out"
            nodes.append(
                helper.make_node("Relu", [f"norm{number}.out"], [value], name=f"relu{number}")
            )
        initializers += [
            numpy_helper.from_array(array.astype(np.float32), f"dense{number}.{name}")
            for name, array in arrays.items()
        ]
    shape = ("N", SIZES[0])
    graph = helper.make_graph(
        nodes,
        "anomaly",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model


def main(arguments: list[str]) -> int:
    """Write ``ae.onnx``, ``calibration.npz`` and ``eval.npz``."""
    folder = Path(arguments[0]) if arguments else FOLDER
    seed = int(arguments[1]) if len(arguments) > 1 else 0
    values, occupied = windows("train.npz")
    empty = values[occupied == 0]
    mean, deviation = empty.mean(), empty.std()
    training = ((empty - mean) / deviation).astype(np.float32)
    layers = train(training, seed)
    values, occupied = windows("test.npz")
    clear = (occupied == 0) | (occupied == LENGTH)  # people neither come nor go meanwhile
    samples = ((values[clear] - mean) / deviation).astype(np.float32)
    truth = (occupied[clear] > 0).astype(np.int64)
    chosen = np.random.default_rng(0).choice(len(training), CALIBRATION_SAMPLES, replace=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ae.onnx").write_bytes(to_onnx(layers).SerializeToString())
    np.savez_compressed(folder / "calibration.npz", input=training[np.sort(chosen)])
    np.savez_compressed(folder / "eval.npz", input=samples, label=truth)
    print(f"{len(training)} windows to train on, {len(truth)} to evaluate, {truth.sum()} anomalous")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
