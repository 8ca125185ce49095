"""The scale-out parts under the same loop: PostgreSQL, and a broker that somebody else runs."""

import shutil
import subprocess

import pytest

from waiting import wait_for

pytestmark = pytest.mark.e2e


def commit_on_one_device(start, server, activity):
    """Push without quantization, roll out, and ask the device for a prediction."""
    agent = start.agent(server, "pi-1")
    job = server.push("har", activity["model"], precisions=["fp32"])
    assert job.state == "succeeded", job.error
    ended = server.wait_rollout(server.roll_out("har", "1", observe_s=0.2))
    assert ended.counts.committed == 1
    answer = agent.infer("har", activity["windows"][:1])
    assert answer["model_version"] == "1"
    wait_for(lambda: server.client.telemetry("har"), "telemetry")


@pytest.mark.postgresql
def test_on_postgresql(start, activity, postgresql_url):
    server = start.server(first=True, settings={"database_url": postgresql_url})
    commit_on_one_device(start, server, activity)
    assert not list(server.data.glob("*.sqlite*"))
    assert server.stop() == 0


@pytest.mark.mosquitto
def test_on_a_broker_that_somebody_else_runs(start, activity):
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if mosquitto is None:
        pytest.skip("mosquitto is not installed; packaging/install_test_packages.py installs it")
    first = start.server(broker="mosquitto")
    assert first.stop() == 0
    configuration = next((first.data / "broker").rglob("mosquitto.conf"))
    with subprocess.Popen([mosquitto, "-c", str(configuration)]) as broker:
        try:
            first.broker = f"mqtts://127.0.0.1:{first.broker_port}"
            first.start()
            commit_on_one_device(start, first, activity)
            assert first.stop() == 0
            assert broker.poll() is None, "it is not ours to stop"
        finally:
            broker.terminate()
            broker.wait(10)
