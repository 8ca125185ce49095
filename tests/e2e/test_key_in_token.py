"""A device whose key is in a token (SoftHSM), from enrolment to prediction, on both brokers."""

import shutil
import subprocess
import sys

import pytest

from agent.token.soft_token import LIBRARY, PIN, SoftToken
from e2e.fleet import SOCKETS
from edgectl_agent.device_key import KEY_PATH
from edgectl_agent.tls_key import is_reference
from waiting import wait_for

pytestmark = pytest.mark.e2e
DAY_S = 86400


@pytest.fixture
def token(tmp_path, monkeypatch):
    """A token that the agents find by their environment."""
    if not LIBRARY.exists():
        pytest.skip("softhsm2 is not installed; packaging/install_test_packages.py installs it")
    folder = tmp_path / "token"
    folder.mkdir()
    made = SoftToken(folder)
    monkeypatch.setenv("SOFTHSM2_CONF", str(made.configuration))
    return made


def online(server, device):
    return wait_for(
        lambda: (it := server.client.device(device)).online and it, f"{device} online", bound_s=90
    )


def events(agent, name):
    return [line for line in agent.lines() if line.get("event") == name]


def test_from_enrolment_to_prediction(start, broker, activity, pushed_har, token):
    server = start.server(data=pushed_har, broker=broker)
    agent = start.agent(server, "pi-1", key=token.uri())
    shown = online(server, "pi-1")
    ended = server.wait_rollout(server.roll_out("har", "1", observe_s=0.5))
    assert ended.counts.committed == ended.counts.total == 1
    assert agent.infer("har", activity["windows"][:1])["model_version"] == "1"

    agent.kill()
    agent.token = ""
    since = agent.log.stat().st_size
    agent.start()
    agent.wait_line("the connection", "event", "connected", since)
    assert online(server, "pi-1").fingerprint == shown.fingerprint
    assert agent.infer("har", activity["windows"][:1])["model_version"] == "1"

    assert is_reference((agent.state / KEY_PATH).read_bytes())
    files = [file for file in agent.state.rglob("*") if file.is_file()]
    for file in files:
        content = file.read_bytes()
        if file.name != "encryption.pem":
            assert b"PRIVATE KEY" not in content, file
        assert PIN.encode() not in content, file


def test_a_copy_of_the_state_directory_is_not_the_device(start, token, tmp_path):
    server = start.server()
    agent = start.agent(server, "pi-1", key=token.uri())
    online(server, "pi-1")
    agent.stop()
    shutil.copytree(agent.state, tmp_path / "stolen", ignore=SOCKETS)
    command = [sys.executable, "-m", "edgectl_agent", "run", "--state", str(tmp_path / "stolen")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "error[key.other]" in done.stderr


def test_its_certificate_is_renewed_and_used(start, token):
    server = start.server(settings={"device_certificate_days": str(12 / DAY_S)})
    agent = start.agent(server, "pi-1", key=token.uri())
    first = online(server, "pi-1").certificate_expires_at
    renewed = agent.wait_line("the renewal", "event", "renewed", 0)
    assert renewed["expires_at"] > first.isoformat()
    wait_for(lambda: len(events(agent, "connected")) == 2, "a connection with the new certificate")


def test_without_its_token_it_serves_on_and_comes_back(start, pushed_har, activity, token):
    """The token is lost while the agent runs: models serve, nothing is said; then all is well."""
    server = start.server(data=pushed_har)
    agent = start.agent(server, "pi-1", key=token.uri())
    server.wait_rollout(server.roll_out("har", "1", observe_s=0.5))
    away = token.tokens.with_name("away")
    token.tokens.rename(away)
    token.pin_file.rename(token.pin_file.with_name("no-pin"))
    wait_for(lambda: "nothing can be reported" in agent.log.read_text(), "no signature", bound_s=60)
    assert agent.infer("har", activity["windows"][:1])["model_version"] == "1"
    away.rename(token.tokens)
    token.pin_file.with_name("no-pin").rename(token.pin_file)
    reported = len(server.client.telemetry("har"))
    wait_for(lambda: len(server.client.telemetry("har")) > reported, "telemetry again", bound_s=60)
    assert agent.popen.poll() is None
