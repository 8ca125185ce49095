"""How far a push is: bars where a terminal is, one line a step where there is none. On stderr."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from edgectl.output import bytes_text, plain
from edgectl.types import JobInfo

__all__ = ["PushProgress"]


class PushProgress:
    """Shows uploads and the stages of a job; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[detail]}", markup=False),
                TimeElapsedColumn(),
                console=console,
            )
        self._stage = ""
        self._line = ""
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finish_task()
        if self._bars:
            self._bars.stop()

    def upload(self, name: str, total: int) -> Callable[[int, int], None]:
        """Return what an upload of `total` bytes reports to."""
        return self._transfer("uploading", name, total)

    def _transfer(self, verb: str, name: str, total: int) -> Callable[[int, int], None]:
        shown = plain(name)
        bars = self._bars
        if bars is None:
            size = f", {bytes_text(total)}" if total else ""
            self._console.print(f"{verb} {shown}{size}")
            return lambda _done, _total: None
        task = bars.add_task(f"{verb} {shown}", total=max(total, 1), detail="")

        def report(done: int, size: int) -> None:
            done = max(done, 1) if done == size else done
            detail = f"{bytes_text(done)} of {bytes_text(size)}"
            bars.update(task, total=max(size, 1), completed=done, detail=detail)

        return report

    def download(self, name: str) -> Callable[[int, int], None]:
        """Return what a download reports to."""
        return self._transfer("writing", name, 0)

    def job(self, job: JobInfo) -> None:
        """Show the stage of a job."""
        progress = job.progress
        if job.state == "running" and not progress.stage:
            return  # a worker starts: its first stage follows at once
        stage = "waiting for its turn" if job.state == "queued" else plain(progress.stage)
        detail = plain(progress.message) if progress.message else ""
        if self._bars is None:
            line = f"{stage}: {detail}" if detail else stage
            if line != self._line:
                self._line = line
                self._console.print(line)
            return
        if stage != self._stage:
            self._finish_task()
            self._stage = stage
            self._task = self._bars.add_task(stage, total=None, detail=detail)
        if self._task is not None:
            self._bars.update(
                self._task,
                total=progress.total or None,
                completed=min(progress.done, progress.total),
                detail=detail,
            )

    def _finish_task(self) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, total=1, completed=1, detail="")
            self._bars.stop_task(self._task)
        self._task = None
