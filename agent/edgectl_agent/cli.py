"""``edgectl-agent``: enrol, run, fingerprint, status.

Errors are printed as ``error[code]: …``, ``while: …``, ``try: …``. Exit codes: 0 done, 1 refused or
failed, 2 wrong usage, 3 server unreachable.
"""

from __future__ import annotations

import argparse
import getpass
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from edgectl_agent import connect
from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import AgentError, UsageError
from edgectl_agent.settings import Settings, load_settings, parse_labels
from edgectl_protocol import __version__

__all__ = ["main"]

DEFAULT_CONFIG = Path("/etc/edgectl/agent.toml")
_TOKEN_CHARACTERS_MAX = 256
_FLAGS = (
    "server",
    "device",
    "token_file",
    "authority",
    "state",
    "host",
    "port",
    "socket",
    "labels",
    "telemetry_s",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("tuf").setLevel(logging.WARNING)
    doing = {
        "enrol": "enrolling this device",
        "run": "starting the agent",
        "fingerprint": "reading the key of this device",
        "status": "reading the state directory",
        "connect": "connecting source, model and sinks",
    }[options.command]
    try:
        settings = _settings(options)
        code: int = options.function(settings, options)
    except AgentError as error:
        print_error(error, doing)
        return error.exit_code
    except OSError as error:
        print(f"error[disk.error]: {error}\nwhile: {doing}", file=sys.stderr)
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


def _examples(*lines: str) -> str:
    return "Examples:\n" + "\n".join(f"  {line}" for line in lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgectl-agent",
        description="Bring models to this device, and serve them.",
        epilog=_examples(
            "edgectl-agent run --server https://edge.example.org --device pi-1 --token-file token",
            "edgectl-agent run",
            "edgectl-agent fingerprint --device pi-1",
            "edgectl-agent status",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgectl-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", type=Path, help=f"settings in TOML ({DEFAULT_CONFIG} where it exists)"
    )
    common.add_argument("--state", help="state directory")
    common.add_argument("--json", action="store_true", help="print JSON lines")
    common.add_argument("--verbose", action="store_true", help="say more on standard error")
    identity = argparse.ArgumentParser(add_help=False)
    identity.add_argument("--server", help="address of the server, such as http://host:8080")
    identity.add_argument("--device", help="name of this device (default: its host name)")
    identity.add_argument(
        "--token-file",
        dest="token_file",
        metavar="FILE",
        help="file with the enrolment token, needed once; - asks for it, or reads standard input "
        "(or the environment: EDGECTL_AGENT_TOKEN)",
    )
    identity.add_argument(
        "--authority",
        metavar="FINGERPRINT",
        help="fingerprint of the server's authority; needed to enrol without a token",
    )

    enrol = commands.add_parser(
        "enrol",
        parents=[common, identity],
        help="get an identity from the server",
        epilog=_examples(
            "edgectl-agent enrol --server http://192.0.2.10:8080 --token-file -",
            "edgectl-agent enrol --server http://192.0.2.10:8080 --authority sha256:…",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    enrol.set_defaults(function=_enrol)
    run = commands.add_parser(
        "run",
        parents=[common, identity],
        help="enrol if needed, then work until stopped",
        epilog=_examples(
            "edgectl-agent run --server http://192.0.2.10:8080 --device pi-1 --token-file token",
            "edgectl-agent run --state ./state --port 0 --label site=north",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--host", help="address of the inference endpoint")
    run.add_argument("--port", type=int, help="port of the inference endpoint, 0 for a free one")
    run.add_argument("--socket", help="Unix socket of the inference endpoint")
    run.add_argument(
        "--label", action="append", dest="label", metavar="NAME=VALUE", help="may be repeated"
    )
    run.add_argument(
        "--telemetry-s", type=float, dest="telemetry_s", help="seconds between two batches"
    )
    run.set_defaults(function=_run)
    fingerprint = commands.add_parser(
        "fingerprint",
        parents=[common],
        help="show the fingerprint of this device's key, which is made if there is none",
        epilog=_examples(
            "edgectl-agent fingerprint --device pi-1",
            "edgectl-agent fingerprint --device pi-1 >> devices.csv",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fingerprint.add_argument("--device", help="name of this device (default: its host name)")
    fingerprint.set_defaults(function=_fingerprint)
    status = commands.add_parser(
        "status",
        parents=[common],
        help="show what this device runs",
        epilog=_examples("edgectl-agent status --state ./state", "edgectl-agent status --json"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    status.set_defaults(function=_status)
    connect.add_parser(
        commands,
        [common],
        _examples(
            "edgectl-agent connect gesture --from folder:/photos?pattern=*.jpg --to -",
            "edgectl-agent connect activity --from 'serial:/dev/ttyUSB0?window=128&step=64' "
            "--to mqtt://localhost/activity",
        ),
    )
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    file: Path | None = options.config
    if file is None and DEFAULT_CONFIG.exists():
        file = DEFAULT_CONFIG
    flags: dict[str, Any] = {key: getattr(options, key, None) for key in _FLAGS}
    if getattr(options, "label", None):
        flags["labels"] = parse_labels(",".join(options.label))
    return load_settings(file=file, environment=os.environ, flags=flags)


def _say_as(options: argparse.Namespace) -> Any:
    def say(line: dict[str, Any]) -> None:
        if options.json:
            print(json.dumps(line), flush=True)
            return
        match line["event"]:
            case "ready":
                text = f"edgectl-agent ready: {line['device']} serves at {line['endpoint']}"
            case "transition":
                text = (
                    f"{line['slot']} {line['version']} ({line['variant']}): "
                    f"{line['before']} -> {line['after']}"
                )
                if "reason" in line:
                    text += f"  [{line['reason']['code']}] {line['reason']['detail']}"
            case "waiting":
                text = (
                    f"{line['device']} waits for approval; its fingerprint is\n"
                    f"  {line['fingerprint']}\n"
                    f"approve it with: edgectl devices approve {line['device']} "
                    f"--fingerprint {line['fingerprint']}"
                )
            case "benchmark":
                text = _benchmark_text(line)
            case "renewed":
                text = f"certificate renewed, until {line['expires_at']}"
            case "refused":
                text = f"order refused [{line['code']}] {line['detail']}"
            case other:
                text = str(other)
        print(text, flush=True)

    return say


def _benchmark_text(line: dict[str, Any]) -> str:
    if "reason" in line:
        return f"benchmark ended [{line['reason']['code']}] {line['reason']['detail']}"
    if "variant" in line:
        return f"benchmark: {line['variant']} {line['verdict']}"
    return "benchmark begins"


def _identity(settings: Settings, disk: RealDisk, say: Any) -> Any:
    """Return the identity, enrolling if there is none yet."""
    from edgectl_agent.enrol import enrol, load_identity
    from edgectl_agent.keyring import Keyring

    identity = load_identity(disk)
    if identity is not None:
        if settings.device and settings.device != identity.device:
            raise UsageError(
                "enrol.other",
                f"this state directory is of {identity.device}, not of {settings.device}",
                hint="give another --state, or the same --device",
            )
        return identity
    token = _read_token(settings)
    if not settings.server:
        raise UsageError(
            "enrol.missing",
            "this device is not enrolled, and server is not given",
            hint="add --server, or EDGECTL_AGENT_SERVER",
        )
    if not token and not settings.authority:
        raise UsageError(
            "enrol.missing",
            "this device is not enrolled, and neither a token nor an authority is given",
            hint="make a token with `edgectl devices token create` and give it as --token-file; or "
            "enrol without one: `edgectl devices authority` shows what to give as --authority",
        )
    device = _device_name(settings)
    identity = enrol(
        disk,
        server=settings.server,
        device=device,
        token=token,
        authority=settings.authority,
        key=settings.key,
        encryption_key=Keyring(settings.key_path, device).public_key(),
        waiting=lambda fingerprint: say(
            {"event": "waiting", "device": device, "fingerprint": fingerprint}
        ),
    )
    say({"event": "enrolled", "device": identity.device, "server": identity.server})
    return identity


def _device_name(settings: Settings) -> str:
    return settings.device or os.uname().nodename.partition(".")[0]


def _read_token(settings: Settings) -> str:
    """Return the token, from wherever it is; empty where there is none."""
    if not settings.token_file:
        return settings.token
    if settings.token_file == "-":  # noqa: S105 - standard input
        if sys.stdin.isatty():
            return getpass.getpass("Enrolment token: ").strip()
        return sys.stdin.readline(_TOKEN_CHARACTERS_MAX).strip()
    try:
        with Path(settings.token_file).expanduser().open(encoding="utf-8") as file:
            return file.read(_TOKEN_CHARACTERS_MAX).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "settings.file",
            f"cannot read the token in {settings.token_file}: {error}",
            hint="write the token into that file, readable by the agent's user only",
        ) from error


def _fingerprint(settings: Settings, options: argparse.Namespace) -> int:
    from edgectl_agent.device_key import load_or_make_key
    from edgectl_protocol.enrolment import format_fingerprint

    disk = RealDisk(settings.state_directory)
    device, fingerprint = (
        _device_name(settings),
        format_fingerprint(load_or_make_key(disk, settings.key).key_id),
    )
    if options.json:
        print(json.dumps({"device": device, "fingerprint": fingerprint}))
    else:
        print(f"{device},{fingerprint}")  # as `edgectl devices preauthorise` reads it
    return 0


def _enrol(settings: Settings, options: argparse.Namespace) -> int:
    say = _say_as(options)
    _identity(settings, RealDisk(settings.state_directory), say)
    return 0


def _run(settings: Settings, options: argparse.Namespace) -> int:
    from edgectl_agent.supervisor import Supervisor

    say = _say_as(options)
    disk = RealDisk(settings.state_directory)
    identity = _identity(settings, disk, say)
    supervisor = Supervisor(settings, identity, disk, say)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        supervisor.request_stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    supervisor.run()
    return 0


def _status(settings: Settings, options: argparse.Namespace) -> int:
    from edgectl_agent.status import read_status

    status = read_status(settings.state_directory)
    if options.json:
        print(json.dumps(status))
        return 0
    print(f"device   {status['device'] or 'not enrolled'}")
    if status["server"]:
        print(f"server   {status['server']}")
    print(f"order    {status['order_counter']}")
    for slot, one in status["slots"].items():
        running = one["running"]
        shown = f"{running['version']} ({running['variant']})" if running else "nothing"
        print(f"slot     {slot}: runs {shown}")
        if one["update"]:
            update = one["update"]
            reason = f"  [{update['reason']['code']}]" if update.get("reason") else ""
            print(f"         update to {update['version']}: {update['state']}{reason}")
    for digest in status["rejected"]:
        print(f"rejected {digest}")
    return 0
