"""What goes wrong in the field: each is named, nothing is lost, the old model goes on serving."""

import json
import os
import signal
import ssl
import subprocess
import sys
import threading

import paho.mqtt.client as mqtt
import pytest

from e2e.conftest import dense_model
from edgectl_protocol import topics
from edgectl_protocol.manifest import decode_manifest, layer_by_file
from waiting import wait_for

pytestmark = pytest.mark.e2e

HEAVY = {"precisions": ["fp32"]}


def serve_first_version(server, agent):
    """Bring version 1 of the activity model, which the server has, to the device."""
    server.wait_rollout(server.roll_out("har", "1", agent.device, observe_s=0.2))


def test_server_killed_in_the_middle_of_a_push(start, activity):
    server = start.server(settings={"job_lease_s": "2"})
    data = {role: activity[role] for role in ("calibration", "evaluation")}
    job = server.begin_push("har", activity["model"], **data)
    wait_for(
        lambda: server.client.job(job).progress.stage in {"quantize", "evaluate", "search"},
        "the pipeline at work",
    )
    server.kill()
    server.start()
    ended = server.client.wait_job(job)
    assert ended.state == "succeeded", ended.error
    assert ended.attempts == 2
    version = server.client.get_version("har", "1")
    assert version.state == "ready"
    assert {variant.variant for variant in version.variants} == {"fp32", "int8"}


def test_upload_goes_on_where_the_server_was_killed(start, large_model):
    server = start.server()
    client = server.client
    seen = []

    def progress(done, total):
        seen.append(done)
        if len(seen) == 2:
            server.kill()
            threading.Thread(target=server.start, daemon=True).start()

    file = client.upload(large_model, progress)
    assert file.path == large_model
    assert len(seen) > 2
    accepted = server.push("large", large_model, **HEAVY)
    assert accepted.state == "succeeded", accepted.error


def test_agent_killed_in_the_middle_of_a_download(start, pushed_large):
    server = start.server(data=pushed_large)
    agent = start.agent(server, "pi-1")
    rollout = server.roll_out("large", "1", observe_s=0.2)

    def some_has_come():
        files = list((agent.state / "partial").glob("*"))
        return any(f.stat().st_blocks * 512 > 2**20 for f in files if f.exists())

    wait_for(some_has_come, "a part of the model")
    agent.kill()
    assert server.client.rollout(rollout).counts.committed == 0
    agent.token = ""
    agent.start()
    assert server.wait_rollout(rollout).counts.committed == 1
    states = [event.after for event in server.client.device_events("pi-1", limit=50).items]
    assert "failed" not in states


def test_disk_full_on_the_device(start, pushed_har, activity, large_model, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("a file system of its own for the device needs root")
    state = tmp_path / "small-disk"
    state.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(state)]
    subprocess.run(mounted, check=True)
    agent = None
    try:
        server = start.server(data=pushed_har)
        agent = start.agent(server, "pi-1", state=state, disk_reserve_bytes="1000000")
        serve_first_version(server, agent)
        assert server.push("large", large_model, **HEAVY).state == "succeeded"
        server.roll_out("large", "1", "pi-1")
        failed = wait_for(
            lambda: (u := agent.update("large")) and u.state == "failed" and u, "the failure"
        )
        assert failed.reason.code == "disk.full"
        assert agent.infer("har", activity["windows"][:1])["model_version"] == "1"
        assert server.client.device("pi-1").rejected == []
    finally:
        if agent is not None:
            agent.stop()
        subprocess.run(["umount", str(state)], check=True)


@pytest.mark.parametrize("token", ["ee_0123456789abcdef_" + "A" * 43, "not-a-token"])
def test_an_unknown_or_wrong_token(start, token, tmp_path):
    server = start.server()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "edgectl_agent", "run", "--server", server.url),
            *("--device", "pi-1", "--state", str(tmp_path / "pi-1")),
        ],
        env={**os.environ, "EDGECTL_AGENT_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in {1, 2}
    assert done.stderr.startswith("error[")
    assert "try:" in done.stderr
    assert server.client.devices().total == 0


class Saboteur:
    """Somebody with the server's rights on the broker who overwrites one chunk without pause."""

    def __init__(self, server, blob, number):
        self._topic = topics.chunk(blob, number)
        pki = server.data / "pki"
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id="server-saboteur", protocol=mqtt.MQTTv5
        )
        context = ssl.create_default_context(cafile=str(next(pki.glob("authority*.pem"))))
        context.load_cert_chain(*self._identity(pki))
        client.tls_set_context(context)
        client.connect("127.0.0.1", int(server.broker_port))
        client.loop_start()
        self._client = client
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._spoil)
        self._thread.start()

    def _spoil(self):
        while not self._done.wait(0.003):
            self._client.publish(self._topic, b"spoilt" * 10923, qos=0, retain=True)

    @staticmethod
    def _identity(pki):
        certificate = next(p for p in pki.glob("server*.pem") if "key" not in p.name)
        key = next(p for p in pki.glob("server*") if "key" in p.name)
        return str(certificate), str(key)

    def stop(self):
        self._done.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()


def test_a_chunk_altered_in_the_broker(start, pushed_har, activity, tmp_path):
    server = start.server(data=pushed_har)
    agent = start.agent(server, "pi-1", transfer="mqtt")
    serve_first_version(server, agent)
    model = dense_model(tmp_path / "second.onnx", layers=1, seed=2)
    assert server.push("second", model, **HEAVY).state == "succeeded"
    variant = server.client.get_version("second", "1").variants[0]
    blobs = server.data / "blobs"
    stored = next(p for p in blobs.rglob("*") if p.name.endswith(variant.manifest[7:]))
    layer = layer_by_file(decode_manifest(stored.read_bytes()), "model.onnx")
    saboteur = Saboteur(server, layer.digest, 3)
    try:
        server.roll_out("second", "1", "pi-1")
        failed = wait_for(
            lambda: (u := agent.update("second")) and u.state == "failed" and u, "the refusal"
        )
        assert failed.reason.code == "transfer.chunk_altered"
        assert "chunk 3" in failed.reason.detail
        assert layer.digest[7:19] in failed.reason.detail
        assert agent.infer("har", activity["windows"][:1])["model_version"] == "1"
        assert agent.running("second") is None
        assert server.client.device("pi-1").rejected == []
        events = wait_for(lambda: server.client.security_events("pi-1").items, "the security event")
        assert {(one.source, one.code) for one in events} == {("device", "transfer.chunk_altered")}
    finally:
        saboteur.stop()
    wait_for(lambda: agent.running("second"), "the second version, once nobody spoils it")


def test_a_stopped_server_leaves_nothing_running(start):
    server = start.server()
    start.agent(server, "pi-1")
    assert server.popen is not None
    group = server.popen.pid
    server.signal(signal.SIGTERM)
    assert server.popen.wait(20) == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_a_pushed_version_is_never_replaced(start, activity, large_model):
    server = start.server()
    assert server.push("har", activity["model"], "1", **HEAVY).state == "succeeded"
    environment = {**os.environ, "EDGECTL_URL": server.url}
    environment["EDGECTL_TOKEN"] = server.client.login(
        "admin", (server.data / "admin-password").read_text().strip(), name="cli"
    ).token

    def push(model):
        return subprocess.run(
            [
                *(sys.executable, "-m", "edgectl", "push", str(model), "--name", "har"),
                *("--version", "1", "--precision", "fp32", "--json"),
            ],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    same = push(activity["model"])
    assert same.returncode == 0, same.stderr
    assert json.loads(same.stdout)["version"] == "1"
    other = push(large_model)
    assert other.returncode == 1
    assert "error[version.exists]" in other.stderr
    assert "try:" in other.stderr
    assert not other.stdout.strip()
