"""``edgectl-agent enrol``, ``run`` and ``fingerprint``."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from edgectl_agent.commands.common import Commands, add_command
from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import UsageError
from edgectl_agent.service_manager import ServiceManager
from edgectl_agent.settings import Settings

__all__ = [
    "add",
    "add_identity",
    "device_name",
    "enrolled_identity",
    "read_token",
    "say_as",
    "telling",
]

_TOKEN_CHARACTERS_MAX = 256


def add(commands: Commands) -> None:
    """Add the commands."""
    enrol = add_command(
        commands,
        "enrol",
        _enrol,
        doing="enrolling this device",
        summary="get an identity from the server",
        examples=(
            "edgectl-agent enrol --server http://192.0.2.10:8080 --token-file -",
            "edgectl-agent enrol --server http://192.0.2.10:8080 --authority sha256:…",
        ),
    )
    add_identity(enrol)
    run = add_command(
        commands,
        "run",
        _run,
        doing="starting the agent",
        summary="enrol if needed, then work until stopped",
        examples=(
            "edgectl-agent run --server http://192.0.2.10:8080 --device pi-1 --token-file token",
            "edgectl-agent run --state ./state --port 0 --label site=north",
        ),
    )
    add_identity(run)
    run.add_argument("--host", help="address of the inference endpoint")
    run.add_argument("--port", type=int, help="port of the inference endpoint, 0 for a free one")
    run.add_argument("--socket", help="Unix socket of the inference endpoint")
    run.add_argument(
        "--label", action="append", dest="label", metavar="NAME=VALUE", help="may be repeated"
    )
    run.add_argument(
        "--telemetry-s", type=float, dest="telemetry_s", help="seconds between two batches"
    )
    fingerprint = add_command(
        commands,
        "fingerprint",
        _fingerprint,
        doing="reading the key of this device",
        summary="show the fingerprint of this device's key, which is made if there is none",
        examples=(
            "edgectl-agent fingerprint --device pi-1",
            "edgectl-agent fingerprint --device pi-1 >> devices.csv",
        ),
    )
    fingerprint.add_argument("--device", help="name of this device (default: its host name)")


def add_identity(parser: argparse.ArgumentParser) -> None:
    """Add the options that say who a new device is, and where it belongs."""
    parser.add_argument("--server", help="address of the server, such as http://host:8080")
    parser.add_argument("--device", help="name of this device (default: its host name)")
    parser.add_argument(
        "--token-file",
        dest="token_file",
        metavar="FILE",
        help="file with the enrolment token, needed once; - asks for it, or reads standard input "
        "(or the environment: EDGECTL_AGENT_TOKEN)",
    )
    parser.add_argument(
        "--authority",
        metavar="FINGERPRINT",
        help="fingerprint of the server's authority; needed to enrol without a token",
    )


def say_as(options: argparse.Namespace) -> Any:
    """Return what prints what happens, as text or as JSON."""

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
            case "board":
                runs = f"runs {line['model']}, counter {line['counter']}"
                text = f"board {line['board']} {runs if line['counter'] else 'runs no model yet'}"
            case "board-silent":
                text = "the board does not answer: is it powered, and are RX and TX crossed?"
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


def telling(manager: ServiceManager, say: Any) -> Any:
    """Return `say`, with what the manager of services is to know told to it as well."""

    def tell(line: dict[str, Any]) -> None:
        say(line)
        match line["event"]:
            case "waiting":  # for a person, perhaps for days: no start takes that long
                manager.ready(f"waits for approval; its fingerprint is {line['fingerprint']}")
            case "ready":
                manager.ready(f"serves at {line['endpoint']}, not connected yet")
            case "connected" | "disconnected" as link:
                manager.status(link)

    return tell


def enrolled_identity(settings: Settings, disk: RealDisk, say: Any, pause: Any = time.sleep) -> Any:
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
    token = read_token(settings)
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
    device = device_name(settings)
    identity = enrol(
        disk,
        server=settings.server,
        device=device,
        token=token,
        authority=settings.authority,
        key=settings.key,
        encryption_key=Keyring(settings.key_path, device).public_key(),
        server_ca=settings.server_ca,
        waiting=lambda fingerprint: say(
            {"event": "waiting", "device": device, "fingerprint": fingerprint}
        ),
        pause=pause,
    )
    say({"event": "enrolled", "device": identity.device, "server": identity.server})
    return identity


def device_name(settings: Settings) -> str:
    """Return the name that this device enrols under."""
    return settings.device or os.uname().nodename.partition(".")[0]


def read_token(settings: Settings) -> str:
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
        device_name(settings),
        format_fingerprint(load_or_make_key(disk, settings.key).key_id),
    )
    if options.json:
        print(json.dumps({"device": device, "fingerprint": fingerprint}))
    else:
        print(f"{device},{fingerprint}")  # as `edgectl devices preauthorise` reads it
    return 0


def _enrol(settings: Settings, options: argparse.Namespace) -> int:
    say = say_as(options)
    enrolled_identity(settings, RealDisk(settings.state_directory), say)
    return 0


def _run(settings: Settings, options: argparse.Namespace) -> int:
    from edgectl_agent.enrol import load_identity

    manager = ServiceManager(os.environ)
    say = telling(manager, say_as(options))
    disk = RealDisk(settings.state_directory)
    enrolled = load_identity(disk) is not None
    identity = enrolled_identity(settings, disk, say, manager.pause)
    if not enrolled:  # begin anew: what enrolling has loaded, some 10 MB, would be kept for years
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves
    from edgectl_agent.kept_listener import kept_listener
    from edgectl_agent.supervisor import Supervisor

    listener = kept_listener(
        manager, settings.host, settings.port, backlog=settings.endpoint_connections_max
    )
    supervisor = Supervisor(settings, identity, disk, say, alive=manager.alive, listener=listener)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        manager.stopping()
        supervisor.request_stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    supervisor.run()
    return 0
