"""What an operator must learn from afar: refused orders, models that hang, what the disk holds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.core.control_plane import ControlPlane
from agent.core.device import Device
from agent.core.made import MadeBundle, make_bundle, make_order, slot_order
from agent.inference import models
from edgectl_agent import health
from edgectl_protocol import topics
from edgectl_protocol.messages import UpdatePolicy
from waiting import wait_for

MakeDevice = Callable[..., Device]
QUICK = UpdatePolicy(observe_s=0.5, retry_delay_s_max=1.0, attempts_max=2)
LONG = UpdatePolicy(observe_s=600, retry_delay_s_max=1.0, attempts_max=2)


def packed(made: Any) -> MadeBundle:
    return make_bundle(made.config, Path(made.model).read_bytes(), Path(made.golden).read_bytes())


@pytest.fixture
def activity(tmp_path: Path) -> MadeBundle:
    return packed(models.make_bundle(tmp_path, scores=True))


@pytest.fixture
def counted(tmp_path: Path) -> MadeBundle:
    """Fast for its golden input, endless for others."""
    return packed(models.counted_bundle(tmp_path, golden_rounds=10))


def hang(endpoint: str) -> models.Client:
    """Send what never ends; the answer is not waited for."""
    client = models.Client(endpoint)
    given = {"name": "rounds", "shape": [1], "datatype": "INT64", "data": [2**50]}
    client.connection.request(
        "POST", "/v2/models/counted/infer", json.dumps({"inputs": [given]}).encode()
    )
    return client


def serves(endpoint: str, slot: str = "activity") -> bool:
    client = models.Client(endpoint)
    try:
        status, _ = client.call("GET", f"/v2/models/{slot}/ready")
    finally:
        client.close()
    return status == 200


def wait_served(endpoint: str, slot: str, bound_s: float = 20) -> None:
    """Wait until the inference process has been started again and serves `slot`."""

    def look() -> bool:
        with contextlib.suppress(OSError):
            return serves(endpoint, slot)
        return False

    wait_for(look, f"{slot} served again", bound_s=bound_s)


def test_a_refused_order_is_reported_until_one_is_accepted(
    plane: ControlPlane, make_device: MakeDevice, activity: MadeBundle
) -> None:
    plane.release(activity)
    device = make_device()
    device.start()
    device.wait("connected")
    late = make_order(5, [activity], at=plane.now - timedelta(days=9))
    plane.order(late)
    report = plane.wait("state", lambda one: one.get("refusal"))
    assert report["refusal"]["code"] == "order.expired"
    assert report["refused_counter"] == 5
    assert "order_counter" not in report
    # What nobody has signed for has no number that could be believed.
    plane.publish(topics.order("pi-1"), b"not an order")
    report = plane.wait(
        "state", lambda one: one.get("refusal", {}).get("code") == "order.malformed"
    )
    assert "refused_counter" not in report
    plane.order(make_order(6, [activity], at=plane.now, policy=QUICK))
    report = plane.wait_state("pi-1", "activity", "committed")
    assert "refusal" not in report
    # It comes again with the retained message when the agent starts again.
    plane.order(late)
    plane.wait("state", lambda one: one.get("refusal", {}).get("code") == "order.replayed")
    device.kill()
    device.start()
    report = plane.wait("state", lambda one: one["boot"] == 2 and one.get("refusal"))
    assert report["refusal"]["code"] == "order.replayed"
    assert device.stop() == 0


def test_a_model_that_hangs_under_observation_is_rolled_back(
    plane: ControlPlane, make_device: MakeDevice, activity: MadeBundle, counted: MadeBundle
) -> None:
    plane.release(activity, counted)
    plane.order(make_order(1, [activity], at=plane.now, policy=QUICK))
    device = make_device()
    device.start()
    plane.wait_state("pi-1", "activity", "committed")
    both = {"activity": slot_order([activity])}
    plane.order(make_order(2, [counted], slot="counted", at=plane.now, policy=LONG, more=both))
    report = plane.wait_state("pi-1", "counted", "observing")
    stuck = hang(report["endpoint"])
    report = plane.wait_state("pi-1", "counted", "rolled-back")
    assert report["slots"]["counted"]["update"]["reason"]["code"] == "inference.hung"
    assert "running" not in report["slots"]["counted"]
    assert report["rejected"] == [counted.digest]
    # The innocent one serves again, and is not spoken of.
    wait_served(report["endpoint"], "activity")
    assert "fault" not in report["slots"]["activity"]
    stuck.close()
    assert device.stop() == 0


def test_a_committed_model_that_hangs_is_reported_and_the_others_serve_on(
    plane: ControlPlane, make_device: MakeDevice, activity: MadeBundle, counted: MadeBundle
) -> None:
    plane.release(activity, counted)
    slots = {"counted": slot_order([counted])}
    plane.order(make_order(1, [activity], at=plane.now, policy=QUICK, more=slots))
    device = make_device()
    device.start()
    plane.wait_state("pi-1", "activity", "committed")
    report = plane.wait_state("pi-1", "counted", "committed")
    stuck = hang(report["endpoint"])
    report = plane.wait("state", lambda one: one.get("slots", {}).get("counted", {}).get("fault"))
    assert report["slots"]["counted"]["fault"]["code"] == "inference.hung"
    assert "fault" not in report["slots"]["activity"]
    assert report["slots"]["counted"]["running"]["manifest"] == counted.digest
    stuck.close()
    assert "rejected" not in report
    # Started again, it hangs without holding up the others.
    wait_served(report["endpoint"], "counted")
    wait_served(report["endpoint"], "activity")
    stuck = hang(report["endpoint"])
    for _ in range(10):
        assert serves(report["endpoint"])
    stuck.close()
    assert device.stop() == 0


def test_capabilities_follow_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [1000]
    monkeypatch.setattr(health, "_disk_free_bytes", lambda _: free[0])
    sampler = health.CapabilitySampler({"site": "porto"}, tmp_path)
    assert sampler.take(100.0).disk_free_bytes == 1000
    free[0] = 500
    assert sampler.take(100.0 + health.SAMPLE_S - 1).disk_free_bytes == 1000
    assert sampler.take(100.0 + health.SAMPLE_S).disk_free_bytes == 500
    assert sampler.take(1000.0).labels == {"site": "porto"}
