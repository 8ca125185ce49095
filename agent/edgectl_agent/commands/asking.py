"""``edgectl-agent hold``, ``rollback``, ``install``, ``outcome``: what is wanted at the device."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgectl_agent.clock import moment
from edgectl_agent.commands.common import Commands, add_command, print_json, seconds_text
from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import AgentError, Refused, Unreachable, UsageError
from edgectl_agent.hold_file import Held, HoldFile
from edgectl_agent.local_client import INSTALL_S_MAX, ask, is_running, open_file
from edgectl_agent.local_messages import (
    HOLD_S_MAX,
    Hold,
    Install,
    Outcome,
    Release,
    RollBack,
    Status,
)
from edgectl_agent.settings import Settings
from edgectl_protocol.errors import InvalidName
from edgectl_protocol.names import check_model_name, check_variant
from edgectl_protocol.update import ENDED

__all__ = ["add", "parse_duration"]

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(s|min|m|h|d)")
_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_LOOK_S = 0.5
_ENDED_WELL = "committed"
_WAITING = "waiting"


def add(commands: Commands) -> None:
    """Add the commands."""
    hold = add_command(
        commands,
        "hold",
        _hold,
        doing="holding",
        summary="switch no model for a while, or show and end holds",
        examples=(
            "edgectl-agent hold --for 2h --reason 'night shift'",
            "edgectl-agent hold",
            "edgectl-agent hold --show",
            "edgectl-agent hold --off",
        ),
    )
    hold.add_argument(
        "--for",
        dest="duration",
        metavar="TIME",
        help="such as 90s, 30min, 2h, 1d; without it until --off",
    )
    hold.add_argument("--reason", default="", help="for whoever wonders")
    hold.add_argument("--name", help="of the holder; each ends its own (default: person)")
    what = hold.add_mutually_exclusive_group()
    what.add_argument("--off", action="store_true", help="end the hold of --name, or all holds")
    what.add_argument("--show", action="store_true", help="show who holds, and change nothing")
    rollback = add_command(
        commands,
        "rollback",
        _rollback,
        doing="rolling back",
        summary="return to what ran in a slot before",
        examples=("edgectl-agent rollback vision", "edgectl-agent rollback vision --no-wait"),
    )
    rollback.add_argument("slot", help="name of the slot: edgectl-agent models shows them")
    _add_wait(rollback)
    install = add_command(
        commands,
        "install",
        _install,
        doing="installing a file",
        summary="install a version from a file that `edgectl export` wrote, without a network",
        examples=(
            "edgectl-agent install /media/stick/har.oci",
            "edgectl-agent install har.oci --variant int8 --slot activity",
        ),
    )
    install.add_argument("file", type=Path, metavar="FILE")
    install.add_argument("--variant", help="this one; otherwise the first that passes its trial")
    install.add_argument("--slot", help="where to (default: the slot with the model's name)")
    _add_wait(install)
    outcome = add_command(
        commands,
        "outcome",
        _outcome,
        doing="telling an outcome",
        summary="tell the server what a request to a model has turned out to be of",
        examples=(
            "edgectl-agent outcome har order-7 walking",
            "edgectl-agent outcome har batch-3:12 running",
            "edgectl-agent outcome har --from mqtt://localhost/har/truth",
        ),
    )
    outcome.add_argument("slot", help="name of the slot: edgectl-agent models shows them")
    outcome.add_argument(
        "request", metavar="ID", nargs="?", help="of the request; ID:ROW of one with many rows"
    )
    outcome.add_argument("class_name", metavar="CLASS", nargs="?", help="name of what it was")
    outcome.add_argument(
        "--from",
        dest="source",
        metavar="TOPIC",
        help="tell what comes on a topic of the site's broker until SIGTERM: "
        'messages {"request": "…", "label": "…"}',
    )


def parse_duration(text: str) -> float:
    """Return seconds; raise `UsageError` for what is none, or too long."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0 < seconds <= HOLD_S_MAX:
        raise UsageError(
            "hold.duration",
            f"{text!r} is not a time, or longer than {HOLD_S_MAX / 86400:g} days",
            hint="write it like 90s, 30min, 2h or 1d; leave --for out to hold until --off",
        )
    return seconds


def _add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-wait", action="store_true", help="return when it has begun, not when it has ended"
    )


def _hold(settings: Settings, options: argparse.Namespace) -> int:
    request: Hold | Release | Status
    if options.show:
        request = Status()
    elif options.off:
        request = Release(name=options.name)
    else:
        seconds = None if options.duration is None else parse_duration(options.duration)
        name = options.name or "person"
        request = Hold(name=name, reason=options.reason[:256], for_s=seconds)
    try:
        data = ask(settings.control_path, request)
        holds = data["holds"]
    except Unreachable:
        holds = _hold_on_disk(settings, request)
    if options.json:
        print_json({"holds": holds})
        return 0
    if not holds:
        print("nobody holds: models are switched when there is something new")
    for name, held in holds.items():
        left = "until it is ended" if held["left_s"] is None else seconds_text(held["left_s"])
        print(f"{name} holds: {left}" + (f", {held['reason']}" if held["reason"] else ""))
    return 0


def _hold_on_disk(settings: Settings, request: Hold | Release | Status) -> dict[str, Any]:
    """Do it without an agent: the file is the truth, and the agent reads it when it starts."""
    if not settings.state_directory.is_dir():
        raise Refused(
            "state.missing", f"{settings.state_directory} is not there", hint="give --state"
        )
    file, at = HoldFile(RealDisk(settings.state_directory)), moment()
    file.look(at)
    match request:
        case Hold(name=name, reason=reason, for_s=for_s):
            file.put(name, Held(reason=reason, for_s=for_s), at)
        case Release(name=name):
            file.remove(name, at)
    return file.shown(at)


def _rollback(settings: Settings, options: argparse.Namespace) -> int:
    slot = _name(check_model_name, options.slot)
    ask(settings.control_path, RollBack(slot=slot))
    return _follow(settings, options, slot, ends={"rolled-back"})


def _install(settings: Settings, options: argparse.Namespace) -> int:
    request = Install(
        name=options.file.name[-256:],
        slot=None if options.slot is None else _name(check_model_name, options.slot),
        variant=None if options.variant is None else _name(check_variant, options.variant),
    )
    file = open_file(options.file)
    try:
        if not is_running(settings.control_path):
            raise Unreachable(
                "agent.down",
                f"no agent answers at {settings.control_path}, and only a running agent installs",
                hint="start it: `systemctl start edgectl-agent`, or `edgectl-agent run`; "
                "it works without a network too",
            )
        data = ask(settings.control_path, request, file=file, timeout_s=INSTALL_S_MAX)
    finally:
        os.close(file)
    return _follow(settings, options, data["slot"], ends={_ENDED_WELL})


def _outcome(settings: Settings, options: argparse.Namespace) -> int:
    if (options.source is None) != (options.class_name is not None) or (
        options.source is not None and options.request is not None
    ):
        raise UsageError(
            "outcome.value",
            "give ID and CLASS, or --from with a topic",
            hint="edgectl-agent outcome -h",
        )
    if options.source is not None:
        return _listen(settings, options)
    wanted = {"slot": options.slot, "name": options.request, "label": options.class_name}
    try:
        request = msgspec.convert(wanted | {"request": "outcome"}, Outcome)
    except msgspec.ValidationError as error:
        raise UsageError(
            "outcome.value", f"no outcome of a request: {error}", hint="edgectl-agent outcome -h"
        ) from error
    ask(settings.control_path, request)
    if options.json:
        print_json({"told": wanted})
    else:
        print(
            f"{options.request} of {options.slot} was {options.class_name}: the server will be told"
        )
    return 0


def _listen(settings: Settings, options: argparse.Namespace) -> int:
    """Tell what comes on a topic until a signal comes; counts go to standard error."""
    from edgectl_agent.flows.outcomes import Listening
    from edgectl_agent.flows.sources import open_source
    from edgectl_agent.sdk import tell_outcome

    slot = _name(check_model_name, options.slot)
    if not options.source.startswith(("mqtt:", "mqtts:")):
        raise UsageError(
            "flow.address", f"{options.source!r} is no topic", hint="such as mqtt://localhost/truth"
        )
    listening = Listening(
        open_source(options.source, tuple),
        lambda request, label: tell_outcome(slot, request, label, socket=settings.control_path),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: listening.stop())
    counts = msgspec.structs.asdict(listening.run())
    if options.json:
        print(json.dumps(counts), file=sys.stderr)
    else:
        shown = ", ".join(f"{name} {value}" for name, value in counts.items())
        logging.getLogger(__name__).info("%s", shown)
    return 0


def _name(check: Callable[[str], str], text: str) -> str:
    try:
        return check(text)
    except InvalidName as error:
        raise UsageError("settings.value", str(error), hint="edgectl-agent models") from error


def _follow(settings: Settings, options: argparse.Namespace, slot: str, *, ends: set[str]) -> int:
    """Say how the update of a slot goes on until it has ended; return the exit code."""
    if options.no_wait:
        if options.json:
            print_json({"slot": slot, "begun": True})
        else:
            print(f"{slot}: begun; edgectl-agent status shows how it goes on")
        return 0
    said = ""
    while True:
        try:
            slots = ask(settings.control_path, Status())["slots"]
        except AgentError as error:
            raise Unreachable(
                "agent.down",
                f"the agent has ended meanwhile: {error.detail}",
                hint="it goes on where it was when it starts again: edgectl-agent status",
            ) from error
        update = slots.get(slot, {}).get("update") or {}
        said = _say_once(options, slot, update, said)
        state = update.get("state", "")
        if state == _WAITING:
            return 0  # for the end of a hold, perhaps: that may be tomorrow
        if state in {one.value for one in ENDED} and not _goes_on(update):
            return 0 if state in ends else 1
        time.sleep(_LOOK_S)


def _goes_on(update: dict[str, Any]) -> bool:
    """Say whether an ended update is about to be tried again."""
    return update.get("state") == "failed" and update.get("attempt", 0) < 2  # noqa: PLR2004


def _say_once(options: argparse.Namespace, slot: str, update: dict[str, Any], said: str) -> str:
    """Print where the update is, unless that was `said` already; return what is said now."""
    now = msgspec.json.encode([update.get("state"), update.get("reason"), update.get("version")])
    line = now.decode()
    if line == said or not update:
        return said
    if options.json:
        print_json({"slot": slot, "update": update})
    else:
        reason = update.get("reason")
        text = f"{slot} {update['version']} ({update['variant']}): {update['state']}"
        print(text + (f"  [{reason['code']}] {reason['detail']}" if reason else ""), flush=True)
    return line
