"""``edgectl-agent logs``: what happened to the slots, in words, and what the models' process said.

Times are those of the device's clock, which may have been wrong or set since. What the process has
said has none, and neither has what an older agent has written.
"""

from __future__ import annotations

import argparse
import time
from datetime import datetime
from itertools import pairwise

from edgectl_agent.commands.common import Commands, add_command, print_json
from edgectl_agent.core.record import EMPTY
from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import UsageError
from edgectl_agent.settings import Settings
from edgectl_agent.trail import told

__all__ = ["add"]

_INFERENCE_LOG = "inference.log"
_LOG_BYTES_MAX = 4 * 1024 * 1024
_LINES_MAX = 100_000
_LOOK_S = 0.5


def add(commands: Commands) -> None:
    """Add the command."""
    logs = add_command(
        commands,
        "logs",
        _logs,
        doing="reading the state directory",
        summary="show what happened to the slots, and the end of the inference process's log",
        examples=(
            "edgectl-agent logs",
            "edgectl-agent logs --lines 200 --json",
            "edgectl-agent logs --follow",
        ),
    )
    logs.add_argument("--lines", type=int, default=30, help="of each (default: 30)")
    logs.add_argument("--follow", action="store_true", help="go on until Ctrl-C")


def _logs(settings: Settings, options: argparse.Namespace) -> int:
    if not 0 <= options.lines <= _LINES_MAX:
        raise UsageError("settings.value", f"--lines is 0 to {_LINES_MAX}", hint="--lines 200")
    from edgectl_agent.status import open_state, read_records

    disk = open_state(settings.state_directory)
    records = [EMPTY, *read_records(disk)]
    words = [(two.at, line) for one, two in pairwise(records) for line in told(one, two)]
    said = _Inference(disk)
    for at, line in words[-options.lines or len(words) :]:
        _print(options, "update", line, at)
    lines = said.new()
    for line in lines[-options.lines or len(lines) :]:
        _print(options, "inference", line)
    last = records[-1]
    while options.follow:
        time.sleep(_LOOK_S)
        now = (read_records(disk) or [EMPTY])[-1]
        if now != last:
            for line in told(last, now):
                _print(options, "update", line, now.at)
            last = now
        for line in said.new():
            _print(options, "inference", line)
    return 0


class _Inference:
    """The log of the inference process, read on from where it was."""

    def __init__(self, disk: RealDisk) -> None:
        self._disk = disk
        self._read = 0

    def new(self) -> list[str]:
        """Return whole lines that are new; a log that has become shorter is begun anew."""
        size = self._disk.size(_INFERENCE_LOG)
        if size is None or size == self._read:
            return []
        if size < self._read:
            self._read = 0
        content = self._disk.read(_INFERENCE_LOG, _LOG_BYTES_MAX)[self._read :]
        whole = content.rpartition(b"\n")[0]
        self._read += len(whole) + 1 if whole else 0
        return whole.decode("utf-8", "replace").splitlines()


def _print(options: argparse.Namespace, source: str, line: str, at: datetime | None = None) -> None:
    when = "" if at is None else f"{at:%Y-%m-%dT%H:%M:%SZ}"
    if options.json:
        print_json({"from": source, "at": when or None, "line": line})
    else:
        shown = "".join(one if one.isprintable() else "?" for one in line)
        print(f"{source:<10} {when:<20} {shown}", flush=True)
