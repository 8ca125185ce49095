"""What whoever supervises the agent sees, and what a start of it finds: whole processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.core.control_plane import ControlPlane
from agent.core.device import Device
from agent.core.made import make_order, slot_order
from agent.core.test_agent_reports import hang, packed, wait_served
from agent.core.test_local_commands import bundle_of, ordered, started
from agent.inference import models
from agent.reality.agents import infer
from edgectl_agent.journal import last_record
from edgectl_protocol.messages import UpdatePolicy
from waiting import wait_for

MakeDevice = Callable[..., Device]

STUCK = """
import sys, threading
from edgectl_agent import cli
from edgectl_agent.core import bookkeeping, limits
from edgectl_agent.store import Store

bookkeeping.Limits = lambda: limits.Limits(verify_s=0.3, cancel_s=0.3)
Store.bundle = lambda *_, **__: threading.Event().wait()  # as in a call of the system
sys.exit(cli.main(sys.argv[1:]))
"""
"""An agent whose disk never answers while it verifies, and whose limits are moments, not hours."""


def test_an_agent_that_is_stuck_ends_and_the_next_one_goes_on(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = make_device()
    device.program = ("-c", STUCK)
    device.start()
    device.wait("connected")
    ordered(plane, 1, bundle_of(tmp_path))
    assert device.ended() == 1
    assert "error[update.stuck]" in device.errors()
    assert "try: whoever supervises the agent starts it anew" in device.errors()
    record, _ = last_record((device.state / "journal").read_bytes())
    assert record is not None
    assert not record.stopped  # so that the next start counts as one after a death
    device.program = ("-m", "edgectl_agent")
    device.start()
    device.wait("transition", after="committed")
    assert device.stop() == 0
    record, _ = last_record((device.state / "journal").read_bytes())
    assert record is not None
    assert record.stopped


def test_a_hold_counts_from_the_first_moment_of_a_start(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    """Also a file without content, made while no agent ran."""
    device = started(plane, make_device)
    device.told("hold")
    ordered(plane, 1, bundle_of(tmp_path))
    device.wait("transition", after="waiting")
    assert device.stop() == 0
    (device.state / "hold").unlink()
    (device.state / "hold").touch()
    device.start()
    device.wait("connected")
    assert "waiting" in device.command("status")[1]
    assert not any(line["event"] == "transition" for line in device.lines)
    (device.state / "hold").unlink()
    device.wait("transition", after="committed")


def test_a_hold_ends_while_the_agent_is_away(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = started(plane, make_device)
    device.told("hold")
    ordered(plane, 1, bundle_of(tmp_path))
    device.wait("transition", after="waiting")
    device.kill()
    (device.state / "hold").unlink()
    device.start()
    device.wait("transition", after="committed")
    wait_for(lambda: device.told("status")["holds"] == {}, "no hold")


def test_what_is_observed_is_compared_again_after_a_stranger_took_the_process(
    plane: ControlPlane, make_device: MakeDevice, tmp_path: Path
) -> None:
    counted = packed(models.counted_bundle(tmp_path, golden_rounds=10))
    first, second = bundle_of(tmp_path, "1"), bundle_of(tmp_path, "2")
    plane.release(first, second, counted)
    others = {"counted": slot_order([counted])}
    quick = UpdatePolicy(observe_s=0.3)
    plane.order(make_order(1, [first], at=plane.now, policy=quick, more=others))
    device = make_device()
    device.start()
    plane.wait_state("pi-1", "activity", "committed")
    plane.wait_state("pi-1", "counted", "committed")
    policy = UpdatePolicy(observe_s=600.0, mirror_share=1.0, mirror_cpu_max=1.0)
    plane.order(make_order(2, [second], at=plane.now, policy=policy, more=others))
    report = plane.wait_state("pi-1", "activity", "observing", order=2)
    stuck = hang(report["endpoint"])
    died = device.wait("inference-died")
    assert died["suspects"] == [counted.digest]
    stuck.close()
    wait_served(report["endpoint"], "activity")

    def compared() -> bool:
        assert infer(report["endpoint"]) == (200, "2")
        update = device.told("status")["slots"]["activity"]["update"]
        assert update["state"] == "observing"
        return bool(update.get("observation", {}).get("mirrored", 0))

    wait_for(compared, "copies for what ran before")
    assert device.told("rollback", "activity") is not None
    assert infer(report["endpoint"]) == (200, "1")
