"""A bad link between a client and a server: a TCP proxy in a thread of its own.

Bytes are cut into segments. Each takes its time at the rate, then the latency; one that is lost
comes a retransmission's time-out later, and what is behind it waits for it, as TCP has it. What
ends a connection is counted in bytes, so that a slow machine sees the same faults as a fast one.
The same seed loses the same segments of a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

HOST = "127.0.0.1"
SEGMENT_BYTES = 1448
_WHOLE_BYTES = 64 * 1024
_BUFFER_BYTES = 16 * 1024
_FLIGHT_BYTES_MIN = 32 * 1024
_NO_FAREWELL = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Weather:
    """How bad a link is; nothing at all by default."""

    bytes_per_s: float = 0.0
    """In each direction; 0 is no bound."""
    latency_s: float = 0.0
    """One way."""
    loss: float = 0.0
    """Share of the segments that come `rto_s` late."""
    rto_s: float = 1.0
    dies_after_s: float = 0.0
    """Each connection is torn down so long after its beginning; 0 is never."""
    dies_after_bytes: int = 0
    """Each connection is torn down when so many bytes have come to the client; 0 is never."""
    stalls_after_bytes: int = 0
    """Each time that so many bytes have come to the client, nothing passes for `stall_s`."""
    stall_s: float = 0.0
    half_open_after_bytes: int = 0
    """Then what either side sends on this connection vanishes, and neither is told."""
    half_open_max: int = 1
    """So many connections become half open; those after them are sound."""

    @property
    def segment_bytes(self) -> int:
        """How finely it is cut."""
        return SEGMENT_BYTES if self.bytes_per_s or self.loss else _WHOLE_BYTES


class Link:
    """Listens on `port` of loopback and passes everything to `target`; use it with ``with``."""

    def __init__(self, target: int, weather: Weather | None = None, *, seed: int = 0) -> None:
        """Take the port of the server."""
        self._target = target
        self._seed = seed
        self.weather = weather or Weather()
        self.bytes_down = 0
        """Delivered to clients."""
        self.bytes_up = 0
        """Delivered to the server."""
        self.connections = 0
        self.lost_at: list[int] = []
        """Numbers of the segments towards clients that were lost."""
        self._half_open = 0
        self._alive: dict[int, _Wire] = {}
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)

    def __enter__(self) -> Self:
        self._listener.setblocking(False)
        self._thread.start()
        self._accepting = asyncio.run_coroutine_threadsafe(self._accept(), self._loop)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._listener.close()

    def cut(self) -> None:
        """Tear down every connection that there is now."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(60)

    async def _cut(self) -> None:
        for wire in list(self._alive.values()):
            wire.tear()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self) -> None:
        running: set[asyncio.Task[None]] = set()
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            task = self._loop.create_task(self._serve(client, self.connections))
            self.connections += 1
            running.add(task)
            task.add_done_callback(running.discard)

    async def _serve(self, client: socket.socket, number: int) -> None:
        server = socket.socket()
        server.setblocking(False)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        wire = _Wire(self, client, server, f"{self._seed}/{number}")
        try:
            await self._loop.sock_connect(server, (HOST, self._target))
            self._alive[number] = wire
            await wire.carry()
        except OSError:
            pass  # either side has gone
        finally:
            self._alive.pop(number, None)
            wire.close()

    def _goes_half_open(self, down: int) -> bool:
        """Say whether a connection that has brought so many bytes becomes half open now."""
        after = self.weather.half_open_after_bytes
        if not after or down < after or self._half_open >= self.weather.half_open_max:
            return False
        self._half_open += 1
        return True


class _Wire:
    """One connection through a link."""

    def __init__(self, link: Link, client: socket.socket, server: socket.socket, seed: str) -> None:
        self._link, self._client, self._server = link, client, server
        self._seed = seed
        self._loop = asyncio.get_running_loop()
        self._down = 0
        self._stalled_at = 0
        self._open_until_s = 0.0
        self._vanishes = False
        self._torn = asyncio.Event()

    async def carry(self) -> None:
        """Carry both directions until one side ends it, or it dies."""
        for one in (self._client, self._server):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tasks = [
            self._loop.create_task(self._direction(self._client, self._server, down=False)),
            self._loop.create_task(self._direction(self._server, self._client, down=True)),
            self._loop.create_task(self._torn.wait()),
        ]
        bound_s = self._link.weather.dies_after_s or None
        try:
            await asyncio.wait(tasks, timeout=bound_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def tear(self) -> None:
        """Have both sides ended soon."""
        self._torn.set()

    def close(self) -> None:
        """End both sides, without a farewell; nobody uses the sockets any more."""
        for one in (self._client, self._server):
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_FAREWELL)
            one.close()

    async def _direction(self, source: socket.socket, sink: socket.socket, *, down: bool) -> None:
        """Cut, delay and deliver; ends when the source does, after what it had sent."""
        weather = self._link.weather
        flight = max(_FLIGHT_BYTES_MIN, int(2 * weather.bytes_per_s * weather.latency_s))
        flying: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(
            max(2, flight // weather.segment_bytes)
        )
        delivering = self._loop.create_task(self._deliver(flying, sink, down=down))
        free_s = self._loop.time()
        chance = random.Random(f"{self._seed}/{down}")
        arrives_s, position, drawn = 0.0, 0, 0
        try:
            while content := await self._loop.sock_recv(source, weather.segment_bytes):
                if weather.bytes_per_s:
                    free_s = max(free_s, self._loop.time()) + len(content) / weather.bytes_per_s
                    await _until(free_s)
                position += len(content)
                lost = False
                while weather.loss and drawn * SEGMENT_BYTES < position:
                    lost |= chance.random() < weather.loss
                    drawn += 1
                if lost and down:
                    self._link.lost_at.append(drawn)
                late_s = weather.latency_s + (weather.rto_s if lost else 0.0)
                arrives_s = max(arrives_s, self._loop.time() + late_s)
                await flying.put((arrives_s, content))
            await flying.put((arrives_s, b""))
            await delivering
        finally:
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)

    async def _deliver(
        self, flying: asyncio.Queue[tuple[float, bytes]], sink: socket.socket, *, down: bool
    ) -> None:
        while True:
            arrives_s, content = await flying.get()
            await _until(max(arrives_s, self._open_until_s))
            if not content:
                return
            if self._vanishes:
                continue
            for part in self._parts(content) if down else (content,):
                await _until(self._open_until_s)
                await self._loop.sock_sendall(sink, part)
                if down and self._note(len(part)):
                    self.tear()
                    return
                self._link.bytes_up += 0 if down else len(part)

    def _parts(self, content: bytes) -> Iterator[bytes]:
        """Cut where something happens, so that it happens at that byte."""
        weather = self._link.weather
        marks = [
            weather.dies_after_bytes - self._down,
            weather.stalls_after_bytes + self._stalled_at - self._down,
        ]
        at = min([mark for mark in marks if 0 < mark < len(content)], default=0)
        if at:
            yield content[:at]
            content = content[at:]
        yield content

    def _note(self, size: int) -> bool:
        """Count what has come to the client; say whether the connection dies of it."""
        weather = self._link.weather
        self._down += size
        self._link.bytes_down += size
        if weather.stalls_after_bytes and (
            self._down >= self._stalled_at + weather.stalls_after_bytes
        ):
            self._stalled_at = self._down
            self._open_until_s = self._loop.time() + weather.stall_s
        self._vanishes = self._vanishes or self._link._goes_half_open(self._down)
        return bool(weather.dies_after_bytes and self._down >= weather.dies_after_bytes)


async def _until(at_s: float) -> None:
    left_s = at_s - asyncio.get_running_loop().time()
    if left_s > 0:
        await asyncio.sleep(left_s)
