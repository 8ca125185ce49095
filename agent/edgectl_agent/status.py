"""Reads a state directory without changing it, and tells what the device is and does.

Nothing is locked or written, so that it can be looked at while an agent works, and by who may only
read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgectl_agent.clock import moment
from edgectl_agent.core.machine import Machine
from edgectl_agent.core.record import EMPTY, Record, SlotPointer
from edgectl_agent.durable import Disk, RealDisk
from edgectl_agent.enrol import load_identity
from edgectl_agent.errors import AgentError, Refused
from edgectl_agent.hold_file import HoldFile
from edgectl_agent.journal import last_record, records_of
from edgectl_agent.store import read_pointers, stored_bytes
from edgectl_protocol.messages import Installed
from edgectl_protocol.update import ENDED, UpdateState

__all__ = ["open_state", "read_models", "read_records", "read_status"]


def open_state(directory: Path) -> RealDisk:
    """Return the disk of a state directory; raise `Refused` ``state.missing``."""
    if not directory.is_dir():
        raise Refused("state.missing", f"{directory} is not there", hint="give the agent's --state")
    return RealDisk(directory)


def read_records(disk: Disk) -> list[Record]:
    """Return the trail of records in the journal, the oldest first."""
    try:
        return records_of(disk.read("journal"))
    except FileNotFoundError:
        return []


def read_record(disk: Disk) -> Record:
    """Return the newest record of the journal."""
    try:
        found, _ = last_record(disk.read("journal"))
    except FileNotFoundError:
        found = None
    return EMPTY if found is None else found


def read_status(directory: Path) -> dict[str, Any]:
    """Return what the device is, as plain values for JSON.

    Raises:
        Refused: ``state.missing``: there is no state directory.
    """
    disk = open_state(directory)
    identity = load_identity(disk)
    record = read_record(disk)
    machine = Machine(identity.device if identity else "", record, read_pointers(disk))
    holds = HoldFile(disk, changes=False)
    holds.look(moment())
    return {
        "device": identity.device if identity else None,
        "server": identity.server if identity else None,
        "order_counter": record.counter,
        "holds": holds.shown(moment()),
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


def read_models(directory: Path) -> list[dict[str, Any]]:
    """Return the models of every slot, each with its role, as plain values for JSON.

    Raises:
        Refused: ``state.missing``: there is no state directory.
    """
    disk = open_state(directory)
    records = read_records(disk)
    record = records[-1] if records else EMPTY
    trials = {
        update.manifest: msgspec.to_builtins(update.trial)
        for one in records
        for update in one.updates.values()
        if update.trial is not None
    }
    pointers = read_pointers(disk)
    rows = []
    for slot in sorted({*pointers, *record.updates}):
        pointer = pointers.get(slot, SlotPointer())
        for role, installed in (("running", pointer.running), ("previous", pointer.previous)):
            if installed is not None:
                rows.append(_row(disk, slot, role, installed, trials))
        update = record.updates.get(slot)
        if update is not None and (update.state not in ENDED or update.state is UpdateState.FAILED):
            candidate = update.candidate
            rows.append(
                {
                    "slot": slot,
                    "role": f"candidate ({update.state})",
                    "version": update.version,
                    "variant": candidate.variant,
                    "manifest": candidate.manifest,
                    "bytes": _bytes(disk, candidate.manifest),
                    "since": None,
                    "trial": trials.get(candidate.manifest),
                }
            )
    return rows


def _row(
    disk: Disk, slot: str, role: str, installed: Installed, trials: dict[str, Any]
) -> dict[str, Any]:
    return {
        "slot": slot,
        "role": role,
        "version": installed.version,
        "variant": installed.variant,
        "manifest": installed.manifest,
        "bytes": _bytes(disk, installed.manifest),
        "since": f"{installed.since:%Y-%m-%dT%H:%M:%SZ}",
        "trial": trials.get(installed.manifest),
    }


def _bytes(disk: Disk, manifest: str) -> int | None:
    try:
        return stored_bytes(disk, manifest)
    except (AgentError, OSError):
        return None
