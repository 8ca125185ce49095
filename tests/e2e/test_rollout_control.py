"""Running rollouts with real agents: pause, resume, abort; a candidate that gives way."""

import numpy as np
import pytest

from e2e.falsified import add_falsified_version
from waiting import wait_for

pytestmark = pytest.mark.e2e


def states(server, rollout):
    return {one.device: one.state for one in server.client.rollout_devices(rollout).items}


def wait_step(server, rollout, step, *devices):
    """Wait until the devices report that they are at this step of the rollout."""

    def look():
        steps = {one.device: one.step for one in server.client.rollout_devices(rollout).items}
        return all(steps[device] == step for device in devices)

    wait_for(look, f"{step} on {devices}")


def come_back(agent, server):
    agent.token = ""
    agent.start()
    wait_for(lambda: server.client.device(agent.device).online, f"{agent.device} online")


def test_pause_resume_and_abort(start, activity):
    server = start.server()
    token = server.enrol_token(uses=4)
    first, old, empty, gone = (
        start.agent(server, name, token=token) for name in ("a-first", "b-old", "c-empty", "d-gone")
    )
    for version in ("1", "2"):
        precisions = ["fp32"] if version == "1" else ["fp32", "int8"]
        data = {"calibration": activity["calibration"]} if version == "2" else {}
        job = server.push("har", activity["model"], version, precisions=precisions, **data)
        assert job.state == "succeeded", job.error
    server.wait_rollout(server.roll_out("har", "1", "b-old", observe_s=0.2))
    for agent in (old, empty, gone):
        assert agent.stop() == 0
    for agent in (old, empty, gone):
        wait_for(lambda name=agent.device: not server.client.device(name).online, "it offline")

    # Only one is there: it is ordered. Paused then, nobody else is, also who comes back.
    rollout = server.roll_out("har", "2", max_in_progress=2, observe_s=5.0)
    wait_step(server, rollout, "observing", "a-first")
    server.client.rollout_action(rollout, "pause", reason="lunch")
    come_back(old, server)
    come_back(empty, server)
    wait_for(lambda: states(server, rollout)["a-first"] == "committed", "a commit while paused")
    pending = dict.fromkeys(("b-old", "c-empty", "d-gone"), "pending")
    assert states(server, rollout) == {"a-first": "committed", **pending}
    assert server.client.rollout(rollout).state == "paused"

    # Resumed, the next two are ordered; aborted, they go back to what they ran.
    server.client.rollout_action(rollout, "resume", reason="")
    wait_step(server, rollout, "observing", "b-old", "c-empty")
    assert (old.served("har"), empty.served("har")) == ("2", "2")
    server.client.rollout_action(rollout, "abort", reason="the wrong one")
    wait_for(lambda: (run := old.running("har")) and run.version == "1", "the old version back")
    wait_for(lambda: empty.update("har").state == "rolled-back", "the new one gone")
    wait_for(lambda: old.served("har") == "1", "the old version serving")
    assert empty.running("har") is None
    assert empty.served("har") is None
    cancelled = dict.fromkeys(("b-old", "c-empty", "d-gone"), "cancelled")
    ended = server.wait_rollout(rollout, "aborted")
    assert states(server, rollout) == {"a-first": "committed", **cancelled}
    assert ended.finished_at is not None

    # Who was away all the time comes back and is left alone; who had committed keeps it.
    come_back(gone, server)
    events = server.client.device_events("d-gone").items
    assert (events, gone.running("har"), gone.served("har")) == ([], None, None)
    assert first.served("har") == "2"
    # Nothing was the model's fault: the same version may be rolled out again.
    assert not any(server.client.device(a.device).rejected for a in (first, old, empty, gone))
    again = server.wait_rollout(server.roll_out("har", "2", "c-empty", "d-gone", observe_s=0.2))
    assert again.counts.committed == 2
    answer = empty.infer("har", activity["windows"][:1])
    assert answer["model_version"] == "2"


def test_a_candidate_that_a_device_rejects_gives_way_to_the_next(start, pushed_har, activity):
    server = start.server(data=pushed_har)
    agent = start.agent(server, "pi-1")
    assert server.stop() == 0
    manifests = add_falsified_version(server.data, "har", "1", "2", falsified="int8")
    server.start()
    rollout = server.roll_out("har", "2", observe_s=0.5)
    ended = server.wait_rollout(rollout)
    assert (ended.counts.committed, ended.counts.rejected, ended.note) == (1, 0, "")
    (device,) = server.client.rollout_devices(rollout).items
    assert (device.state, device.variant, device.reason) == ("committed", "fp32", None)
    detail = server.client.device("pi-1")
    assert detail.rejected == [manifests["int8"]]
    assert agent.running("har").manifest == manifests["fp32"]
    events = server.client.device_events("pi-1", limit=50).items
    (rejected,) = [event for event in events if event.after == "rejected"]
    assert (rejected.variant, rejected.reason.code) == ("int8", "trial.golden")
    assert rejected.trial["golden_passed"] == 0
    kinds = [event.kind for event in server.client.rollout_events(rollout, limit=50).items]
    assert "device_rejected" not in kinds
    assert "paused" not in kinds
    assert kinds.count("device_committed") == 1
    answer = agent.infer("har", activity["windows"][:1])
    assert answer["parameters"]["manifest"] == manifests["fp32"]
    assert int(np.argmax(answer["outputs"][0]["data"])) == int(activity["labels"][0])
