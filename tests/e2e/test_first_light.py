"""From push to prediction: real processes, a real model, real data, on both brokers."""

import numpy as np
import pytest

from waiting import wait_for

pytestmark = pytest.mark.e2e


def test_from_push_to_prediction(start, broker, activity):
    server = start.server(broker=broker, first=True)
    token = server.enrol_token(uses=3)
    agents = [start.agent(server, f"pi-{n}", token=token) for n in (1, 2, 3)]
    job = server.push(
        "har",
        activity["model"],
        calibration=activity["calibration"],
        evaluation=activity["evaluation"],
        labels=["a", "b", "c", "d", "e", "f", "g"],
    )
    assert job.state == "succeeded", job.error
    version = server.client.get_version("har", "1")
    assert version.state == "ready"
    assert version.report is not None
    assert version.report.metric == "accuracy"
    assert version.report.reference > 0.9
    best = version.variants[0]
    assert best.precision == "int8"
    assert best.model_bytes < activity["model"].stat().st_size / 2

    rollout = server.roll_out("har", "1", observe_s=1.0)
    ended = server.wait_rollout(rollout)
    assert ended.counts.committed == ended.counts.total == 3

    windows, labels = activity["windows"][:60], activity["labels"][:60]
    right = 0
    for window, label in zip(windows, labels, strict=True):
        answer = agents[0].infer("har", window[None])
        assert answer["parameters"]["manifest"] == best.manifest
        right += int(np.argmax(answer["outputs"][0]["data"]) == label)
    assert right / len(labels) > 0.8

    counted = wait_for(
        lambda: [
            t for t in server.client.telemetry("har") if t.device == "pi-1" and t.requests >= 60
        ],
        "telemetry of all requests",
    )[0]
    assert counted.requests == 60
    assert counted.errors == 0
    assert sum(counted.classes) == 60
    assert counted.manifest == best.manifest

    events = [e.after for e in reversed(server.client.device_events("pi-2", limit=50).items)]
    assert events == [
        "refreshing",
        "downloading",
        "verifying",
        "trial",
        "activating",
        "observing",
        "committed",
    ]


def test_everything_survives_a_restart_of_everything(start, activity, pushed_har):
    server = start.server(data=pushed_har)
    agent = start.agent(server, "pi-1")
    server.wait_rollout(server.roll_out("har", "1", observe_s=0.5))
    agent.kill()
    server.kill()
    server.stop()
    server.start()
    agent.token = ""
    agent.start()
    answer = agent.infer("har", activity["windows"][:1])
    assert answer["model_version"] == "1"
    wait_for(lambda: server.client.device("pi-1").online, "the device online")
    events = server.client.device_events("pi-1", limit=50)
    assert [e.after for e in events.items].count("committed") == 1
