"""The demo's model and data, and what the model says on a device about real windows.

Human activity from a phone's accelerometer and gyroscope: windows float32 [6, 128] → seven
classes. Source and licence stand beside the files.
"""

from __future__ import annotations

from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import msgspec

from edgectl.errors import DemoFailed

__all__ = [
    "CALIBRATION",
    "CARELESS",
    "EVALUATION",
    "LABELS",
    "MODEL",
    "NAME",
    "PATH",
    "Prediction",
    "accuracy",
    "predict",
    "request_of",
    "summary_lines",
    "windows",
]

_FOLDER = Path(str(files("edgectl.demo"))) / "activity"
NAME = "har"
PATH = f"/v2/models/{NAME}/infer"
"""Of a device's inference endpoint."""
MODEL = _FOLDER / "har_v1.onnx"
CARELESS = _FOLDER / "har_v2.onnx"
"""Passes every check, and has no answer where the sensor is shaken harder than in the data."""
CALIBRATION = _FOLDER / "calibration.npz"
EVALUATION = _FOLDER / "eval.npz"
LABELS = (
    "walking",
    "walking upstairs",
    "walking downstairs",
    "sitting",
    "standing",
    "lying",
    "transition",
)
_TIMEOUT_S = 10.0
_SEED = 3  # this draw holds all seven labels and, like the whole, some windows that are hard


class Prediction(NamedTuple):
    """What the model said, and what was so; indexes of `LABELS`."""

    predicted: int
    true: int


class _Output(msgspec.Struct):
    name: str
    data: list[float]


class _Answer(msgspec.Struct):
    outputs: list[_Output]


def predict(endpoint: str, count: int) -> list[Prediction]:
    """Send `count` windows, drawn from the evaluation data, to a device's inference endpoint.

    The draw is the same in every run.

    Raises:
        DemoFailed: ``demo.inference``: the endpoint refused, or its answer is not one.
    """
    predictions = []
    with httpx2.Client(base_url=endpoint, timeout=_TIMEOUT_S, trust_env=False) as http:
        for window, label in zip(*windows(count), strict=True):
            predictions.append(Prediction(_ask(http, window), int(label)))
    return predictions


def windows(count: int) -> tuple[Any, Any]:
    """Return `count` windows, float32 [count, 6, 128], and their labels, int64 [count]."""
    import numpy as np  # comes with the server; the CLI itself does without

    with np.load(EVALUATION, allow_pickle=False) as data:
        chosen = np.random.default_rng(_SEED).choice(len(data["label"]), count, replace=False)
        return data["input"][chosen], data["label"][chosen]


def request_of(window: Any) -> bytes:
    """Return the request that asks for one window, float32 [6, 128]; to be sent to `PATH`."""
    tensor = {
        "name": "input",
        "datatype": "FP32",
        "shape": [1, *window.shape],
        "data": window.ravel().tolist(),
    }
    return msgspec.json.encode({"inputs": [tensor]})


def _ask(http: httpx2.Client, window: Any) -> int:
    try:
        response = http.post(PATH, content=request_of(window))
    except httpx2.TransportError as error:
        raise DemoFailed("demo.inference", f"no answer from {http.base_url}: {error}") from error
    if not response.is_success:
        text = response.text[:500]
        raise DemoFailed("demo.inference", f"{PATH} answered {response.status_code}: {text}")
    try:
        logits = msgspec.json.decode(response.content, type=_Answer).outputs[0].data
        return max(range(len(LABELS)), key=logits.__getitem__)
    except (msgspec.DecodeError, IndexError) as error:
        raise DemoFailed("demo.inference", f"the answer is not understood: {error}") from error


def accuracy(predictions: list[Prediction]) -> float:
    """Return the share of right predictions."""
    right = sum(one.predicted == one.true for one in predictions)
    return right / len(predictions)


def summary_lines(predictions: list[Prediction]) -> list[tuple[str, str, str]]:
    """Return for each true label how many were right, and what the others were taken for."""
    lines = []
    for index, label in enumerate(LABELS):
        mine = [one.predicted for one in predictions if one.true == index]
        if not mine:
            continue
        wrong = Counter(LABELS[other] for other in mine if other != index)
        taken = ", ".join(f"{count} as {name}" for name, count in wrong.most_common())
        lines.append((label, f"{mine.count(index)} of {len(mine)}", taken))
    return lines
