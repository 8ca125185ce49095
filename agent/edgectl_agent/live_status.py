"""How the running agent is, for the person at the device: what the state directory cannot say."""

from __future__ import annotations

import os
import re
from typing import Any, Protocol

import msgspec

from edgectl_agent import health
from edgectl_agent.connection import Connection
from edgectl_agent.core.machine import Machine
from edgectl_agent.core.timing import Moment
from edgectl_agent.durable import Disk
from edgectl_agent.errors import Refused
from edgectl_agent.renewal import read_validity
from edgectl_agent.reporter import Reporter
from edgectl_agent.settings import Settings
from edgectl_protocol import __version__

__all__ = ["LiveStatus"]

_ERRNO = re.compile(r"\[Errno -?\d+\] ")


class Endpoint(Protocol):
    """Where applications reach the models; see `edgectl_agent.inference.process`."""

    endpoint: str
    problems: tuple[str, ...]


class LiveStatus:
    """Takes the status of one start of the agent; used by the main thread."""

    def __init__(
        self,
        disk: Disk,
        *,
        settings: Settings,
        machine: Machine,
        reporter: Reporter,
        connection: Connection,
        inference: Endpoint,
        begun_s: float,
    ) -> None:
        """Take what is looked at; `begun_s` is when the agent began, on the clock of `Moment`."""
        self._disk = disk
        self._settings = settings
        self._machine = machine
        self._reporter = reporter
        self._connection = connection
        self._inference = inference
        self._begun_s = begun_s

    def take(
        self, moment: Moment, holds: dict[str, Any], samples: dict[str, Any]
    ) -> dict[str, Any]:
        """Return it as plain values for JSON; `holds` as of `HoldFile.shown`."""
        sample = health.system_sample(moment.wall, self._settings.state_directory, 0)
        due_s = self._machine.due_s
        refusal = self._reporter.refusal
        return {
            "agent_version": __version__,
            "pid": os.getpid(),
            "up_s": round(moment.elapsed_s - self._begun_s, 1),
            "endpoint": self._inference.endpoint,
            "endpoint_problems": list(self._inference.problems),
            "connected": self._connection.connected(),
            "connection_error": _ERRNO.sub("", self._connection.last_error) or None,
            "certificate": self._certificate(moment),
            "holds": holds,
            "samples": samples,
            "slots": msgspec.to_builtins(self._reporter.slots()),
            "next_s": None if due_s is None else round(max(0.0, due_s - moment.elapsed_s), 1),
            "refusal": None if refusal is None else msgspec.to_builtins(refusal),
            "disk_free_bytes": sample.disk_free_bytes,
            "disk_reserve_bytes": self._settings.disk_reserve_bytes,
            "temperature_c": sample.temperature_c,
            "agent_rss_bytes": sample.agent_rss_bytes,
        }

    def _certificate(self, moment: Moment) -> dict[str, Any] | None:
        try:
            validity = read_validity(self._disk)
        except (Refused, OSError):
            return None
        left_s = (validity.end - moment.wall).total_seconds()
        return {"until": validity.end.isoformat(), "left_s": round(left_s)}
