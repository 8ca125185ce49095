"""``edgectl-agent setup``: a new device into a fleet, with what systemd and the disk need for it.

In this order, so that it can be broken off anywhere and begun again:

1. what it is to know is asked for, where no option says it;
2. the server is asked whether it is one, and whether its clock agrees with this device's;
3. settings and the token are written;
4. the service is started, now and at every boot, and followed until it is connected;
5. the token is removed: it is used up, or lets others in.

Where the machine has no systemd or the service is not installed, the device enrols and it is said
how the agent is run.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import msgspec

from edgectl_agent.clock import now
from edgectl_agent.commands.common import DEFAULT_CONFIG, Commands, add_command, print_json
from edgectl_agent.commands.identity import add_identity, device_name, enrolled_identity, read_token
from edgectl_agent.durable import PRIVATE, READABLE, RealDisk
from edgectl_agent.enrol import Identity, load_identity
from edgectl_agent.errors import Refused, Unreachable, UsageError
from edgectl_agent.local_client import ask
from edgectl_agent.local_messages import Status
from edgectl_agent.server_request import look
from edgectl_agent.settings import Settings, load_settings

__all__ = ["add", "with_settings"]

SERVICE = "edgectl-agent.service"
TOKEN_FILE = "token"  # noqa: S105 - a name
_SYSTEMD = Path("/run/systemd/system")
_CLOCK_S_MAX = 300.0
_CONNECT_S_MAX = 120.0
_LOOK_S = 0.5
_WRITTEN = ("server", "device", "authority", "server_ca")


def add(commands: Commands) -> None:
    """Add the command."""
    setup = add_command(
        commands,
        "setup",
        _setup,
        doing="setting this device up",
        summary="bring this device into a fleet: settings, enrolment, service",
        examples=(
            "sudo edgectl-agent setup",
            "sudo edgectl-agent setup --server https://192.0.2.10:8080 --token-file token",
            "sudo edgectl-agent setup --server http://192.0.2.10:8080 --authority sha256:…",
        ),
    )
    setup.set_defaults(makes_config=True)
    add_identity(setup)
    setup.add_argument(
        "--server-ca",
        dest="server_ca",
        metavar="system|FILE",
        help="whose certificates of HTTPS servers are good (default: they are not checked)",
    )


class _Steps:
    """Says what is done, as it is done; or all of it at the end, in JSON."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self.done: list[dict[str, str]] = []

    def say(self, name: str, detail: str) -> None:
        self.done.append({"step": name, "detail": detail})
        if not self._quiet:
            print(f"{name:<11} {detail}", flush=True)


def _setup(settings: Settings, options: argparse.Namespace) -> int:
    steps = _Steps(quiet=options.json)
    config: Path = options.config or DEFAULT_CONFIG
    _check_writable(config)
    identity = _identity(settings)
    if identity is None:
        settings, token = _ask_for(settings)
        _check_server(settings, steps)
        _write(config, settings, token, steps)
    else:
        steps.say("enrolled", f"as {identity.device}, at {identity.server}")
    if _has_service():
        connected = _start_service(settings, steps)
    else:
        connected = None
        _enrol_here(settings, options, steps)
    if _identity(settings) is not None:
        config.with_name(TOKEN_FILE).unlink(missing_ok=True)
    if options.json:
        print_json({"steps": steps.done, "connected": connected})
    else:
        sudo = "" if connected is None else "sudo "  # the service's state is its user's and root's
        print(
            f"\nNext: {sudo}edgectl-agent status; {sudo}edgectl-agent doctor; "
            "and, where the server is operated:"
        )
        print("  edgectl devices list")
    return 0 if connected is not False else 3


def _identity(settings: Settings) -> Identity | None:
    """Return who this device is, without making a state directory: the service makes its own."""
    folder = settings.state_directory
    return load_identity(RealDisk(folder)) if folder.is_dir() else None


# ---------------------------------------------------------------- what it is to know


def _ask_for(settings: Settings) -> tuple[Settings, str]:
    """Complete the settings, and return them with the token; empty where a person approves."""
    server = settings.server or _answer("Address of the server (http://host:8080)", "--server")
    device = settings.device or _answer("Name of this device", "--device", device_name(settings))
    flags = {**msgspec.structs.asdict(settings), "server": server, "device": device}
    complete = load_settings(file=None, environment={}, flags=flags)
    token = read_token(settings)
    if not token and not complete.authority:
        if not sys.stdin.isatty():
            raise UsageError(
                "enrol.missing",
                "neither a token nor an authority is given",
                hint="--token-file FILE, or - for standard input; `edgectl devices token create` "
                "makes one. Or --authority, as `edgectl devices authority` shows it",
            )
        token = getpass.getpass("Enrolment token (edgectl devices token create): ").strip()
    return msgspec.structs.replace(complete, token=token, token_file=""), token


def _answer(question: str, option: str, default: str = "") -> str:
    """Ask the person; raise `UsageError` where nobody is there to answer."""
    if not sys.stdin.isatty():
        if default:
            return default
        raise UsageError("enrol.missing", f"{option} is not given", hint=f"add {option}")
    text = input(f"{question}{f' [{default}]' if default else ''}: ").strip() or default
    if not text:
        raise UsageError("enrol.missing", "nothing was given", hint=f"answer, or add {option}")
    return text


# ---------------------------------------------------------------- looking, and writing


def _check_server(settings: Settings, steps: _Steps) -> None:
    """See that the server answers, and that the clocks agree.

    Raises:
        Unreachable: ``server.unreachable``, ``server.certificate``.
        Refused: ``enrol.reply``: it is no edgectl server; ``setup.clock``.
    """
    answer = look(settings.server, "version", server_ca=settings.server_ca)
    try:
        version = json.loads(answer.content)["version"]
        text = "".join(one for one in str(version)[:32] if one.isprintable())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(
            "enrol.reply",
            f"{settings.server} answers, but is no edgectl server",
            hint="check the address and its port",
        ) from error
    steps.say("server", f"{settings.server} answers, edgectl {text}")
    off_s = _clock_off_s(answer.date, now())
    if off_s is not None and abs(off_s) > _CLOCK_S_MAX:
        raise Refused(
            "setup.clock",
            f"this device's clock is {abs(off_s):.0f} s "
            f"{'behind' if off_s > 0 else 'ahead of'} the server's: certificates would not be good",
            hint="set the clock: timedatectl set-ntp true; then again",
        )


def _clock_off_s(date: str, here: datetime) -> float | None:
    """Return how many seconds the server's clock is ahead; None where it does not say."""
    try:
        there = parsedate_to_datetime(date)
    except ValueError:
        return None
    if there.tzinfo is None:
        there = there.replace(tzinfo=UTC)
    return (there - here).total_seconds()


def _check_writable(config: Path) -> None:
    if config.parent.is_dir() and not os.access(config.parent, os.W_OK):
        raise Refused(
            "local.permission", f"{config.parent} may not be written by this user", hint="use sudo"
        )


def _write(config: Path, settings: Settings, token: str, steps: _Steps) -> None:
    """Write the settings that were given into the file, and the token beside it."""
    config.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder = RealDisk(config.parent)
    given = {name: getattr(settings, name) for name in _WRITTEN if getattr(settings, name)}
    before = config.read_text(encoding="utf-8") if config.exists() else ""
    folder.write_atomic(config.name, with_settings(before, given).encode(), READABLE)
    config.chmod(READABLE)  # the service is another user, whatever the umask here
    steps.say(
        "settings", f"{config}: {', '.join(f'{name} = {text}' for name, text in given.items())}"
    )
    if token:
        folder.write_atomic(TOKEN_FILE, f"{token}\n".encode(), PRIVATE)


def with_settings(text: str, values: Mapping[str, str]) -> str:
    """Return a TOML text with these settings, and everything else as it was.

    Args:
        text: the file; a setting that it has at its top is replaced in its place.
        values: by name; new ones go before the first table.
    """
    lines = text.splitlines()
    top = next((at for at, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    for name, value in values.items():
        row = f"{name} = {json.dumps(value)}"  # a TOML basic string, RFC 8259 escapes included
        setting = re.compile(rf"\s*{re.escape(name)}\s*=")
        place = next((at for at in range(top) if setting.match(lines[at])), None)
        if place is None:
            lines.insert(top, row)
            top += 1
        else:
            lines[place] = row
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- starting


def _has_service() -> bool:
    if not _SYSTEMD.is_dir():
        return False
    return _systemctl("cat", SERVICE).returncode == 0


def _start_service(settings: Settings, steps: _Steps) -> bool:
    """Start the service and follow it; say whether it is connected.

    Raises:
        Refused: ``setup.service``: it does not start; what it has said last is in the error.
    """
    for command in (("enable", SERVICE), ("restart", "--no-block", SERVICE)):
        done = _systemctl(*command)
        if done.returncode:
            raise _service_fault(done.stderr.strip())
    steps.say("service", f"{SERVICE} runs now, and at every boot")
    deadline_s = time.monotonic() + _CONNECT_S_MAX
    waiting = False
    while time.monotonic() < deadline_s:
        status = _live_status(settings)
        if status is not None and status["connected"]:
            steps.say("connected", f"serves at {status['endpoint']}")
            return True
        text = _service_text()
        if text.startswith("waits for approval") and not waiting:
            waiting = True
            steps.say("approval", f"{text}; approve it with: edgectl devices requests")
            return True
        if _systemctl("is-failed", "--quiet", SERVICE).returncode == 0:
            raise _service_fault("it has ended")
        time.sleep(_LOOK_S)
    steps.say("connected", "not yet; the service goes on trying: edgectl-agent doctor")
    return False


def _service_fault(why: str) -> Refused:
    said = _run("journalctl", "--unit", SERVICE, "--lines", "3", "--output", "cat", "--no-pager")
    return Refused(
        "setup.service",
        f"{SERVICE} does not run: {why}\n{said.stdout.strip()}",
        hint=f"journalctl -u {SERVICE}; mend what it says, then again",
    )


def _service_text() -> str:
    return _systemctl("show", "--property", "StatusText", "--value", SERVICE).stdout.strip()


def _live_status(settings: Settings) -> dict[str, Any] | None:
    try:
        return ask(settings.control_path, Status())
    except (Unreachable, Refused):
        return None


def _enrol_here(settings: Settings, options: argparse.Namespace, steps: _Steps) -> None:
    """Enrol without a service, and say how the agent is run."""
    identity = enrolled_identity(
        settings,
        RealDisk(settings.state_directory),
        lambda line: (
            steps.say("approval", f"waits for it; fingerprint {line['fingerprint']}")
            if line["event"] == "waiting"
            else None
        ),
    )
    steps.say("enrolled", f"as {identity.device}, at {identity.server}")
    config = f" --config {options.config}" if options.config else ""
    steps.say("service", f"none on this machine: run it with edgectl-agent run{config}")


def _systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return _run("systemctl", *arguments)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
