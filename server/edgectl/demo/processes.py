"""The demo's processes: each in its own group behind a `keeper`, logs in the data folder.

None outlives the demo, however it ends: see `edgectl.demo.keeper`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from edgectl.demo.keeper import GRACE_S
from edgectl.errors import DemoFailed

__all__ = ["Process", "Processes", "command_of", "environment_with"]

_POLL_S = 0.05
_OUTPUT_BYTES_MAX = 16 * 1024 * 1024
_LOG_LINES_SHOWN = 12
_STOP_S = GRACE_S + 3.0


class Process:
    """A running program that prints JSON lines on stdout."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], logs: Path
    ) -> None:
        self.name = name
        self.output = logs / f"{name}.jsonl"
        self.log = logs / f"{name}.log"
        keeper = [sys.executable, "-P", "-m", "edgectl.demo.keeper"]
        with _private(self.output) as output, _private(self.log) as log:
            self._keeper = subprocess.Popen(
                [*keeper, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=log,
                env=dict(environment),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the keeper, which leads the process group."""
        return self._keeper.pid

    def check(self) -> None:
        """Raise `DemoFailed` ``demo.process`` when it has ended."""
        code = self._keeper.poll()
        if code is not None:
            tail = self._log_tail()
            raise DemoFailed(
                "demo.process",
                f"{self.name} has ended with exit code {code}" + (f":\n{tail}" if tail else ""),
                f"its log is {self.log}",
                data={"process": self.name, "exit_code": code, "log": str(self.log)},
            )

    def wait_line(
        self, wanted: Callable[[dict[str, Any]], bool], timeout_s: float, what: str
    ) -> dict[str, Any]:
        """Return the first JSON line on its stdout that is `wanted`.

        Raises:
            DemoFailed: ``demo.process`` when it ends before, ``demo.timeout`` when it takes longer.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            for line in self._lines():
                if wanted(line):
                    return line
            self.check()
            if time.monotonic() > deadline:
                raise DemoFailed(
                    "demo.timeout",
                    f"{self.name} was not {what} within {timeout_s:.0f} s:\n{self._log_tail()}",
                    f"its log is {self.log}",
                    data={"process": self.name, "log": str(self.log)},
                )
            time.sleep(_POLL_S)

    def ask_to_stop(self) -> None:
        """Let the keeper end its child."""
        if self._keeper.stdin is not None:
            with suppress(BrokenPipeError):
                self._keeper.stdin.close()

    def wait_stopped(self, deadline: float) -> None:
        """Wait until it has ended, killing the group when it takes longer than `deadline`."""
        try:
            self._keeper.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._keeper.pid, signal.SIGKILL)
            self._keeper.wait(GRACE_S)

    def _lines(self) -> list[dict[str, Any]]:
        with self.output.open("rb") as file:
            content = file.read(_OUTPUT_BYTES_MAX)
        lines = []
        # What follows the last newline is still being written.
        for line in content.split(b"\n")[:-1]:
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
                lines.append(msgspec.json.decode(line, type=dict[str, Any]))
        return lines

    def _log_tail(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-_LOG_LINES_SHOWN:])


class Processes:
    """All of them; a context manager that ends them, in reverse order of their start."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[Process] = []

    def __enter__(self) -> Self:
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Process:
        """Start a process."""
        process = Process(name, command, environment, self._logs)
        self._running.append(process)
        return process

    def check(self) -> None:
        """Raise `DemoFailed` ``demo.process`` when one has ended."""
        for process in self._running:
            process.check()

    def stop(self) -> None:
        """End all, devices before the server that they report to."""
        while self._running:
            last = self._running[-1]
            # Devices end together; the first process, the server, hears their farewell.
            ending = self._running[1:] or [last]
            for process in ending:
                process.ask_to_stop()
            deadline = time.monotonic() + _STOP_S
            for process in ending:
                process.wait_stopped(deadline)
            del self._running[-len(ending) :]


def command_of(module: str, command: str) -> list[str]:
    """Return the command line of one of our programs, printing JSON lines."""
    return [sys.executable, "-P", "-m", module, command, "--json"]


def environment_with(**settings: str) -> dict[str, str]:
    """Return our environment with these settings, and none that is meant for another server."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EDGECTL_")}
    return {**kept, "PYTHONUNBUFFERED": "1", **settings}


def _private(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
