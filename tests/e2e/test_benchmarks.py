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


def check(measured, device, runs):
    """See that a measurement is of that device, whole, and of a model that is right there."""
    assert measured["verdict"] == "ok", measured
    assert measured["golden_passed"] == measured["golden_total"] > 0
    assert measured["runs"] == measured["golden_total"] + runs
    assert 0 < measured["latency_p50_us"] <= measured["latency_p95_us"]
    assert measured["runtime"].startswith("onnxruntime")
    assert (measured["device"], measured["device_class"]) == (device.id, device.device_class)


def test_a_benchmark_decides_what_a_class_gets(start, pushed_har, tmp_path):
    own = tmp_path / "targets.toml"
    own.write_text("")
    server = start.server(data=pushed_har, settings={"targets_file": str(own)})
    first, second = (start.agent(server, name) for name in ("pi-1", "pi-2"))
    device = wait_for(
        lambda: server.client.device("pi-1") if server.client.device("pi-1").online else None
    )
    assert device.device_class, device.device_class_reason

    before = stored(first)
    asked = ("bench", "har:1", "--device", "pi-1", "--runs", "20", "--variant", "int8")
    done = edgectl(server, *asked, "--json")
    assert done.returncode == 0, done.stderr
    (int8,) = json.loads(done.stdout)["measurements"]
    assert int8["variant"] == "int8"
    check(int8, device, 20)
    assert first.running("har") is None, "nothing serves that was only measured"
    wait_for(lambda: stored(first) == before, "what was fetched is gone again")
    (kept,) = server.client.measurements("har", "1").items
    assert kept.latency_p50_us == int8["latency_p50_us"]

    server.wait_rollout(server.roll_out("har", "1", "pi-1", observe_s=0.5))
    assert first.running("har").variant == "int8"
    newest = server.client.measurements("har", "1").items[0]
    assert (newest.source, newest.variant) == ("trial", "int8"), "the update has measured too"

    # From now on the class allows less memory than int8 was seen to need in it.
    limit = min(newest.rss_bytes, int8["rss_bytes"]) // 2
    own.write_text(f"[{device.device_class}.limits]\nrss_bytes = {limit}\n")
    server.stop()
    server.start()
    wait_for(lambda: server.client.device("pi-2").online, "the device online")
    server.wait_rollout(server.roll_out("har", "1", "pi-2", observe_s=0.5))
    assert second.running("har").variant == "fp32"
    assert first.running("har").variant == "int8", "what was ordered before stays"


def test_an_update_goes_first(start, pushed_large):
    server = start.server(data=pushed_large)
    agent = start.agent(server, "pi-1")
    wait_for(lambda: server.client.device("pi-1").online, "the device online")
    done = edgectl(
        server, "bench", "large:1", "--device", "pi-1", "--runs", "10000", "--detach", "--json"
    )
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["id"]
    begun = wait_for(
        lambda: (found := server.client.job(job)).progress.stage == "measure" and found,
        "the device measures",
    )
    assert begun.state == "running"
    server.wait_rollout(server.roll_out("large", "1", observe_s=0.5))
    ended = server.client.wait_job(job)
    assert ended.error is not None, ended
    assert ended.error.code == "benchmark.overtaken"
    assert agent.running("large").version == "1"


def test_a_device_that_serves_goes_on_and_one_that_is_away_is_said_so(start, pushed_har, activity):
    server = start.server(data=pushed_har)
    agent = start.agent(server, "pi-1")
    server.wait_rollout(server.roll_out("har", "1", observe_s=0.5))
    serving = agent.running("har")
    device = server.client.device("pi-1")
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
    measured = {one["variant"]: one for one in ended.result["measurements"]}
    assert sorted(measured) == ["fp32", "int8"]
    for one in measured.values():
        check(one, device, 200)
    shown = edgectl(server, "jobs", "show", job)
    assert (shown.returncode, "benchmark" in shown.stdout) == (0, True), shown.stderr

    agent.stop()
    wait_for(lambda: not server.client.device("pi-1").online, "the device offline")
    away = edgectl(server, "bench", "har:1", "--device", "pi-1")
    assert away.returncode == 1
    assert "error[benchmark.offline]" in away.stderr
    assert "try:" in away.stderr
