"""Many at once: all connect again in one moment, are idle, or do not read. What each of them costs.

The broker runs in a process of its own, so that its memory and its open files are what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import mqtt5
import psutil
import pytest
from mqtt5 import QoS

from broker.clients import Raw, client_context
from waiting import wait_for

CROWD = 200
HOUR_S = 3600
IDLE_BYTES_MAX = 110 * 1024
SLOW_BYTES_MAX = 2 * 1024 * 1024  # two marks of 256 KiB, a packet, what waits is one copy for all
WAIT_S = 60


class Device:
    """One client on asyncio: few of its bytes are looked at, and there may be hundreds."""

    def __init__(self, broker, context, number):
        self.name, self._broker, self._context = f"fleet-{number}", broker, context
        self.reader = self.writer = None
        self._buffer = b""

    async def connect(self, *, clean_start):
        self.reader, self.writer = await asyncio.open_connection(
            self._broker.host, self._broker.port, ssl=self._context, limit=2**16
        )
        self._buffer = b""
        packet = mqtt5.ConnectPacket(
            self.name, clean_start=clean_start, session_expiry_interval=HOUR_S, keep_alive=60
        )
        self.writer.write(packet.write())
        answer = await self.receive()
        assert answer.reason_code == 0, answer
        return answer.session_present

    async def subscribe(self):
        topic = mqtt5.TopicFilter(f"to/{self.name}", max_qos=QoS.AT_LEAST_ONCE)
        self.writer.write(mqtt5.SubscribePacket(1, [topic]).write())
        assert (await self.receive()).reason_codes == [1]

    async def receive(self):
        while True:
            with contextlib.suppress(IndexError):
                packet, used = mqtt5.read(memoryview(self._buffer))
                self._buffer = self._buffer[used:]
                return packet
            content = await self.reader.read(4096)
            assert content, "closed"
            self._buffer += content

    async def vanish(self):
        self.writer.transport.abort()


@pytest.fixture
def secure(killable, authority):
    return killable(files=authority.issue("broker"))


@pytest.fixture
def context(authority):
    return client_context(authority.issue("fleet"))


async def everybody(call):
    return await asyncio.wait_for(asyncio.gather(*call), WAIT_S)


def test_all_come_back_in_one_moment_and_find_what_waits_for_them(secure, context, authority):
    process = psutil.Process(secure.process.pid)
    files_before = process.num_fds()
    devices = [Device(secure, context, number) for number in range(CROWD)]

    async def storm():
        await everybody(one.connect(clean_start=True) for one in devices)
        await everybody(one.subscribe() for one in devices)
        await everybody(one.vanish() for one in devices)

    asyncio.run(storm())
    with Raw(secure, files=authority.issue("server")) as server:
        server.connect("server")
        for one in devices:
            assert server.publish(f"to/{one.name}", one.name.encode()) == 0

    async def come_back():
        began = time.monotonic()
        assert all(await everybody(one.connect(clean_start=False) for one in devices))
        took = time.monotonic() - began
        messages = await everybody(one.receive() for one in devices)
        assert [one.payload.decode() for one in messages] == [one.name for one in devices]
        await everybody(one.vanish() for one in devices)
        return took

    for turn in range(2):  # not acknowledged: the second time it is the same one, as a duplicate
        print(f"{CROWD} came back in {asyncio.run(come_back()):.2f} s (turn {turn})")
    wait_for(lambda: process.num_fds() <= files_before, "their files are closed")


def test_a_crowd_that_leaves_within_the_handshake_leaves_nothing(secure, context, authority):
    process = psutil.Process(secure.process.pid)
    files_before = process.num_fds()

    async def leave(number):
        _, writer = await asyncio.open_connection(secure.host, secure.port)
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00"[: number % 8])
        writer.transport.abort()

    async def storm():
        await everybody(leave(number) for number in range(CROWD))

    asyncio.run(storm())
    wait_for(lambda: process.num_fds() <= files_before, "their files are closed")
    with Raw(secure, files=authority.issue("server")) as server:
        assert server.connect("server").reason_code == 0


def test_what_an_idle_device_costs(secure, context):
    process = psutil.Process(secure.process.pid)
    devices = [Device(secure, context, number) for number in range(CROWD + 20)]

    async def idle():
        await everybody(one.connect(clean_start=True) for one in devices[:20])  # imports, pools
        before = process.memory_info().rss
        await everybody(one.connect(clean_start=True) for one in devices[20:])
        await everybody(one.subscribe() for one in devices[20:])
        grown = process.memory_info().rss - before
        await everybody(one.vanish() for one in devices)
        return grown

    each = asyncio.run(idle()) / CROWD
    print(f"{each / 1024:.0f} KiB for each of {CROWD} idle devices")
    assert each < IDLE_BYTES_MAX


def test_slow_readers_cost_what_is_written_down_and_nobody_waits_for_them(killable):
    broker, count = killable(), 40
    process = psutil.Process(broker.process.pid)
    slow = [Raw(broker, receive_buffer=4096) for _ in range(count)]
    with Raw(broker) as server, Raw(broker) as quick, contextlib.ExitStack() as closing:
        for number, one in enumerate(slow):
            closing.callback(one.die)
            one.connect(f"slow-{number}")
            one.subscribe("t")
        quick.connect("quick")
        quick.subscribe("t")
        server.connect("server", username="server")
        before = process.memory_info().rss
        for number in range(300):
            server.publish("t", number.to_bytes(2) * 32_000)
            assert quick.message().payload[:2] == number.to_bytes(2)
        grown = process.memory_info().rss - before
    print(f"{grown / count / 1024:.0f} KiB for each of {count} slow readers")
    assert grown < count * SLOW_BYTES_MAX


def test_a_device_that_connects_over_and_over_has_one_session(open_plain):
    """Each connection takes over from the last one, which nobody closes."""
    broker = open_plain()
    exchange = broker.thread._broker.exchange
    with Raw(broker) as server, contextlib.ExitStack() as closing:
        server.connect("server", username="server")
        for turn in range(CROWD):
            device = Raw(broker)
            closing.callback(device.die)
            welcome = device.connect("a", clean_start=False, session_expiry_interval=HOUR_S)
            assert welcome.session_present == (turn > 0)
            if turn == 0:
                device.subscribe("t")
                server.publish("t", b"waits")
            assert device.message(acknowledge=False).payload == b"waits"
        assert len(exchange.sessions) == 2
        wait_for(lambda: broker.thread._broker.connections == 2, "the others are closed")
        server.publish("t", b"last")
        assert device.message().payload == b"last"
