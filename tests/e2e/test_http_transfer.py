"""Models that come over HTTP, end to end: a real server, real agents, no broker for chunks."""

from __future__ import annotations

import sys

import pytest

from e2e.conftest import dense_model
from e2e.fleet import Agent, Process, stopping
from edgectl.client import Client
from waiting import wait_for

pytestmark = pytest.mark.e2e
HEAVY = {"precisions": ["fp32"]}
MODEL_BYTES = 8 * 1024**2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return dense_model(tmp_path_factory.mktemp("model") / "eight.onnx", layers=2, seed=7)


@pytest.fixture
def eight(pushed, model):
    """The data folder of a server that has the model."""
    return pushed("eight", {"1": model}, **HEAVY)


def received(agent, since: int = 0) -> int:
    """Return the bytes that the newest run of an agent has got when its download had ended."""
    line = agent.wait_line("the download", "after", "verifying", since)
    return int(line["bytes_received"])


def test_over_http_alone_and_the_rest_over_the_broker(start, eight):
    """Killed in the middle of an HTTP answer, it goes on over MQTT with what it has."""
    server = start.server(data=eight)
    agent = start.agent(server, "pi-1", transfer="http", bandwidth=str(1024**2))
    server.roll_out("eight", "1", "pi-1", observe_s=0.2)
    partial = agent.state / "partial"

    def there() -> int:
        """Whole chunks that the bitmap of the model knows of."""
        return sum(
            sum(byte.bit_count() for byte in bitmap.read_bytes())
            for bitmap in partial.glob("*.bitmap")
        )

    wait_for(lambda: there() >= 32, "two megabytes by HTTP", bound_s=60)
    agent.kill()
    kept = there() * 65536
    pulled = {one.puller: one for one in server.client.pulls()}
    assert pulled["device/pi-1"].bytes_sent >= kept
    agent.settings |= {"transfer": "mqtt", "bandwidth": "0"}
    since = agent.log.stat().st_size
    agent.token = ""
    agent.start()
    rest = received(agent, since)
    wait_for(lambda: agent.running("eight"), "the model", bound_s=60)
    assert MODEL_BYTES - kept <= rest <= MODEL_BYTES - kept + 3 * 1024**2  # golden data, index


def test_what_the_server_has_sent_is_what_the_device_has_got(start, eight):
    server = start.server(data=eight)
    agent = start.agent(server, "pi-1", transfer="http")
    server.wait_rollout(server.roll_out("eight", "1", "pi-1", observe_s=0.2))
    assert received(agent) >= MODEL_BYTES
    (pulled,) = [one for one in server.client.pulls() if one.puller == "device/pi-1"]
    assert pulled.bytes_sent == received(agent)
    assert pulled.answers < 12


def test_a_site_behind_a_mirror_costs_the_server_one_device(start, eight, tmp_path):
    """Two devices pull from `edgectl mirror`; then it is away, and they go on without it."""
    server = start.server(data=eight)
    with Client(server.url) as anonymous:
        password = (server.data / "admin-password").read_text().strip()
        token = anonymous.login("admin", password, name="mirror").token
    command = [sys.executable, "-m", "edgectl", "--url", server.url, "mirror", "--port", "0"]
    mirror = Process(
        [*command, "--folder", str(tmp_path / "cache"), "--json"],
        tmp_path / "mirror.log",
        {"EDGECTL_TOKEN": token},
    )
    mirror.start()
    try:
        url = mirror.wait_line("the mirror", "ready", value=True, since=0)["url"]
        agents = [start.agent(server, name, mirror=url) for name in ("pi-1", "pi-2")]
        server.wait_rollout(server.roll_out("eight", "1", observe_s=0.2))
        taken = [received(agent) for agent in agents]
        pulled = {one.puller.partition("/")[0]: one.bytes_sent for one in server.client.pulls()}
        assert set(pulled) == {"token"}  # no device has asked the server itself
        assert min(taken) >= MODEL_BYTES
        assert pulled["token"] <= max(taken)
    finally:
        assert mirror.stop() == 0, mirror.log.read_text()


def test_over_https_that_is_checked_from_the_first_question_on(start, eight, tmp_path):
    server = start.server(data=eight, settings={"tls": "own"})
    authority = server.data / "pki" / "authority.pem"
    password = (server.data / "admin-password").read_text().strip()
    with Client(server.url, authority=authority.read_text()) as anonymous:
        token = anonymous.login("admin", password, name="tests").token
    server._client = Client(server.url, token, authority=authority.read_text())
    assert server.url.startswith("https://")
    stranger = Agent(server, "pi-2", tmp_path / "pi-2", server.enrol_token(), server_ca="system")
    with stopping(stranger):
        stranger.begin()
        wait_for(lambda: "server.certificate" in stranger.log.read_text(), "it says why")
    assert [one.id for one in server.client.devices().items] == []
    agent = start.agent(server, "pi-1", transfer="http", server_ca=str(authority))
    server.wait_rollout(server.roll_out("eight", "1", "pi-1", observe_s=0.2))
    assert agent.served("eight") == "1"
