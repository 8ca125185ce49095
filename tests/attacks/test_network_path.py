"""Who sits between devices, server and broker, and has nothing of ours but the wire."""

from __future__ import annotations

import shutil
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from attacks.scene import Site, StolenBroker, files_of, is_let_in
from e2e.fleet import SOCKETS, Agent, Server
from edgectl_protocol.enrolment import parse_token
from waiting import wait_for

pytestmark = pytest.mark.e2e
ATTACKER = "the network path"


@pytest.fixture(scope="module")
def site(open_site: Callable[..., Site]) -> Site:
    site = open_site()
    site.start("pi-1")
    return site


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the thief's own, with an authority of its own."""
    server = Server(tmp_path_factory.mktemp("thief") / "server")
    server.start()
    yield server
    server.stop()


class Between:
    """Passes requests on to a server, and notes what has gone by."""

    def __init__(self, target: str) -> None:
        self.seen: list[bytes] = []
        seen = self.seen

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                request = urllib.request.Request(
                    target.rstrip("/") + self.path, content, {"Content-Type": "application/json"}
                )
                with urllib.request.urlopen(request, timeout=60) as answer:
                    status, body = answer.status, answer.read()
                seen.extend((content, body))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def begin(agent: Agent, url: str) -> Agent:
    """Start an agent that is told another address; do not wait for it."""
    true = agent.server.url
    agent.server.url = url
    try:
        agent.begin()
    finally:
        agent.server.url = true
    return agent


def test_answering_an_enrolment_with_a_token_in_the_servers_place(
    site: Site, other: Server
) -> None:
    agent = Agent(site.server, "pi-2", site.folder / "pi-2", site.server.enrol_token())
    begin(agent, other.url)
    assert agent.popen is not None
    assert wait_for(agent.popen.poll, "the end") == 1
    assert not (agent.state / "identity" / "enrolment.json").exists()
    assert other.client.devices().total == 0


def test_answering_an_enrolment_without_a_token_in_the_servers_place(
    site: Site, other: Server
) -> None:
    authority = site.client.authority().fingerprint
    agent = Agent(site.server, "pi-3", site.folder / "pi-3", authority=authority)
    begin(agent, other.url)
    assert agent.popen is not None
    request = wait_for(lambda: other.client.enrol_requests().items, "the request")[0]
    other.client.approve_device("pi-3", request.fingerprint)
    assert wait_for(agent.popen.poll, "the end") == 1
    assert not (agent.state / "identity" / "enrolment.json").exists()


def test_offering_an_enrolment_to_a_device_that_knows_nobody(site: Site, other: Server) -> None:
    agent = begin(Agent(site.server, "pi-4", site.folder / "pi-4"), other.url)
    assert agent.popen is not None
    assert wait_for(agent.popen.poll, "the end") != 0
    assert not [one for one in other.client.enrol_requests().items if one.device == "pi-4"]


def test_reading_an_enrolment_along(site: Site) -> None:
    between = Between(site.server.url)
    token = site.server.enrol_token()
    agent = begin(Agent(site.server, "pi-5", site.folder / "pi-5", token), between.url)
    try:
        agent.wait_line("the agent", "event", "enrolled", 0)
    finally:
        agent.stop()
        between.stop()
    assert between.seen
    private = (agent.state / "identity" / "key.pem").read_bytes().splitlines()[1]
    for said in between.seen:
        assert parse_token(token).secret.encode() not in said
        assert private not in said


@pytest.mark.admitted("nothing arrives while they are there; the device goes on serving")
def test_putting_a_broker_of_ones_own_in_the_way(site: Site, other: Server, tmp_path: Path) -> None:
    agent = site.agents["pi-1"]
    agent.stop()
    false = StolenBroker(tmp_path / "broker", other.data / "pki")
    state = tmp_path / "pi-1"
    shutil.copytree(agent.state, state, ignore=SOCKETS)
    file = state / "identity" / "enrolment.json"
    file.write_text(file.read_text().replace(site.server.broker_port, str(false.port)))
    led = Agent(site.server, "pi-1", state)
    try:
        led.start()
        wait_for(
            lambda: (
                "certificate is refused" in led.log.read_text()
                or "CERTIFICATE_VERIFY_FAILED" in led.log.read_text()
            ),
            "the refusal",
            bound_s=20,
        )
        assert led.served("har") == "1"
        assert "connected" not in [line.get("event") for line in led.lines()]
    finally:
        led.stop()
        false.stop()
    agent.token = ""
    agent.start()


def test_connecting_to_the_broker_with_older_tls(site: Site) -> None:
    identity, authority = files_of(site.agents["pi-1"])
    assert is_let_in(site.server.broker_port, identity, authority, "pi-1")
    context = ssl.create_default_context(cafile=str(authority))
    context.load_cert_chain(*map(str, identity))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    assert not is_let_in(site.server.broker_port, identity, authority, "pi-1", context=context)


def test_connecting_to_the_broker_with_a_certificate_of_another_authority(
    site: Site, other: Server
) -> None:
    theirs = other.data / "pki"
    _, authority = files_of(site.agents["pi-1"])
    identity = theirs / "server.pem", theirs / "server.key"
    assert not is_let_in(site.server.broker_port, identity, authority, "server-thief")
