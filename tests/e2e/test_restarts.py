"""The server dies at random points of a rollout, again and again: no order is lost or doubled.

The devices are light ones: real enrolment, certificates, MQTT and signatures, but no models, so
that many of them come back at once and every start of the server finds work to do. EDGECTL_KILLS
says how often it dies; `make sweep-kills` does it twice as often.
"""

import contextlib
import os
import random
import sqlite3
import subprocess
import threading
import time
import urllib.request
from collections import Counter

import msgspec
import pytest

from edgectl_protocol import topics
from edgectl_protocol.enrolment import EnrolReply
from edgectl_protocol.update import UpdateState
from server.fleet.fleet_helpers import Pi
from waiting import wait_for

pytestmark = [
    pytest.mark.e2e,
    # paho leaves a socket whose handshake the killed server cuts off to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <:ResourceWarning"),
]

KILLS = int(os.environ.get("EDGECTL_KILLS", "10"))
SEED = 20261123
DEVICES = [f"pi-{number:02}" for number in range(12)]
WINDOW_S_MAX = 3.0
STEPS = [UpdateState.DOWNLOADING, UpdateState.OBSERVING, UpdateState.COMMITTED]


class LightDevice(Pi):
    """Obeys its orders step by step, and keeps every order that ever came."""

    def __init__(self, *given):
        self.back = threading.Event()
        self.orders = {}
        self._read = 0
        self._steps = []
        super().__init__(*given)

    def _on_connect(self, client, data, flags, reason, properties):
        super()._on_connect(client, data, flags, reason, properties)
        client.subscribe([(topics.order(self.name), 1)])
        self.back.set()

    def work(self):
        """Do the next thing; return whether there was something to do."""
        if self.back.is_set():
            self.back.clear()
            self.report()
        came = self.got.get(topics.order(self.name), [])
        while self._read < len(came):
            self._take(came[self._read])
            self._read += 1
        if not self._steps:
            return False
        order, state = self._steps.pop(0)
        self.run(order, state=state)
        return True

    def _take(self, payload):
        order = self.verify(payload)
        before = self.orders.setdefault(order.counter, payload)
        assert before == payload, f"{self.name}: two orders of number {order.counter}"
        if order.counter in {waiting.counter for waiting, _ in self._steps}:
            return  # the retained message again, after a reconnect
        if order.counter > self.accepted[0]:
            assert not self._steps, f"{self.name}: ordered again before it was done"
            self._steps = [(order, state) for state in STEPS]


def enrol_at(url):
    """Return how devices enrol over HTTP."""

    def enrol(request):
        content = msgspec.json.encode(request)
        headers = {"Content-Type": "application/json"}
        sent = urllib.request.Request(f"{url.rstrip('/')}/api/v1/enrol", content, headers)
        with urllib.request.urlopen(sent, timeout=30) as answer:
            return msgspec.json.decode(answer.read(), type=EnrolReply)

    return enrol


@pytest.fixture
def site(start, activity, pushed, tmp_path):
    """A server with one version, and the devices."""
    server = start.server(data=pushed("har", {"1": activity["model"]}, precisions=["fp32"]))
    token = server.enrol_token(uses=len(DEVICES))
    enrol = enrol_at(server.url)
    devices = [LightDevice(name, tmp_path / name, enrol, token) for name in DEVICES]
    for device in devices:
        device.connect()
    yield server, devices
    for device in devices:
        device.disconnect()


def watch(server, seconds):
    """Let time pass, in which the server must not end by itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        pytest.fail(f"the server ended by itself with {server.popen.wait(seconds)}")


def work(server, devices, steps):
    """Let the devices do so many steps between them, or as many as they can in a while."""
    end = time.monotonic() + WINDOW_S_MAX
    while time.monotonic() < end:
        for device in devices:
            if device.work():
                steps -= 1
            if steps < 0:
                return
        watch(server, 0.01)


def rows(server, query):
    """Read the server's database as it lies on the disk, also of a server that is dead."""
    with contextlib.closing(sqlite3.connect(server.data / "edgectl.sqlite", timeout=60)) as found:
        return found.execute(query).fetchall()


def counters(server):
    return dict(rows(server, "SELECT id, order_counter FROM device"))


def test_server_killed_again_and_again_in_the_middle_of_a_rollout(site):
    server, devices = site
    points = random.Random(SEED)
    rollout = server.roll_out("har", "1", max_in_progress=2)
    before = counters(server)
    in_the_middle, since = 0, 0
    for kill in range(KILLS):
        if kill % 5 == 4:  # while it starts
            watch(server, points.uniform(0.0, 1.5))
        else:
            server.wait_ready(since)
            work(server, devices, points.randint(0, 3))
            watch(server, points.uniform(0.0, 0.2))
        server.kill()
        now = counters(server)
        lower = {name for name in DEVICES if now[name] < before[name]}
        assert not lower, f"seed {SEED}, kill {kill}: counters of {lower} went back"
        before = now
        running = "SELECT count(*) FROM rollout_device WHERE state IN ('pending', 'in_progress')"
        in_the_middle += rows(server, running)[0][0] > 0
        since = server.log.stat().st_size
        server.launch()
    server.wait_ready(since)

    def done():
        for device in devices:
            device.work()
        return server.client.rollout(rollout).state == "completed"

    wait_for(done, "the end of the rollout")
    assert in_the_middle >= KILLS // 2, f"seed {SEED}: {in_the_middle} kills met the rollout"

    # Each device was ordered once, got that order, and was counted once.
    assert counters(server) == dict.fromkeys(DEVICES, 1), SEED
    assert {device.name: list(device.orders) for device in devices} == {n: [1] for n in DEVICES}
    events = server.client.rollout_events(rollout, limit=200).items
    assert [event.revision for event in events] == list(range(len(events), 0, -1))
    for kind in ("device_ordered", "device_committed"):
        once = Counter(event.data["device"] for event in events if event.kind == kind)
        assert once == dict.fromkeys(DEVICES, 1), (SEED, kind)
    for name in DEVICES:
        detail = server.client.device(name)
        assert (detail.accepted_order_counter, detail.order_counter) == (1, 1)
