"""The bad link of the tests does what it says."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from links import HOST, Link, Weather
from waiting import wait_for

CONTENT = bytes(range(256)) * 1024
WAIT_S = 30


class Source:
    """A server that sends `CONTENT` to whoever says a byte, and keeps what it hears after it."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended = threading.Event()
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            opened, _ = self._listener.accept()
            if self._over:
                opened.close()
                return
            threading.Thread(target=self._serve, args=(opened,), daemon=True).start()

    def _serve(self, opened: socket.socket) -> None:
        with opened:
            try:
                if opened.recv(1):
                    opened.sendall(CONTENT)
                while content := opened.recv(65536):
                    self.heard += content
            except OSError:
                pass
            self.ended.set()

    def close(self) -> None:
        self._over = True
        socket.create_connection((HOST, self.port)).close()
        self._thread.join(WAIT_S)
        self._listener.close()


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.close()


def fetch(link: Link, *, timeout_s: float = WAIT_S) -> bytes:
    """Return what comes until all is there or the link ends it."""
    got = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection((HOST, link.port), timeout=timeout_s) as opened,
    ):
        opened.sendall(b"?")
        while len(got) < len(CONTENT) and (content := opened.recv(65536)):
            got += content
    return got


def test_a_good_link_changes_nothing_and_counts(source: Source) -> None:
    with Link(source.port) as link:
        assert fetch(link) == CONTENT
        wait_for(lambda: link.bytes_down == len(CONTENT), "its count")
        assert link.bytes_up == 1
        assert link.connections == 1
        assert source.ended.wait(WAIT_S)  # the client's end is told


def test_rate_latency_and_loss_cost_time_and_no_byte(source: Source) -> None:
    rate = 1e6
    with Link(source.port, Weather(bytes_per_s=rate, latency_s=0.1)) as link:
        began_s = time.monotonic()
        assert fetch(link) == CONTENT
        clean_s = time.monotonic() - began_s
    assert clean_s >= len(CONTENT) / rate + 2 * 0.1 * 0.99
    # Every segment is lost once: the last one cannot come before its time-out.
    weather = Weather(bytes_per_s=rate, latency_s=0.1, loss=1.0, rto_s=0.2)
    with Link(source.port, weather) as link:
        began_s = time.monotonic()
        assert fetch(link) == CONTENT
        assert time.monotonic() - began_s >= len(CONTENT) / rate + 2 * (0.1 + 0.2) * 0.99


def test_it_dies_at_a_byte_and_takes_the_next_connection(source: Source) -> None:
    with Link(source.port, Weather(dies_after_bytes=100_001)) as link:
        for number in range(1, 4):
            got = fetch(link)
            assert CONTENT.startswith(got)
            assert len(got) <= 100_001  # a farewell without manners may take bytes with it
            wait_for(lambda: link.bytes_down == number * 100_001, "its count")  # noqa: B023
        assert link.connections == 3


def test_it_dies_after_a_time_and_when_it_is_cut(source: Source) -> None:
    with Link(source.port, Weather(bytes_per_s=20_000, dies_after_s=0.3)) as link:
        assert len(fetch(link)) < len(CONTENT)
    with Link(source.port, Weather(bytes_per_s=20_000)) as link:
        threading.Timer(0.2, link.cut).start()
        assert len(fetch(link)) < len(CONTENT)


def test_it_stalls_for_a_while_and_goes_on(source: Source) -> None:
    with Link(source.port, Weather(stalls_after_bytes=100_000, stall_s=0.3)) as link:
        began_s = time.monotonic()
        assert hashlib.sha256(fetch(link)).digest() == hashlib.sha256(CONTENT).digest()
        assert time.monotonic() - began_s >= 2 * 0.3 * 0.99


def test_half_open_means_that_nobody_is_told(source: Source) -> None:
    with Link(source.port, Weather(half_open_after_bytes=50_000)) as link:
        opened = socket.create_connection((HOST, link.port), timeout=1.0)
        with opened:
            opened.sendall(b"?")
            got = 0
            with contextlib.suppress(TimeoutError):
                while content := opened.recv(65536):
                    got += len(content)
                raise AssertionError("the client was told")
            assert 50_000 <= got < len(CONTENT)
            opened.sendall(b"is anybody there?")
            assert not source.ended.wait(0.2)
            assert source.heard == b""
        assert fetch(link) == CONTENT  # the next one is sound


def test_the_same_seed_loses_the_same_segments(source: Source) -> None:
    def lost(seed: int) -> list[int]:
        with Link(source.port, Weather(loss=0.1, rto_s=0.001), seed=seed) as link:
            assert fetch(link) == CONTENT
            return link.lost_at

    first = lost(1)
    assert first
    assert lost(1) == first
    assert lost(2) != first


def test_a_server_that_is_away_ends_the_connection(source: Source) -> None:
    free = socket.create_server((HOST, 0))
    port = free.getsockname()[1]
    free.close()
    with Link(port) as link:
        assert fetch(link) == b""
