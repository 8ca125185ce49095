"""An application that runs the model itself, beside a real agent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from agent.core.control_plane import ControlPlane
from agent.core.device import Device
from agent.core.made import MadeBundle, make_bundle, make_order
from agent.inference import models
from edgectl_agent import Model, SdkError, hold
from edgectl_protocol.messages import UpdatePolicy
from waiting import wait_for

MakeDevice = Callable[..., Device]


def packed(directory: Path, version: str, **options: object) -> MadeBundle:
    made = models.make_bundle(directory, version=version, **options)  # type: ignore[arg-type]
    return make_bundle(made.config, Path(made.model).read_bytes(), Path(made.golden).read_bytes())


def not_for_negative(directory: Path) -> Path:
    """A root of the sum: right for its golden inputs, NaN for a window whose sum is negative."""
    return models.save_model(
        directory / "root.onnx",
        [
            helper.make_node("ReduceSum", ["input", "axes"], ["sum"], keepdims=0),
            helper.make_node("Sqrt", ["sum"], ["logits"]),
        ],
        [models.tensor("input", TensorProto.FLOAT, ["N", 6, 128])],
        [models.tensor("logits", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )


def test_a_model_that_misbehaves_in_an_application_is_rolled_back(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    good = packed(tmp_path, "1", scores=True)
    plane.release(good)
    quick = UpdatePolicy(observe_s=0.2, attempts_max=2)
    plane.order(make_order(1, [good], at=plane.now, policy=quick))
    device = make_device()
    device.start()
    plane.wait_state("pi-1", "activity", "committed")
    model = Model("activity", socket=device.state / "models.sock")
    window = -np.abs(models.activity()[0][0])
    assert model.predict(window).version == "1"
    bad = packed(
        tmp_path,
        "2",
        model=not_for_negative(tmp_path),
        golden_inputs={"input": np.ones((4, 6, 128), np.float32)},
    )
    plane.release(bad)
    watchful = UpdatePolicy(observe_s=600, requests_min=5, attempts_max=1)
    plane.order(make_order(2, [bad], at=plane.now, policy=watchful))
    wait_for(lambda: model.predict(window).version == "2", "the swap is followed")
    # It asks on, and the endpoint is asked by nobody.
    wait_for(lambda: model.predict(window).version == "1", "the rollback is followed")
    report = plane.wait_state("pi-1", "activity", "rolled-back")
    assert report["slots"]["activity"]["running"]["manifest"] == good.digest
    model.close()
    plane.wait(
        "telemetry",
        lambda batch: any(
            one["version"] == "2" and one.get("non_finite") for one in batch.get("windows", [])
        ),
    )
    assert device.stop() == 0


def test_an_application_holds(plane: ControlPlane, make_device: MakeDevice, tmp_path: Path) -> None:
    device = make_device()
    device.start()
    control = device.state / "control.sock"
    wait_for(control.exists)

    def held() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "edgectl_agent", "hold", "--show", "--state", str(device.state)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    assert "measuring" not in held()
    with hold("measuring", for_s=600, socket=control):
        with hold("and more", for_s=600, socket=control):
            assert "measuring" in held()
            assert "and more" in held()
        assert "and more" not in held()
        assert "measuring" in held()
    assert "measuring" not in held()
    with pytest.raises(SdkError), hold("too long", for_s=1e9, socket=control):
        pass
    assert device.stop() == 0
    with pytest.raises(SdkError) as refused, hold("nobody", for_s=1, socket=control):
        pass
    assert refused.value.code == "agent.down"
