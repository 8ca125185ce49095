"""``edgectl-agent doctor``: what works on this device, line by line."""

from __future__ import annotations

import argparse

import msgspec

from edgectl_agent.commands.common import Commands, add_command, print_json
from edgectl_agent.examination import examine
from edgectl_agent.settings import Settings

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    add_command(
        commands,
        "doctor",
        _doctor,
        doing="examining this device",
        summary="check everything that this device needs, and say what to do about it",
        examples=("edgectl-agent doctor", "edgectl-agent doctor --json"),
    )


def _doctor(settings: Settings, options: argparse.Namespace) -> int:
    failed = False
    checks = []
    for check in examine(settings):
        failed |= check.status == "fail"
        if options.json:
            checks.append(msgspec.to_builtins(check))
            continue
        print(f"{check.status:<5} {check.name:<19} {check.detail}", flush=True)
        if check.next:
            print(f"{'':<25} try: {check.next}")
    if options.json:
        print_json(checks)
    return 1 if failed else 0
