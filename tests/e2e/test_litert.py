"""A `.tflite` file, encrypted, from push to prediction on a device with LiteRT; none without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from waiting import wait_for

pytestmark = pytest.mark.e2e

SINE = Path(__file__).parents[1] / "data/tflite/hello_world_float.tflite"
WITHOUT = """
import sys
sys.modules["ai_edge_litert"] = None
sys.modules["tflite_runtime"] = None
"""
"""What makes Python find no such module, whether it is looked for or imported."""


def test_from_push_to_prediction(start, tmp_path, monkeypatch):
    server = start.server()
    token = server.enrol_token(uses=2)
    agent = start.agent(server, "pi-1", token=token)
    x = np.linspace(0, 2 * np.pi, 200, dtype=np.float32).reshape(-1, 1)
    np.savez(tmp_path / "eval.npz", input=x, label=np.sin(x))
    job = server.push("sine", SINE, evaluation=tmp_path / "eval.npz", encrypt=["fp32"])
    assert job.state == "succeeded", job.error
    version = server.client.get_version("sine", "1")
    (variant,) = version.variants
    assert (variant.variant, variant.precision) == ("fp32", "fp32")
    assert version.report is not None
    (trial,) = version.report.trials
    assert (trial.recipe, trial.runtime, version.report.metric) == ("as-pushed", "litert", "rmse")

    server.wait_rollout(server.roll_out("sine", "1", "pi-1", observe_s=0.5))
    _infer(agent)
    counted = wait_for(
        lambda: [t for t in server.client.telemetry("sine") if t.requests >= 2], "telemetry"
    )[0]
    assert (counted.errors, counted.manifest) == (0, variant.manifest)

    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WITHOUT)
    monkeypatch.setenv("PYTHONPATH", str(site))
    start.agent(server, "pi-2", token=token)
    said = wait_for(lambda: server.client.device("pi-2").capabilities, "what the device is")
    assert set(said["runtimes"]) == {"onnxruntime"}
    rollout = server.roll_out("sine", "1", "pi-2", observe_s=0.5)
    rows = wait_for(
        lambda: [r for r in server.client.rollout_devices(rollout).items if r.reason], "a reason"
    )
    assert rows[0].reason.code == "rollout.no_variant", rows


def _infer(agent):
    for value in (0.5, 2.0):
        body = np.array([[value]], np.float32)
        answer = agent.infer("sine", body, name="dense_input")
        assert answer["outputs"][0]["name"] == "dense_2"
        assert abs(answer["outputs"][0]["data"][0] - np.sin(value)) < 0.2
