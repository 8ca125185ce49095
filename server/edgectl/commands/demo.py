"""``edgectl demo``: from push to prediction on one machine."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
import msgspec
from rich.console import Console

from edgectl.commands.server import missing_packages
from edgectl.errors import EdgectlError, LocalError
from edgectl.output import consoles, print_json
from edgectl.session import examples

if TYPE_CHECKING:
    from edgectl.demo.loop import Result
    from edgectl.demo.processes import Processes

__all__ = ["demo"]

_NEEDED = (
    "fastapi",
    "httptools",
    "mqtt5",
    "numpy",
    "onnx",
    "onnxruntime",
    "paho",
    "sqlalchemy",
    "tuf",
    "uvicorn",
)


@click.command(
    short_help="Show the whole loop on this machine.",
    epilog=examples(
        "edgectl demo",
        "edgectl demo loop --exit",
        "edgectl demo --devices 5 --broker mosquitto",
        "edgectl demo --exit --json",
    ),
)
@click.argument("story", type=click.Choice(["first", "loop"]), default="first")
@click.option("--exit", "leave", is_flag=True, help="Stop everything once it has been shown.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout at the end.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("edgectl-demo"),
    show_default=True,
    help="Folder for everything that it keeps.",
)
@click.option("--keep", is_flag=True, help="Go on with the folder of the last run.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the server; 0: any.")
@click.option("--devices", type=click.IntRange(1, 32), default=3, show_default=True)
@click.option(
    "--broker",
    type=click.Choice(["embedded", "mosquitto"]),
    default="embedded",
    show_default=True,
    help="MQTT broker; mosquitto must be installed.",
)
def demo(
    story: str,
    data: Path,
    port: int,
    devices: int,
    broker: str,
    *,
    leave: bool,
    as_json: bool,
    keep: bool,
) -> None:
    """Show the whole loop on this machine, with real processes, a real model and real data.

    Starts a server and devices, pushes a model that recognises what people do from their phone's
    accelerometer, rolls it out, asks a device for predictions, reads its telemetry. Stays until
    Ctrl-C, which stops every process and leaves the data folder.

    The story `loop` goes on from there: people wear the devices, some turn theirs in the holder,
    and the fleet notices, collects, learns and rolls out by itself; some minutes, 5 devices.
    """
    missing = missing_packages(_NEEDED)
    if missing:
        raise LocalError(
            "demo.not_installed",
            f"the demo runs a server and devices, and lacks {', '.join(missing)}",
            "pip install 'edgectl[server,agent]'",
        )
    from edgectl.demo.folder import open_folder
    from edgectl.demo.learning import DEVICES, Learning
    from edgectl.demo.loop import DemoOptions, Loop
    from edgectl.demo.processes import Processes

    output, errors = consoles()
    console = errors if as_json else output
    with open_folder(data, keep=keep) as folder, Processes(folder / "logs") as processes:
        options = DemoOptions(data=folder, devices=devices, port=port, broker=broker, keep=keep)
        if story == "loop":
            options = msgspec.structs.replace(options, devices=max(devices, DEVICES))
        loop = (Learning if story == "loop" else Loop)(options, processes, console)
        try:
            result = loop.run()
        except EdgectlError as error:
            _fail(error, loop.result, as_json=as_json)
        if as_json:
            print_json({key: value for key, value in _fields(result).items() if key != "stage"})
        if leave:
            return
        console.print()
        password_file = _from_here(Path(result.password_file))
        login = f"{_program()} login {result.url} --username {result.user} --password-stdin"
        # Not folded at the terminal's width: these lines are copied.
        console.print(f"Open {result.url}", soft_wrap=True)
        console.print(f"User {result.user}, password in {password_file}", soft_wrap=True)
        console.print(f"Or: {login} < {password_file}", soft_wrap=True)
        _stay(processes, console)
        console.print(f"\nstopping; the data stays in {_from_here(folder)}", soft_wrap=True)


def _fail(error: EdgectlError, result: Result, *, as_json: bool) -> NoReturn:
    if as_json:
        print_json(
            {
                "error": {
                    "code": error.code,
                    "detail": error.detail,
                    "hint": error.hint,
                    "stage": result.stage,
                    "data": error.data,
                },
                "so_far": _fields(result),
            }
        )
    raise error


def _fields(result: Result) -> dict[str, object]:
    return {name: getattr(result, name) for name in result.__struct_fields__}


def _from_here(path: Path) -> str:
    """Return `path` relative to the working directory where it lies beneath it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _program() -> str:
    """Return how this program can be called again, on the PATH or not."""
    called = Path(sys.argv[0])
    if called.name != "edgectl" or shutil.which("edgectl") == str(called):
        return "edgectl"
    return _from_here(called.absolute())


def _stay(processes: Processes, console: Console) -> None:
    try:
        console.print("Ctrl-C stops everything.")  # from its first moment on
        while True:
            processes.check()
            time.sleep(0.5)
    except KeyboardInterrupt:
        return
