"""An agent as a real process, with what it prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


class Device:
    """``edgectl-agent run --json`` on one state directory; may be started again."""

    def __init__(self, plane_url: str, token: str, state: Path, name: str = "pi-1") -> None:
        self.state = state
        self.name = name
        self.lines: list[dict[str, Any]] = []
        self.program: tuple[str, ...] = ("-m", "edgectl_agent")
        self.settings: dict[str, str] = {"hooks": str(state.with_suffix(".hooks"))}
        self._arguments = [
            *("--server", plane_url, "--device", name),
            *("--state", str(state), "--port", "0", "--json", "--telemetry-s", "1"),
        ]
        self._token = token
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._errors = state.with_suffix(".stderr")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        environment = {key: value for key, value in os.environ.items() if "EDGECTL" not in key}
        environment["EDGECTL_AGENT_TOKEN"] = self._token
        environment |= {f"EDGECTL_AGENT_{k.upper()}": v for k, v in self.settings.items()}
        self.lines = []
        with self._errors.open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *self.program, "run", *self._arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def wait(
        self, event: str, timeout_s: float = 40.0, *, times: int = 1, **wanted: Any
    ) -> dict[str, Any]:
        """Return a line with this event and these fields, printed or to be printed.

        It is the first, or with `times` the second and so on.
        """

        def find() -> list[dict[str, Any]]:
            return [
                line
                for line in self.lines
                if line["event"] == event
                and all(line.get(key) == value for key, value in wanted.items())
            ]

        with self._changed:
            self._changed.wait_for(lambda: len(find()) >= times, timeout_s)
            found = find()
            assert len(found) >= times, (
                f"{len(found)} of {times} {event} {wanted} in {self.lines[-6:]}"
                f"\n{self.errors()[-2000:]}"
            )
            return found[times - 1]

    def command(self, *arguments: str, timeout_s: float = 60.0) -> tuple[int, str, str]:
        """Run ``edgectl-agent`` on the same state directory; return code, output and errors."""
        command, *rest = arguments
        done = subprocess.run(
            [sys.executable, "-m", "edgectl_agent", command, "--state", str(self.state), *rest],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
            env={key: value for key, value in os.environ.items() if "EDGECTL" not in key},
        )
        return done.returncode, done.stdout, done.stderr

    def told(self, *arguments: str) -> Any:
        """Run a command that must succeed, with --json; return its last line."""
        code, output, errors = self.command(*arguments, "--json")
        assert code == 0, output + errors
        return json.loads(output.splitlines()[-1])

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def ended(self, timeout_s: float = 40.0) -> int:
        """Wait until it ends by itself; return its exit code."""
        assert self._process is not None
        self._process.wait(timeout_s)
        return self._end(signal.SIGTERM)

    def errors(self) -> str:
        return self._errors.read_text() if self._errors.exists() else ""

    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _end(self, how: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(how)
        try:
            code = process.wait(30)
        finally:
            process.kill()
        assert self._reader is not None
        self._reader.join(5)
        assert process.stdout is not None
        process.stdout.close()
        return code

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with self._changed:
                self.lines.append(json.loads(line))
                self._changed.notify_all()
