"""``edgectl-agent gateway`` and ``board``: a microcontroller on a serial line of this device."""

from __future__ import annotations

import argparse
import os
import signal
import struct
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from edgectl_agent.commands.common import Commands, add_command, print_json
from edgectl_agent.commands.identity import add_identity, enrolled_identity, say_as, telling
from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import Refused, UsageError
from edgectl_agent.service_manager import ServiceManager
from edgectl_agent.settings import Settings

if TYPE_CHECKING:
    from edgectl_agent.gateway.board import Board
    from edgectl_agent.gateway.port import SerialPort

__all__ = ["add"]

_PATIENCE = (0.1, 1000.0)
_VALUES_BYTES_MAX = 1024 * 1024


def add(commands: Commands) -> None:
    """Add the commands."""
    gateway = add_command(
        commands,
        "gateway",
        _gateway,
        doing="starting the gateway",
        summary="be the agent of a microcontroller on a serial line, until stopped",
        examples=(
            "edgectl-agent gateway --port /dev/ttyAMA0 --state pico-1 --token-file token",
            "edgectl-agent gateway --port /dev/ttyACM0 --state pico-1",
        ),
    )
    add_identity(gateway)
    _add_port(gateway)
    gateway.add_argument(
        "--label", action="append", dest="label", metavar="NAME=VALUE", help="may be repeated"
    )
    board = add_command(
        commands,
        "board",
        _board,
        doing="asking the board",
        summary="show what a microcontroller on a serial line runs, or have it compute; "
        "while no gateway has the port",
        examples=(
            "edgectl-agent board --port /dev/ttyAMA0",
            "edgectl-agent board --port /dev/ttyAMA0 --infer input.i8 > output.i8",
        ),
    )
    _add_port(board)
    board.add_argument(
        "--infer",
        metavar="FILE",
        type=Path,
        help="int8 values of the model's input, as they are; the output's go to standard output",
    )


def _add_port(parser: argparse.ArgumentParser) -> None:
    # `port` is a setting of the inference endpoint.
    parser.add_argument(
        "--port", dest="line", required=True, metavar="PORT", help="such as /dev/ttyAMA0"
    )
    parser.add_argument(
        "--baud", type=int, default=115200, help="bits per second (default: 115200)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="wait so many times longer for answers, for slow boards (default: 1)",
    )


def _port(options: argparse.Namespace) -> SerialPort:
    from edgectl_agent.gateway.port import SerialPort

    low, high = _PATIENCE
    if not low <= options.patience <= high:
        raise UsageError(
            "settings.value", f"--patience is {low:g} to {high:g}", hint="--patience 10"
        )
    return SerialPort(Path(options.line), options.baud)


def _gateway(settings: Settings, options: argparse.Namespace) -> int:
    if not options.state:
        raise UsageError(
            "gateway.state",
            "a gateway needs a state directory for its board alone",
            hint="--state /var/lib/edgectl-gateway/NAME; this device's own agent has another",
        )
    port = _port(options)
    manager = ServiceManager(os.environ)
    say = telling(manager, say_as(options))
    disk = RealDisk(settings.state_directory)
    identity = enrolled_identity(settings, disk, say, manager.pause)
    from edgectl_agent.gateway.service import Gateway

    gateway = Gateway(
        settings,
        identity,
        disk,
        say,
        port=port,
        patience=options.patience,
        alive=manager.alive,
    )

    def stop(_signal: int, _frame: FrameType | None) -> None:
        manager.stopping()
        gateway.request_stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    gateway.run()
    return 0


def _board(_settings: Settings, options: argparse.Namespace) -> int:
    from edgectl_agent.gateway.board import Board

    port = _port(options)
    board = Board(port, patience=options.patience)
    try:
        if options.infer is not None:
            return _infer(board, options)
        hello = board.hello()
    finally:
        port.close()
    shown = {
        "board": hello.board,
        "model": hello.model,
        "counter": hello.counter,
        "on_trial": hello.on_trial,
        "floor": hello.floor,
        "slot_bytes": hello.slot_bytes,
        "arena_bytes": hello.arena_bytes,
        "input_bytes": hello.input_bytes,
        "output_bytes": hello.output_bytes,
        "dropped": hello.dropped,
    }
    if options.json:
        print_json(shown)
        return 0
    for name, value in shown.items():
        print(f"{name.replace('_', ' ')}: {value}")
    return 0


def _infer(board: Board, options: argparse.Namespace) -> int:
    path: Path = options.infer
    try:
        with path.open("rb") as file:
            values = file.read(_VALUES_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(
            "settings.file", f"cannot read {path}: {error.strerror}", hint="check --infer"
        ) from error
    if len(values) > _VALUES_BYTES_MAX:
        raise Refused("board.input", f"more than {_VALUES_BYTES_MAX} values", hint="check --infer")
    output, microseconds = board.infer(values)
    if options.json:
        print_json(
            {
                "output": list(struct.unpack(f"{len(output)}b", output)),
                "microseconds": microseconds,
            }
        )
        return 0
    sys.stdout.buffer.write(output)
    return 0
