"""The spool: order, budget, kill -9 in the middle of writing, a damaged file, a full disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgectl_agent.spool import Kind, Spool, SpoolFull
from edgectl_protocol.messages import DeviceEvent, InferenceWindow, TelemetryBatch, decode
from edgectl_protocol.update import UpdateEvent, UpdateState

AT = datetime(2026, 11, 23, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64


def event(boot: int = 1) -> Callable[[int], DeviceEvent]:
    return lambda seq: DeviceEvent(
        device="pi-1",
        boot=boot,
        seq=seq,
        at=AT,
        slot="activity",
        order=1,
        nonce="0" * 32,
        version="1",
        variant="fp32",
        manifest=DIGEST,
        before=UpdateState.IDLE,
        event=UpdateEvent.ORDERED,
        after=UpdateState.REFRESHING,
    )


def telemetry(windows: int = 1) -> Callable[[int], TelemetryBatch]:
    window = InferenceWindow(
        slot="activity", version="1", manifest=DIGEST, start=AT, end=AT, requests=1
    )
    return lambda seq: TelemetryBatch(device="pi-1", boot=1, seq=seq, windows=(window,) * windows)


@contextmanager
def opened(directory: Path, *, bytes_max: int = 1 << 20, boot: int = 1) -> Iterator[Spool]:
    spool = Spool(directory, bytes_max=bytes_max, boot=boot)
    try:
        yield spool
    finally:
        spool.close()


def test_messages_come_back_in_order_until_acknowledged(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        assert spool.put("event", event()) == 1
        assert spool.put("telemetry", telemetry()) == 2
        assert spool.put("event", event()) == 3
        assert [(m.kind, m.boot, m.seq) for m in spool.pending()] == [
            ("event", 1, 1),
            ("telemetry", 1, 2),
            ("event", 1, 3),
        ]
        assert decode(DeviceEvent, spool.pending()[2].payload) == event()(3)
        assert [m.seq for m in spool.pending(limit=2)] == [1, 2]
        spool.acknowledge(1, 2)
        spool.acknowledge(1, 2)
        spool.acknowledge(9, 1)
        assert [m.seq for m in spool.pending()] == [1, 3]


def test_opened_again_it_goes_on_counting_and_older_boots_come_first(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.put("event", event())
        spool.acknowledge(1, 1)
        spool.put("event", event())
    with opened(tmp_path) as spool:
        assert spool.put("event", event()) == 3
    with opened(tmp_path, boot=2) as spool:
        assert spool.put("event", event(2)) == 1
        assert [(m.boot, m.seq) for m in spool.pending()] == [(1, 2), (1, 3), (2, 1)]


def test_acknowledged_numbers_are_not_used_again_in_the_same_boot(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.put("event", event())
        spool.acknowledge(1, 1)
    with opened(tmp_path) as spool:
        assert spool.put("event", event()) == 2


def test_the_budget_costs_old_telemetry_first_and_events_last(tmp_path: Path) -> None:
    with opened(tmp_path, bytes_max=20_000) as spool:
        for _ in range(3):
            spool.put("event", event())
        for _ in range(200):
            spool.put("telemetry", telemetry())
        kinds = [(m.kind, m.seq) for m in spool.pending(1000)]
        assert kinds[:3] == [("event", 1), ("event", 2), ("event", 3)]
        assert kinds[-1] == ("telemetry", 203)
        assert spool.dropped == 203 - len(kinds) > 0
        for _ in range(200):
            spool.put("event", event())
        left = spool.pending(1000)
        assert {m.kind for m in left} == {"event"}
        assert left[-1].seq == 403
        assert [m.seq for m in left] == list(range(left[0].seq, 404))
        assert 15_000 < sum(len(m.payload) + 64 for m in left) <= 20_000


def test_what_another_version_of_the_agent_has_left_is_dropped_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path) as spool:
        spool.put("verdict", event())  # type: ignore[arg-type]  # of a newer one
        spool.put("event", event())
    with opened(tmp_path, boot=2) as spool:
        assert [(m.kind, m.seq) for m in spool.pending()] == [("event", 2)]
        assert spool.oldest() == (1, 2)
        assert spool.dropped == 1
        assert "1 messages of another version" in caplog.text
        spool.acknowledge(1, 2)
        assert spool.pending() == []


def test_kinds_are_left_out(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        for kind in ("event", "outcome", "telemetry"):
            spool.put(kind, event())
        assert [m.seq for m in spool.pending(2, without={"outcome"})] == [1, 3]
        assert [m.seq for m in spool.pending(2)] == [1, 2]


def test_the_files_stay_near_the_budget(tmp_path: Path) -> None:
    budget = 200_000
    with opened(tmp_path, bytes_max=budget) as spool:
        for _ in range(2000):
            spool.put("telemetry", telemetry(4))
        size = sum(file.stat().st_size for file in tmp_path.iterdir())
    # Beside the pages there are the journal of 64 pages and the index.
    assert size < 2 * budget + 700_000


def test_a_message_larger_than_the_budget_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, bytes_max=2000) as spool:
        spool.put("event", event())
        with pytest.raises(SpoolFull):
            spool.put("telemetry", telemetry(50))
        assert [m.seq for m in spool.pending()] == [1]
        assert spool.put("event", event()) == 2


def test_the_spool_is_private(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as spool:
        spool.put("event", event())
        assert (tmp_path / "spool" / "spool.db").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["event", "telemetry"])
def test_what_put_has_returned_survives_kill_9(tmp_path: Path, kind: Kind) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_spool import *\n"
        "spool = Spool(Path(sys.argv[2]), bytes_max=1 << 24, boot=1)\n"
        "while True:\n"
        "    make = event() if sys.argv[3] == 'event' else telemetry()\n"
        "    print(spool.put(sys.argv[3], make), flush=True)\n"
    )
    arguments = [str(Path(__file__).parent), str(tmp_path), kind]
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        seen = 0
        while seen < 300:
            seen = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        for line in writer.stdout.read().splitlines(keepends=True):
            if line.endswith(b"\n"):
                seen = int(line)
    with opened(tmp_path) as spool:
        kept = [m.seq for m in spool.pending(10**6)]
        assert kept == list(range(1, len(kept) + 1))
        assert seen <= len(kept) <= seen + 1
        assert spool.put("event", event()) == len(kept) + 1


@pytest.mark.parametrize("how", ["garbage", "header", "middle"])
def test_a_damaged_file_is_thrown_away(tmp_path: Path, how: str) -> None:
    with opened(tmp_path) as spool:
        for _ in range(300):
            spool.put("telemetry", telemetry())
    file = tmp_path / "spool.db"
    content = file.read_bytes()
    file.write_bytes(
        {
            "garbage": b"\x00garbage" * 4096,
            "header": b"X" * 100 + content[100:],
            "middle": content[:4096] + os.urandom(len(content) - 8192) + content[-4096:],
        }[how]
    )
    with opened(tmp_path, boot=2) as spool:
        assert spool.pending() == []
        assert spool.put("event", event(2)) == 1


@contextmanager
def full_disk(directory: Path) -> Iterator[None]:
    """No file may grow beyond the largest: SQLite sees failing writes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = max(file.stat().st_size for file in directory.glob("spool.db*"))
    assert size > 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def fill(spool: Spool, kind: Kind, count: int) -> int:
    """Put up to `count` messages and return how many were kept."""
    for number in range(count):
        try:
            spool.put(kind, event() if kind == "event" else telemetry())
        except SpoolFull:
            return number
    return count


def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, bytes_max=1 << 24) as spool:
        fill(spool, "event", 50)
        with full_disk(tmp_path):
            more = fill(spool, "event", 5000)
            assert more < 5000
            assert fill(spool, "telemetry", 1) == 0
        kept = [m.seq for m in spool.pending(10**6)]
        assert kept == list(range(1, 51 + more))
        assert spool.put("event", event()) == len(kept) + 1
        assert spool.dropped == 0


def test_on_a_full_disk_an_event_takes_the_room_of_telemetry(tmp_path: Path) -> None:
    with opened(tmp_path, bytes_max=1 << 24) as spool:
        fill(spool, "telemetry", 500)
        with full_disk(tmp_path):
            rounds = 0
            while fill(spool, "telemetry", 5000):  # until not one more fits
                rounds += 1
                assert rounds < 50
            kept = fill(spool, "event", 5000)
        assert kept > 500  # nearly all of what telemetry had
        assert len([m for m in spool.pending(10**6) if m.kind == "event"]) == kept
        assert spool.dropped > 0


def test_threads_get_distinct_numbers(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        numbers: list[int] = []
        threads = [
            threading.Thread(
                target=lambda: numbers.extend(
                    spool.put("telemetry", telemetry()) for _ in range(50)
                )
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(numbers) == list(range(1, 201))
        assert len(spool.pending(1000)) == 200


def test_the_oldest_that_waits_is_known(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        assert spool.oldest() is None
        for kind, make in (("event", event()), ("telemetry", telemetry()), ("event", event())):
            spool.put(kind, make)
        assert spool.oldest() == (1, 1)
        spool.acknowledge(1, 1)
        assert spool.oldest() == (1, 2)
    with opened(tmp_path, boot=2) as spool:
        spool.put("event", event(2))
        assert spool.oldest() == (1, 2)
        spool.acknowledge(1, 2)
        spool.acknowledge(1, 3)
        assert spool.oldest() == (2, 1)


@contextmanager
def no_room() -> Iterator[None]:
    """Not one more byte can be written: to the spool, its journal, or what its readers share."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_start_on_a_full_disk_does_not_cost_what_waits(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        fill(spool, "event", 3)
    with no_room(), opened(tmp_path, boot=2) as spool:
        assert spool.put("event", event(2)) == 1  # in memory
    with opened(tmp_path, boot=3) as spool:
        assert [(m.boot, m.seq) for m in spool.pending()] == [(1, 1), (1, 2), (1, 3)]


def test_what_is_acknowledged_on_a_full_disk_is_removed_later(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        fill(spool, "event", 4)
        spool.put("upload", event())
    with opened(tmp_path, boot=2) as spool:
        with no_room():
            spool.acknowledge(1, 1)
            spool.acknowledge(1, 3)
            spool.acknowledge(9, 9)  # nobody has sent it
            spool.forget("upload")
            assert [m.seq for m in spool.pending()] == [2, 4]
            assert [m.seq for m in spool.pending(1)] == [2]
            spool.acknowledge(1, 2)
            assert spool.oldest() == (1, 4)
        spool.put("event", event(2))
    with opened(tmp_path, boot=3) as spool:
        assert [(m.boot, m.seq) for m in spool.pending()] == [(1, 4), (2, 1)]
        assert spool.dropped == 0
