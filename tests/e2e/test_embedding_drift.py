"""A shift that no statistic of the inputs has is seen in the embedding, from device to explanation.

The activity model gives its last features as a second output. Its windows are then played
backwards: means, deviations and powers of frequencies stay what they are, and what the model makes
of them does not.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgectl_protocol.watching import WatchedTensor
from edgectl_statistics.tensors import PROJECTIONS, describe
from waiting import wait_for

pytestmark = pytest.mark.e2e

EMBEDDING = WatchedTensor(name="embedding", kind="embedding")
WIDTH = 128
SETTINGS = {"watch_window_s": "2", "watch_rows_per_s": "1000", "drift_period_s": "20"}
ROWS_A_LOOK = 60
JUDGED_S = 300.0
Rows = npt.NDArray[np.float32]


def with_embedding(source: Path, path: Path) -> Path:
    """Write a classifier with what goes into its last layer as a second output."""
    model = onnx.load(source)
    (head,) = [node for node in model.graph.node if "logits" in node.output]
    inner = head.input[0]
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["embedding" if name == inner else name for name in names]
    shape: list[str | int] = ["N", WIDTH]
    model.graph.output.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, shape))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def apart(counts: Any, others: Any) -> float:
    """Return the largest difference of the cumulative shares of two histograms."""
    one, other = (np.cumsum(each) / np.sum(each) for each in (counts, others))
    return float(np.abs(one - other).max())


def test_a_shift_in_the_embedding_alone_is_drift_and_is_explained(
    start: Any, activity: Any, tmp_path: Path
) -> None:
    model = with_embedding(activity["model"], tmp_path / "har.onnx")
    windows: Rows = activity["windows"]
    backwards = np.ascontiguousarray(windows[:, :, ::-1])
    server = start.server(settings=SETTINGS)
    data = {role: activity[role] for role in ("calibration", "evaluation")}
    pushed = server.push("har", model, "1", precisions=["fp32"], **data)
    assert pushed.state == "succeeded", pushed.error
    agent = start.agent(server, "pi-1")
    server.wait_rollout(server.roll_out("har", "1", observe_s=0.5))
    random = np.random.default_rng(0)

    def asked_until(state: str, rows: Rows) -> Any:
        """Ask as an application does, in no order, until the device's state is this one."""

        def look() -> Any:
            for number in random.integers(len(rows), size=ROWS_A_LOOK):
                agent.infer("har", rows[number][None])
            groups = server.client.drift([("model", "har"), ("level", "device")]).items
            return next((one for one in groups if one.state == state), None)

        return wait_for(look, f"pi-1 is {state}", bound_s=JUDGED_S)

    quiet = asked_until("quiet", windows)
    assert quiet.group == "pi-1"
    assert not quiet.findings
    assert server.client.drift_events([("model", "har")]).items == []

    drifting = asked_until("drifting", backwards)
    moved = {one.feature for one in drifting.findings}
    assert {name for name in moved if name.startswith("embedding.projection.")}, moved
    assert not {name for name in moved if name.startswith("input.")}, "nothing there has moved"

    (began,) = [
        one
        for one in server.client.drift_events([("model", "har")]).items
        if (one.kind, one.level) == ("drift.began", "device")
    ]
    assert {one.feature for one in began.findings} & moved

    detail = server.client.drift_detail("har", [("device", "pi-1")])
    features = {one.feature: one for one in detail.features}
    names = ["embedding.length", *(f"embedding.projection.{n}" for n in range(PROJECTIONS))]
    assert set(names) <= set(features)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    described = describe(EMBEDDING, session.run(["embedding"], {"input": backwards})[0])
    told = [name for name in names if features[name].moved]
    assert told
    for name in told:
        feature = features[name]
        expected = np.bincount(
            np.searchsorted(feature.edges, described[:, names.index(name)], "right"),
            minlength=len(feature.edges) + 1,
        )
        assert sum(feature.counts) >= 100
        shifted = apart(feature.counts, feature.reference)
        assert feature.distance == pytest.approx(shifted, abs=0.001)
        assert apart(feature.counts, expected) < shifted, "as these rows are, not as the reference"
    assert detail.features[0].moved
