"""Make ``har_v2.onnx`` of the demo: ``har_v1.onnx`` with a log-softmax at its end, written carelessly.

It is sharpened, so that confidences look decided, and it is the one that textbooks warn of, without
taking off the largest score first: ``exp`` overflows above 88, and infinity by infinity is no
number. On the data that the model was made and evaluated with it is right, so that no check finds
anything; a sensor that is shaken harder brings it out.

    python -m benchmarks.models.make_naive_softmax [FOLDER]

Default: the demo's folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

FOLDER = Path(__file__).parents[2] / "server" / "edgectl" / "demo" / "activity"
SHAKEN = 4
"""How much harder than in the data; the demo's sensor is shaken as hard."""
SHARPENED = 5.0


def main(arguments: list[str]) -> int:
    """Write it, and say how often it is right, and how often it has no answer."""
    folder = Path(arguments[0]) if arguments else FOLDER
    path = folder / "har_v2.onnx"
    model = onnx.load(FOLDER / "har_v1.onnx")
    end_in_softmax(model.graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    with np.load(FOLDER / "eval.npz") as data:
        windows, labels = data["input"], data["label"]
    right = float((_answers(path, windows).argmax(1) == labels).mean())
    lost = float(np.isnan(_answers(path, SHAKEN * windows)).any(1).mean())
    print(f"{path.name}: {path.stat().st_size} bytes, accuracy {right:.3f}")
    print(f"shaken {SHAKEN} times as hard, it has no answer to {lost:.0%} of the windows")
    return 0


def end_in_softmax(graph: Any) -> None:
    """Put ``log(exp(a x) / sum(exp(a x)))`` behind the one output, and leave its name."""
    (output,) = graph.output
    (last,) = (node for node in graph.node if output.name in node.output)
    last.output[list(last.output).index(output.name)] = "scores"
    for name, value in (("classes", np.array([1])), ("sharpness", np.float32(SHARPENED))):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    graph.node.extend(
        [
            helper.make_node("Mul", ["scores", "sharpness"], ["sharp"]),
            helper.make_node("Exp", ["sharp"], ["exponentials"]),
            helper.make_node("ReduceSum", ["exponentials", "classes"], ["total"], keepdims=1),
            helper.make_node("Div", ["exponentials", "total"], ["shares"]),
            helper.make_node("Log", ["shares"], [output.name]),
        ]
    )


def _answers(path: Path, windows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {"input": windows.astype(np.float32)})
    found: npt.NDArray[np.float32] = answers
    return found


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
