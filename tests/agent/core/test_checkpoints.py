"""Checkpoints beside a download: what they promise, when the download waits, and their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from edgectl_agent.checkpoints import FAST, Checkpoints
from edgectl_agent.durable import RealDisk
from edgectl_agent.store import Partial, Store
from edgectl_protocol.chunks import CHUNK_BYTES

CHUNKS = 4
COUNT = (FAST + 2) * CHUNKS
DIGEST = "sha256:" + "cd" * 32


class Later(Executor):
    """Does what it is given when it is waited for, or told."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.submitted = 0

    def submit(self, call: Any, /, *arguments: Any, **_: Any) -> Future[Any]:
        self.submitted += 1
        future = _Waited(self)

        def work() -> None:
            try:
                future.set_result(call(*arguments))
            except OSError as error:
                future.set_exception(error)

        self.waiting.append(work)
        return future

    def work(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()


class _Waited(Future[Any]):
    def __init__(self, executor: Later) -> None:
        super().__init__()
        self._executor = executor

    def result(self, timeout: float | None = None) -> Any:
        self._executor.work()
        return super().result(timeout)


class Site:
    """A blob that is coming, with its checkpoints."""

    def __init__(self, root: Path) -> None:
        self.root, self.background, self.now = root, Later(), 0.0
        self.partial = self.again()
        self.checkpoints = Checkpoints(
            self.partial, chunks=CHUNKS, elapsed=lambda: self.now, background=self.background
        )
        self.written = 0

    def again(self) -> Partial:
        """Take the blob up as another start of the agent does."""
        return Store(RealDisk(self.root)).partial(DIGEST, COUNT * CHUNK_BYTES)

    def write(self, count: int) -> None:
        for _ in range(count):
            self.partial.write(self.written, bytes(CHUNK_BYTES))
            self.written += 1
            self.checkpoints.wrote()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.partial.close()


def test_what_is_written_during_a_checkpoint_is_not_promised_by_it(site: Site) -> None:
    site.write(CHUNKS + 2)
    assert site.again().bitmap.done() == 0  # the disk has not answered yet
    site.checkpoints.wait()
    assert site.again().bitmap.done() == CHUNKS
    site.partial.checkpoint()
    assert site.again().bitmap.done() == CHUNKS + 2


def test_there_is_one_at_a_time_and_the_download_waits_when_it_is_far_ahead(site: Site) -> None:
    site.write(CHUNKS)
    site.now += 60
    site.write(FAST * CHUNKS - 1)
    assert (site.background.submitted, len(site.background.waiting)) == (1, 1)
    site.write(1)
    assert (site.background.submitted, len(site.background.waiting)) == (2, 1)
    assert site.again().bitmap.done() == CHUNKS


def test_a_pause_keeps_what_has_come_once(site: Site) -> None:
    site.write(1)
    site.checkpoints.pause()
    site.checkpoints.pause()
    assert site.background.submitted == 1
    site.checkpoints.wait()
    assert site.again().bitmap.done() == 1


def test_an_error_of_the_disk_reaches_the_download(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    site.write(CHUNKS)
    monkeypatch.setattr(RealDisk, "sync", broken)
    with pytest.raises(OSError, match="Input/output"):
        site.checkpoints.wait()
    site.checkpoints.wait()  # told once
