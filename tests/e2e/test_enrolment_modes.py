"""Each way into the fleet with real processes: list, approval, renewal, lost devices."""

import subprocess
import sys
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from e2e.fleet import Agent
from edgectl.errors import ApiError
from edgectl.types import PreauthorisedEntry
from edgectl_protocol.enrolment import format_fingerprint
from waiting import wait_for

pytestmark = pytest.mark.e2e

DAY_S = 86400


def agent_command(*words):
    """Run a command of the agent to its end; return its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "edgectl_agent", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Asking(Agent):
    """An agent that begins without being let in: it prints no ready line yet."""

    def start(self):
        self.begin()

    def fingerprint(self):
        """Return what the device shows to who stands before it."""
        return self.wait_line("the fingerprint", "event", "waiting", 0)["fingerprint"]

    def ready(self):
        return self.wait_line("the agent", "event", "ready", 0)


@pytest.fixture
def ask(tmp_path):
    """Start agents that know the server's authority and have no token."""
    started = []

    def begin(server, device, state=None):
        authority = server.client.authority().fingerprint
        agent = Asking(server, device, state or tmp_path / f"{device}-asks", authority=authority)
        started.append(agent)
        agent.start()
        return agent

    yield begin
    for agent in started:
        agent.stop()


def online(server, device):
    return wait_for(
        lambda: (it := server.client.device(device)).online and it, f"{device} online", bound_s=90
    )


def test_a_device_on_the_list_enrols_by_itself(start, ask, tmp_path):
    server = start.server()
    state = tmp_path / "pi-1-asks"
    line = agent_command("fingerprint", "--device", "pi-1", "--state", str(state)).strip()
    name, fingerprint = line.split(",")
    result = server.client.preauthorise([PreauthorisedEntry(name, fingerprint, "site-a")])
    assert (result.added, result.unchanged) == (1, 0)
    ask(server, "pi-1", state).ready()
    device = online(server, "pi-1")
    assert (device.group, device.fingerprint) == ("site-a", fingerprint)
    assert device.enrolled_by == "list of admin"
    assert server.client.preauthorised().total == 0  # used once


def test_an_operator_approves_by_the_fingerprint_that_the_device_shows(start, ask, tmp_path):
    server = start.server()
    impostor = ask(server, "pi-1", tmp_path / "impostor")
    false = impostor.fingerprint()
    agent = ask(server, "pi-1")
    shown = agent.fingerprint()
    requests = wait_for(
        lambda: (page := server.client.enrol_requests()).total == 2 and page.items, "two requests"
    )
    assert {(one.device, one.fingerprint) for one in requests} == {("pi-1", false), ("pi-1", shown)}

    for wrong in (format_fingerprint("0" * 64), shown[:-1] + ("0" if shown[-1] != "0" else "1")):
        with pytest.raises(ApiError) as caught:
            server.client.approve_device("pi-1", wrong)
        assert (caught.value.status, caught.value.code) == (409, "enrol.fingerprint")
    with pytest.raises(ApiError) as caught:
        server.client.approve_device("pi-2", shown)
    assert (caught.value.status, caught.value.code) == (404, "enrol.request")
    assert server.client.devices().total == 0

    server.client.approve_device("pi-1", shown, "site-a")
    agent.ready()
    device = online(server, "pi-1")
    assert (device.fingerprint, device.group) == (shown, "site-a")
    # The other key still only asks: the name is taken now, and cannot be approved.
    assert [one.taken for one in server.client.enrol_requests().items] == [True]
    with pytest.raises(ApiError) as caught:
        server.client.approve_device("pi-1", false)
    assert (caught.value.status, caught.value.code) == (409, "enrol.exists")
    server.client.reject_device("pi-1", false)
    assert wait_for(impostor.popen.poll, "the end of the rejected one") == 1
    assert "error[enrol.rejected]" in impostor.log.read_text()


def test_without_the_list_nobody_may_ask(start, ask):
    server = start.server(settings={"enrol_requests_max": "0"})
    agent = ask(server, "pi-1")
    assert wait_for(agent.popen.poll, "the end") == 1
    assert "error[enrol.closed]" in agent.log.read_text()
    assert server.client.enrol_requests().total == 0


def test_a_group_is_what_the_server_says(start, pushed_har):
    server = start.server(data=pushed_har)
    token = server.client.create_enrol_token(uses=2, expires_in_s=600, group="site-a").token
    for name in ("pi-1", "pi-2"):
        start.agent(server, name, token=token)
    start.agent(server, "pi-3", labels="site=b")
    for name in ("pi-1", "pi-2", "pi-3"):
        online(server, name)
    rollout = server.roll_out_group("har", "1", "site-a", observe_s=0.5)
    ended = server.wait_rollout(rollout)
    assert (ended.counts.committed, ended.counts.total) == (2, 2)
    assert server.client.devices([("group", "site-a")]).total == 2
    assert server.client.device("pi-3").slots == []


def test_a_certificate_is_renewed_while_the_connection_goes_on(start):
    server = start.server(settings={"device_certificate_days": str(12 / DAY_S)})
    agent = start.agent(server, "pi-1")
    first = online(server, "pi-1").certificate_expires_at
    renewed = agent.wait_line("the renewal", "event", "renewed", 0)
    assert renewed["expires_at"] > first.isoformat()
    events = [line["event"] for line in agent.lines()]
    assert events.count("connected") == 1
    assert "disconnected" not in events
    # The broker ends a connection with its certificate; the next one has the new one at hand.
    wait_for(
        lambda: [line["event"] for line in agent.lines()].count("connected") == 2,
        "the connection with the new certificate",
    )
    # The server says its time in whole seconds.
    assert server_time(server) >= first - timedelta(seconds=1)


def test_an_expired_certificate_is_renewed_and_the_device_is_back(start):
    server = start.server(settings={"device_certificate_days": str(9 / DAY_S)})
    agent = start.agent(server, "pi-1")
    online(server, "pi-1")
    agent.stop()
    wait_for(lambda: not server.client.device("pi-1").online, "offline")
    before = server.client.device("pi-1")
    wait_for(lambda: server_time(server) > before.certificate_expires_at, "the end of its life")
    since = agent.log.stat().st_size
    agent.start()
    agent.wait_line("the renewal", "event", "renewed", since)
    agent.wait_line("the connection", "event", "connected", since)
    after = online(server, "pi-1")
    assert after.fingerprint == before.fingerprint
    assert after.certificate_expires_at > before.certificate_expires_at


def test_a_lost_device_is_out_and_can_be_let_in_again(start, ask, tmp_path):
    server = start.server()
    agent = start.agent(server, "pi-1")
    shown = online(server, "pi-1").fingerprint
    since = agent.log.stat().st_size
    assert server.client.revoke_device("pi-1").state == "revoked"
    agent.wait_line("the end of its connection", "event", "disconnected", since)
    agent.stop()
    assert server.client.devices().total == 0
    assert server.client.devices([("state", "revoked")]).total == 1
    body = {"device": "pi-1", "nonce": "0" * 32, "proof": "00" * 32}
    assert post(server, "renew", body) == (401, "enrol.renewal")

    # Found again: whoever stands before it removes its identity but the key, and it asks.
    for name in ("enrolment.json", "certificate.pem"):
        (agent.state / "identity" / name).unlink()
    again = ask(server, "pi-1", agent.state)
    assert again.fingerprint() == shown
    server.client.approve_device("pi-1", shown)
    again.ready()
    assert online(server, "pi-1").state == "enrolled"


def test_the_token_is_not_in_the_arguments(start):
    server = start.server()
    agent = start.agent(server, "pi-1")
    online(server, "pi-1")
    arguments = Path(f"/proc/{agent.popen.pid}/cmdline").read_bytes()
    assert agent.token.encode() not in arguments


def server_time(server):
    """Return the server's clock, which judges certificates, to the second."""
    from email.utils import parsedate_to_datetime

    return parsedate_to_datetime(server.client.date())


def post(server, path, body):
    request = urllib.request.Request(
        f"{server.url}/api/v1/{path}",
        msgspec.json.encode(body),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, msgspec.json.decode(error.read())["code"]
