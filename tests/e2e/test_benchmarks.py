"""Benchmarks between real processes: asked on the command line, measured, kept, and used."""

import json
import os
import subprocess
import sys

import pytest

from waiting import wait_for

pytestmark = pytest.mark.e2e


def edgectl(server, *arguments):
    """Run the command line as an operator does."""
    token = server.client.create_token("bench", "operator", 600).token
    return subprocess.run(
        [sys.executable, "-m", "edgectl", *arguments],
        env={**os.environ, "EDGECTL_URL": server.url, "EDGECTL_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def stored(agent):
    """Return the names of everything in an agent's store."""
    return sorted(
        str(one.relative_to(agent.state))
        for folder in ("blobs", "partial", "sealed", "slots")
        for one in (agent.state / folder).rglob("*")
    )


def test_a_benchmark_decides_what_a_class_gets(start, activity, tmp_path):
    own = tmp_path / "targets.toml"
    own.write_text("")
    server = start.server(settings={"targets_file": str(own)})
    first, second = (start.agent(server, name) for name in ("pi-1", "pi-2"))
    data = {role: activity[role] for role in ("calibration", "evaluation")}
    assert server.push("har", activity["model"], **data).state == "succeeded"
    wait_for(lambda: server.client.device("pi-1").online, "the device online")
    device = server.client.device("pi-1")
    assert device.device_class, device.device_class_reason

    asked = ("bench", "har:1", "--device", "pi-1", "--runs", "20")
    before = stored(first)
    done = edgectl(server, *asked, "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["measurements"]
    assert sorted(one["variant"] for one in measured) == ["fp32", "int8"]
    for one in measured:
        assert one["verdict"] == "ok", one
        assert one["golden_passed"] == one["golden_total"] > 0
        assert one["runs"] == one["golden_total"] + 20
        assert 0 < one["latency_p50_us"] <= one["latency_p95_us"]
        assert one["runtime"].startswith("onnxruntime")
        assert one["device_class"] == device.device_class
    assert first.running("har") is None, "nothing serves that was only measured"
    wait_for(lambda: stored(first) == before, "what was fetched is gone again")
    kept = server.client.measurements("har", "1").items
    assert {one.variant: one.latency_p50_us for one in kept} == {
        one["variant"]: one["latency_p50_us"] for one in measured
    }
    shown = edgectl(server, *asked, "--variant", "int8")
    assert (shown.returncode, "int8" in shown.stdout) == (0, True), shown.stderr

    server.wait_rollout(server.roll_out("har", "1", "pi-1", observe_s=0.5))
    assert first.running("har").variant == "int8"
    trials = [
        one
        for one in server.client.measurements("har", "1").items
        if (one.source, one.variant) == ("trial", "int8")
    ]
    assert len(trials) == 1, "the trial of the update has measured too"

    # The class allows less memory than int8 was seen to need there: the other devices of it get
    # the variant that nobody has measured above the limit.
    needs = {one["variant"]: one["rss_bytes"] for one in measured}
    limit = min(one.rss_bytes for one in [*kept, *trials] if one.variant == "int8") // 2
    assert limit < needs["int8"]
    own.write_text(f"[{device.device_class}.limits]\nrss_bytes = {limit}\n")
    server.stop()
    server.start()
    wait_for(lambda: server.client.device("pi-2").online, "the device online")
    rollout = server.roll_out("har", "1", "pi-2", observe_s=0.5)
    server.wait_rollout(rollout, "paused")
    (row,) = server.client.rollout_devices(rollout).items
    assert row.reason.code == "rollout.no_variant", "both were measured above it"
    assert second.running("har") is None


def test_a_device_that_serves_goes_on_and_one_that_is_away_is_said_so(start, activity):
    server = start.server()
    agent = start.agent(server, "pi-1")
    data = {role: activity[role] for role in ("calibration", "evaluation")}
    assert server.push("har", activity["model"], **data).state == "succeeded"
    server.wait_rollout(server.roll_out("har", "1", observe_s=0.5))
    serving = agent.running("har")
    done = edgectl(server, "bench", "har@1", "--device", "pi-1", "--detach", "--json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["id"]
    answers = 0
    while not server.client.job(job).ended:
        assert agent.infer("har", activity["windows"][:1])["model_version"] == "1"
        answers += 1
    ended = server.client.job(job)
    assert (ended.state, answers > 0) == ("succeeded", True), ended.error
    assert agent.running("har") == serving

    agent.stop()
    wait_for(lambda: not server.client.device("pi-1").online, "the device offline")
    away = edgectl(server, "bench", "har:1", "--device", "pi-1")
    assert away.returncode == 1
    assert "error[benchmark.offline]" in away.stderr
    assert "try:" in away.stderr
