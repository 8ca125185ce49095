"""What ``edgectl-agent status`` shows: read from the state directory, whether or not an agent runs.

Nothing is written, so that it can be looked at while an agent works, and by who may only read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgectl_agent.core.machine import Machine
from edgectl_agent.core.record import EMPTY
from edgectl_agent.durable import RealDisk
from edgectl_agent.enrol import load_identity
from edgectl_agent.errors import Refused
from edgectl_agent.journal import last_record
from edgectl_agent.store import read_pointers

__all__ = ["read_status"]


def read_status(directory: Path) -> dict[str, Any]:
    """Return what the device is, as plain values for JSON.

    Raises:
        Refused: ``state.missing``: there is no state directory.
    """
    if not directory.is_dir():
        raise Refused("state.missing", f"{directory} is not there", hint="give the agent's --state")
    disk = RealDisk(directory)
    identity = load_identity(disk)
    try:
        found, _ = last_record(disk.read("journal"))
    except FileNotFoundError:
        found = None
    record = EMPTY if found is None else found
    machine = Machine(identity.device if identity else "", record, read_pointers(disk))
    return {
        "device": identity.device if identity else None,
        "server": identity.server if identity else None,
        "order_counter": record.counter,
        "slots": {
            slot: {
                "running": report.running and msgspec.to_builtins(report.running),
                "previous": report.previous and msgspec.to_builtins(report.previous),
                "update": report.update and msgspec.to_builtins(report.update),
            }
            for slot, report in machine.slots().items()
        },
        "rejected": list(record.rejected),
    }
