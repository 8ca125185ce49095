"""``edgectl-agent``: enrol and run the agent, and everything for the person at the device.

Errors are printed as ``error[code]: …``, ``while: …``, ``try: …``. Exit codes: 0 done, 1 refused or
failed, 2 wrong usage, 3 server or agent unreachable.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgectl_agent.commands import (
    asking,
    bench,
    connect,
    doctor,
    gateway,
    identity,
    journey,
    setup,
    showing,
)
from edgectl_agent.commands.common import DEFAULT_CONFIG, examples_text
from edgectl_agent.errors import AgentError, Refused
from edgectl_agent.settings import Settings, load_settings, parse_labels
from edgectl_protocol import __version__

__all__ = ["main", "make_parser"]

_FLAGS = (
    "server",
    "device",
    "token_file",
    "authority",
    "server_ca",
    "state",
    "host",
    "port",
    "socket",
    "labels",
    "telemetry_s",
)
_GROUPS = (setup, identity, showing, asking, journey, doctor, bench, connect, gateway)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = make_parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("tuf").setLevel(logging.WARNING)
    try:
        settings = _settings(options)
        code: int = options.function(settings, options)
    except AgentError as error:
        print_error(error, options.doing)
        return error.exit_code
    except PermissionError as error:
        who = f"{error.filename} may not be opened by this user"
        hint = "use sudo, or become the agent's user"
        print_error(Refused("local.permission", who, hint=hint), options.doing)
        return 1
    except OSError as error:
        if error.errno == errno.EPIPE:  # somebody like `head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        hint = "look at the disk: edgectl-agent doctor"
        print_error(Refused("disk.error", f"{error}", hint=hint), options.doing)
        return 1
    except KeyboardInterrupt:  # while it waits for an approval, or for the token
        return 130
    return code


def print_error(error: AgentError, doing: str) -> None:
    """Print an error as a person reads it."""
    print(f"error[{error.code}]: {error.detail}", file=sys.stderr)
    print(f"while: {doing}", file=sys.stderr)
    if error.hint:
        print(f"try: {error.hint}", file=sys.stderr)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="edgectl-agent",
        description="Bring models to this device, and serve them.",
        epilog=examples_text(
            "sudo edgectl-agent setup",
            "edgectl-agent run --server https://edge.example.org --device pi-1 --token-file token",
            "edgectl-agent status",
            "edgectl-agent doctor",
            "edgectl-agent hold --for 2h --reason 'night shift'",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgectl-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for group in _GROUPS:
        group.add(commands)
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    file: Path | None = options.config
    if file is None and DEFAULT_CONFIG.exists():
        file = DEFAULT_CONFIG
    if getattr(options, "makes_config", False) and file is not None and not file.exists():
        file = None
    flags: dict[str, Any] = {key: getattr(options, key, None) for key in _FLAGS}
    if getattr(options, "label", None):
        flags["labels"] = parse_labels(",".join(options.label))
    return load_settings(file=file, environment=os.environ, flags=flags)
