"""``edgectl simulate``: a fleet that is not there.

The CLI speaks HTTP and imports nothing that simulates; it asks for an enrolment token where devices
are new, and is replaced by ``python -m edgectl_simulator``, which reads what to do on its standard
input.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from edgectl.commands.server import missing_packages
from edgectl.durations import Duration
from edgectl.errors import LocalError, doing
from edgectl.session import GROUP, Session, examples, json_option, pass_session

__all__ = ["simulate"]

_NEEDED = ("edgectl_simulator", "cryptography", "mqtt5")
_TOKEN_S = 3600
_TOKEN_CHARACTERS_MAX = 256


@click.command(
    epilog=examples(
        "edgectl simulate --devices 100",
        "edgectl simulate --devices 1000 --profile flaky --duration 10m",
        "edgectl simulate --devices 50 --download 0.1 --folder fleets/porto --prefix porto",
    )
)
@click.option(
    "--devices",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="How many; the server's broker must take as many connections.",
)
@click.option(
    "--profile",
    default="steady",
    show_default=True,
    metavar="NAME",
    help="What is wrong: steady, flaky, slow, failing, flapping, wrong-clock, or one of FILE.",
)
@click.option(
    "--profiles",
    "profiles_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file with profiles of your own.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=1,
    show_default=True,
    help="By which chance is drawn: the same seed gives the same devices the same faults.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("edgectl-simulated"),
    show_default=True,
    help="Keeps who they are: the next run with it is the same fleet.",
)
@click.option(
    "--prefix",
    default="sim",
    show_default=True,
    metavar="TEXT",
    help="They are called TEXT-00001 and so on.",
)
@click.option(
    "--group",
    type=GROUP,
    default="simulated",
    show_default=True,
    help="Into which they enrol.",
)
@click.option(
    "--connect-rate",
    type=click.FloatRange(0.1, 10_000),
    default=100.0,
    show_default=True,
    help="Connections that are begun in a second, at most.",
)
@click.option(
    "--download",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of the devices that fetch models byte for byte; the others only say so.",
)
@click.option(
    "--duration",
    type=Duration(1, 30 * 86400),
    default=None,
    help="Such as 90s, 10m, 24h. Default: until Ctrl-C.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with an enrolment token, instead of one that your login makes.",
)
@json_option
@pass_session
def simulate(
    session: Session,
    /,
    *,
    token_file: Path | None,
    duration: int | None,
    group: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Simulate devices that speak the real protocol to the server.

    They enrol, connect, send telemetry and answer orders with the events of an update, signed and
    checked as on real devices; they run no models. Use a server that is there for trying out: what
    they report is drawn, and is kept like what real devices say. How it goes is said on standard
    error, the sum is printed at the end; Ctrl-C ends it in good order. docs/simulation.md has more.
    """
    missing = missing_packages(_NEEDED)
    if missing:
        raise LocalError(
            "simulate.not_installed",
            f"the simulator is not installed here: {', '.join(missing)} missing",
            "pip install 'edgectl[simulator]'",
        )
    token = _read_token(token_file) if token_file else ""
    fresh = given["devices"] - _enrolled(given["folder"], given["prefix"], given["devices"])
    if fresh and not token:
        with session.connect() as client, doing("making a token for the simulated devices"):
            token = client.create_enrol_token(uses=fresh, expires_in_s=_TOKEN_S, group=group).token
    plan = {
        **{name: str(one) if isinstance(one, Path) else one for name, one in given.items()},
        "profiles_file": str(given["profiles_file"] or ""),
        "server": session.address(),
        "token": token,
        "duration_s": float(duration or 0),
        "as_json": as_json,
    }
    _become(msgspec.json.encode(plan))


def _enrolled(folder: Path, prefix: str, devices: int) -> int:
    """Return how many of the devices have enrolled before."""
    names = {f"{prefix}-{number:05}" for number in range(1, devices + 1)}
    return len(names & {one.stem for one in (folder / "devices").glob("*.pem")})


def _read_token(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.readline(_TOKEN_CHARACTERS_MAX).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError("simulate.token", f"cannot read {file}: {error}") from error


def _become(plan: bytes) -> None:
    """Hand the plan over by a pipe, which holds it whole; no token is seen among the processes."""
    reading, writing = os.pipe()
    os.write(writing, plan)
    os.close(writing)
    os.dup2(reading, 0)
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: a module in the working directory must not stand in for one of ours.
    command = [sys.executable, "-P", "-m", "edgectl_simulator"]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is the point
