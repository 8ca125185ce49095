"""A model of 200 MB over MQTT, into a device whose supervisor may have 64 MB of memory.

    python -m benchmarks.distribution.large_model [--megabytes 200] [--memory 64]

A real agent enrols, is ordered to run the model, fetches it from Mosquitto over TLS, tries it and
serves it. Told are the seconds from the order to the model being committed, and the highest
resident memory of the supervisor, as the kernel counts it; the model itself is in the memory of the
trial and of the inference process, which are others. 1 when the supervisor took more than it may.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from agent.core.control_plane import ControlPlane
from agent.core.device import Device
from agent.core.made import MadeBundle, make_bundle, make_order
from agent.inference import models
from edgectl_protocol.messages import UpdatePolicy
from waiting import wait_for

_SLOT, _DEVICE = "activity", "pi-1"
_INPUTS = 1000
_BOUND_S = 600.0


def made(folder: Path, megabytes: int) -> MadeBundle:
    """Return the bundle of one dense layer of random weights."""
    outputs = megabytes * 1_000_000 // (4 * _INPUTS)
    weights = np.random.default_rng(1).random((_INPUTS, outputs), np.float32)
    model = models.save_model(
        folder / "large.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [models.tensor("x", TensorProto.FLOAT, ["rows", _INPUTS])],
        [models.tensor("y", TensorProto.FLOAT, ["rows", outputs])],
        [numpy_helper.from_array(weights, "w")],
    )
    bundle = models.make_bundle(
        folder, model, slot=_SLOT, golden_inputs={"x": np.ones((1, _INPUTS), np.float32) / _INPUTS}
    )
    return make_bundle(
        bundle.config, Path(bundle.model).read_bytes(), Path(bundle.golden).read_bytes()
    )


def highest_bytes(pid: int) -> int:
    """Return the most memory that a process has had resident."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main(arguments: list[str] | None = None) -> int:
    """Measure, say, end with one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distribution.large_model")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--memory", type=int, default=64, help="megabytes that it may have")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="edgectl-large-", dir="/var/tmp") as scratch:
        folder = Path(scratch)
        plane = ControlPlane(folder / "plane", broker="mosquitto")
        device = Device(plane.url, plane.token_text, folder / _DEVICE, _DEVICE)
        try:
            bundle = made(folder, options.megabytes)
            plane.release(bundle, chunks=False)
            for topic, payload in bundle.retained.items():
                plane.link.publish(topic, payload, retain=True, bulk=True)
            assert plane.link.flush(_BOUND_S)
            device.start()
            device.wait("connected")
            before = highest_bytes(device.pid)
            began = time.monotonic()
            policy = UpdatePolicy(observe_s=0.0)
            plane.order(make_order(1, [bundle], at=plane.now, policy=policy))
            wait_for(lambda: _committed(plane), "the model", bound_s=_BOUND_S)
            seconds, after = time.monotonic() - began, highest_bytes(device.pid)
            assert device.stop() == 0
        finally:
            device.kill()
            plane.close()
    print(f"{options.megabytes} MB over MQTT (Mosquitto, TLS, QoS 1): committed in {seconds:.1f} s")
    print(f"supervisor: {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB at most")
    result = {
        "benchmark": "distribution.large_model",
        "megabytes": options.megabytes,
        "seconds": round(seconds, 1),
        "supervisor_megabytes_before": round(before / 1e6, 1),
        "supervisor_megabytes_highest": round(after / 1e6, 1),
        "may_have_megabytes": options.memory,
    }
    print(json.dumps(result))
    return 0 if after <= options.memory * 1_000_000 else 1


def _committed(plane: ControlPlane) -> bool:
    slots = [one.get("slots", {}).get(_SLOT, {}) for one in plane.of("state")]
    states = [slot.get("update", {}).get("state") for slot in slots]
    assert not {"failed", "rejected", "rolled-back"} & set(states), plane.of("event")[-1]
    return "committed" in states


if __name__ == "__main__":
    raise SystemExit(main())
