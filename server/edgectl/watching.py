"""Following a rollout: what the server knows of it, twice a second, until it stops running.

The live snapshots of ``/events`` hold a rollout's counts only and at most one a second; the steps
of its devices are asked for here, at most `DEVICES_SHOWN` of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console, Group
from rich.live import Live

from edgectl.client import Client
from edgectl.output import bytes_text, plain
from edgectl.tables import rollout_devices_table, rollout_table
from edgectl.types import RolloutDeviceInfo, RolloutInfo

__all__ = ["DEVICES_SHOWN", "RolloutView", "Watched", "watch_rollout"]

DEVICES_SHOWN = 20
_INTERVAL_S = 0.5


class Watched(NamedTuple):
    """A rollout and some of its devices: all, or those in progress when they are too many."""

    rollout: RolloutInfo
    devices: list[RolloutDeviceInfo]


def watch_rollout(
    client: Client,
    rollout_id: str,
    show: Callable[[Watched], None],
    *,
    timeout_s: float | None = None,
) -> Watched:
    """Return when the rollout is completed, aborted or paused, or when `timeout_s` has passed."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        seen = client.patiently(lambda: _look(client, rollout_id))
        show(seen)
        if seen.rollout.state != "running":
            return seen
        if deadline is not None and time.monotonic() > deadline:
            return seen
        time.sleep(_INTERVAL_S)


def _look(client: Client, rollout_id: str) -> Watched:
    # The rollout first: once it has ended, the devices that are read after it have too.
    rollout = client.rollout(rollout_id)
    query = [] if rollout.counts.total <= DEVICES_SHOWN else [("state", "in_progress")]
    return Watched(rollout, client.rollout_devices(rollout_id, query, DEVICES_SHOWN).items)


class RolloutView:
    """Shows a rollout as it goes: a live table on a terminal, otherwise one line a change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        if console.is_terminal:
            # What is left in the end is printed by whoever watches.
            self._live = Live(console=console, auto_refresh=False, transient=True)
        self._lines: dict[str, str] = {}

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, seen: Watched) -> None:
        """Show the present state."""
        if self._live:
            tables = Group(rollout_table(seen.rollout), rollout_devices_table(seen.devices))
            self._live.update(tables, refresh=True)
            return
        for device in seen.devices:
            self._say(device.device, _line_of(device))
        counts = seen.rollout.counts
        line = f"rollout {seen.rollout.state}: {counts.committed} of {counts.total} committed"
        if counts.unsuccessful:
            line += f", {counts.unsuccessful} went wrong"
        if seen.rollout.bytes.saved:
            line += f", {bytes_text(seen.rollout.bytes.saved)} saved"
        self._say("", plain(line))

    def _say(self, key: str, line: str) -> None:
        if self._lines.get(key) != line:
            self._lines[key] = line
            self._console.print(line)


def _line_of(device: RolloutDeviceInfo) -> str:
    line = f"{device.device}: {device.state}"
    if device.state == "in_progress" and device.step:
        line = f"{device.device}: {device.step}"
    if device.step == "downloading" and device.bytes_total:
        line += f" {bytes_text(device.bytes_total)}"
    if device.variant:
        line += f" ({device.variant})"
    if device.reason:
        line += f": {device.reason.code}: {device.reason.detail}"
    if not device.online:
        line += ", offline"
    return plain(line)
