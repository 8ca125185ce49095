"""``python -m benchmarks.training.draws``: what a new head regains, over many draws of labels.

The demo's activity model and windows of real people. A shift befalls all phones; a draw labels some
windows of five people out of nine, and the other four measure. Beside the built-in trainer, in the
same run: logistic regression of scikit-learn on the same features, its strength by
cross-validation, fitted to the new labels alone, and to these and the calibration data with the
served model's answers.

Printed are the share of the lost accuracy that is regained, as the worst draw, the tenth percentile
and the median, and the points of accuracy that windows without the shift lose.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from sklearn.linear_model import LogisticRegressionCV

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from edgectl.demo import activity_data
from edgectl_server.deltas.encoder import encode
from edgectl_server.training.head_trainer import train_head
from edgectl_server.training.heads import find_head, with_features
from edgectl_server.training.spec import MODEL, OUT, SOURCE, TrainSpec
from training.activity import evaluation, lay_out, turned

Array = npt.NDArray[Any]
SHIFTS: dict[str, Callable[[Array], Array]] = {
    "turned by 45°": turned,
    "turned by 90°": lambda windows: turned(windows, 90.0),
    "gain 0.6": lambda windows: (windows * 0.6).astype(np.float32),
    "turned by 45°, gain 0.7": lambda windows: (turned(windows) * 0.7).astype(np.float32),
}


def main() -> None:
    """Print a row for each shift, number of labels and way to fit; then one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--labels", type=int, nargs="+", default=[150, 300])
    parser.add_argument("--shifts", nargs="+", default=list(SHIFTS), choices=list(SHIFTS))
    arguments = parser.parse_args()
    features = _Features()
    figures = []
    for shift in arguments.shifts:
        for labels in arguments.labels:
            found = defaultdict(list)
            for seed in range(arguments.draws):
                print(f"  {shift}, {labels} labels, draw {seed + 1} of {arguments.draws}",
                      file=sys.stderr)  # fmt: skip
                for way, figure in _draw(features, SHIFTS[shift], labels, seed).items():
                    found[way].append(figure)
            for way, drawn in found.items():
                figures.append({"shift": shift, "labels": labels, "way": way} | _summary(drawn))
    columns = ("shift", "labels", "way", "regained_worst", "regained_p10", "regained_median",
               "old_points_lost_median", "old_points_lost_worst", "update_bytes")  # fmt: skip
    print(" | ".join(columns))
    for row in figures:
        print(" | ".join(str(row.get(column, "")) for column in columns))
    print(json.dumps({"benchmark": "draws", "draws": arguments.draws, "figures": figures}))


class _Features:
    """What the served model makes of windows before its last layer."""

    def __init__(self) -> None:
        model = onnx.load(activity_data.MODEL)
        opened, self._seen = with_features(model, find_head(model, "logits"))
        self._session = onnxruntime.InferenceSession(opened.SerializeToString())

    def of(self, windows: Array) -> tuple[Array, Array]:
        """Return features [N, D] and logits [N, K] of windows [N, 6, 128]."""
        found = self._session.run([self._seen.features, self._seen.logits], {"input": windows})
        return found[0], found[1]


def _draw(
    features: _Features, shift: Callable[[Array], Array], labels: int, seed: int
) -> dict[str, dict[str, float]]:
    """Return for each way the share regained, the points lost on old windows, and the update."""
    windows, truth, _ = evaluation()
    shifted = shift(windows)
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        learnt, measured = lay_out(run, shifted, labels=labels, seed=seed)
        train_head(TrainSpec(task="head", model="har"), run, lambda _: None)
        made = (run / OUT / MODEL).read_bytes()
        update = len(encode((run / SOURCE).read_bytes(), made).content)
    session = onnxruntime.InferenceSession(made)
    ways: dict[str, Callable[[Array], Array]] = {
        "edgectl": lambda asked: session.run(None, {"input": asked})[0].argmax(axis=1)
    }
    seen, served = features.of(shifted)
    with np.load(activity_data.CALIBRATION) as data:
        replayed, answers = features.of(data["input"])
    for way, more in (("new labels alone", 0), ("with calibration data", len(replayed))):
        probe = LogisticRegressionCV(
            Cs=5,
            cv=3,
            l1_ratios=(0,),
            scoring="accuracy",
            max_iter=2000,
            use_legacy_attributes=False,
        )
        probe.fit(
            np.concatenate([seen[learnt], replayed[:more]]),
            np.concatenate([truth[learnt], answers.argmax(axis=1)[:more]]),
        )
        ways[f"scikit-learn, {way}"] = partial(_predict, probe, features)
    before = float((features.of(windows)[1].argmax(axis=1) == truth)[measured].mean())
    during = float((served.argmax(axis=1) == truth)[measured].mean())
    result = {}
    for way, answer in ways.items():
        after = float((answer(shifted[measured]) == truth[measured]).mean())
        old = float((answer(windows[measured]) == truth[measured]).mean())
        result[way] = {
            "regained": (after - during) / (before - during),
            "old_points_lost": 100 * (before - old),
        }
    result["edgectl"]["update_bytes"] = update
    return result


def _predict(probe: LogisticRegressionCV, features: _Features, windows: Array) -> Array:
    result: Array = probe.predict(features.of(windows)[0])
    return result


def _summary(drawn: list[dict[str, float]]) -> dict[str, float]:
    regained = [one["regained"] for one in drawn]
    lost = [one["old_points_lost"] for one in drawn]
    result = {
        "regained_worst": round(min(regained), 3),
        "regained_p10": round(float(np.percentile(regained, 10)), 3),
        "regained_median": round(float(np.median(regained)), 3),
        "old_points_lost_median": round(float(np.median(lost)), 2),
        "old_points_lost_worst": round(max(lost), 2),
    }
    if "update_bytes" in drawn[0]:
        result["update_bytes"] = round(float(np.median([one["update_bytes"] for one in drawn])))
    return result


if __name__ == "__main__":
    main()
