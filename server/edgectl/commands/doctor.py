"""``edgectl doctor``: what works between here and the devices, line by line.

Each check ends ok, warn or fail, and says the next step unless it is ok. Checks that need an answer
of the server are left out when there is none.
"""

from __future__ import annotations

import platform
import stat
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version

import click
import msgspec
from rich.text import Text

from edgectl.client import Client
from edgectl.clock import now
from edgectl.errors import EdgectlError, ServerUnreachable
from edgectl.output import consoles, plain, print_json, state_text, table
from edgectl.session import Session, examples, json_option, pass_session
from edgectl_protocol import __version__

__all__ = ["Check", "doctor"]

_SKEW_S_WARN = 30.0
_SKEW_S_FAIL = 300.0


class Check(msgspec.Struct, frozen=True):
    """The outcome of one check."""

    name: str
    status: str
    """``ok``, ``warn`` or ``fail``."""
    detail: str
    next: str = ""


@click.command(
    short_help="Check everything that an operator needs.",
    epilog=examples("edgectl doctor", "edgectl doctor --json"),
)
@json_option
@pass_session
def doctor(session: Session, *, as_json: bool) -> None:
    """Check everything that an operator needs, and say what to do about it.

    The exit code is 0 when nothing fails, 1 when something does, 3 when the server is unreachable.
    """
    checks = [*_local_checks(session)]
    reached = True
    with Client(session.address(), timeout_s=5.0, authority=session.authority()) as client:
        answer = _server(client)
        checks.append(answer)
        reached = answer.status != "fail"
        if reached:
            checks += [_clock(client), *_ready(client)]
    if reached:
        checks += _account(session)
    if as_json:
        print_json(checks)
    else:
        rows: list[tuple[Text | str, str, str]] = []
        for check in checks:
            rows.append((state_text(check.status), plain(check.name), plain(check.detail)))
            if check.next:
                rows.append(("", "", f"try: {plain(check.next)}"))
        consoles()[0].print(table(["", "CHECK", "FOUND"], rows))
    if not reached:
        click.get_current_context().exit(ServerUnreachable.exit_code)
    if any(check.status == "fail" for check in checks):
        click.get_current_context().exit(EdgectlError.exit_code)


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except EdgectlError as error:
        return Check(name, "fail", f"{error.code}: {error.detail}", error.hint)


# ---------------------------------------------------------------- here


def _local_checks(session: Session) -> Iterator[Check]:
    yield Check("edgectl", "ok", f"{__version__}, Python {platform.python_version()}")
    yield _guarded("configuration", lambda: _configuration(session))
    yield _package("onnxruntime", "only servers and devices need it")


def _configuration(session: Session) -> Check:
    path = session.config_file
    if not path.exists():
        return Check("configuration", "ok", f"none yet at {path}")
    session.config()
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Check("configuration", "warn", f"{path} may be read by others", f"chmod 600 {path}")
    return Check("configuration", "ok", str(path))


def _package(name: str, otherwise: str) -> Check:
    try:
        return Check(name, "ok", version(name))
    except PackageNotFoundError:
        return Check(name, "ok", f"not installed: {otherwise}")


# ---------------------------------------------------------------- there


def _server(client: Client) -> Check:
    def check() -> Check:
        found = client.version()
        if found.version != __version__:
            return Check(
                "server",
                "warn",
                f"{client.url} has version {found.version}, this edgectl {__version__}",
                f"pip install 'edgectl=={found.version}'",
            )
        return Check("server", "ok", f"{client.url}, version {found.version}")

    return _guarded("server", check)


def _clock(client: Client) -> Check:
    def check() -> Check:
        header = client.date()
        try:
            skew_s = (parsedate_to_datetime(header) - now()).total_seconds()
        except ValueError:
            return Check("clock", "warn", f"the server sends no usable date: {header!r}")
        status = "ok"
        if abs(skew_s) > _SKEW_S_WARN:
            status = "fail" if abs(skew_s) > _SKEW_S_FAIL else "warn"
        step = "" if status == "ok" else "set the clocks by NTP: signatures and tokens expire"
        # The header has whole seconds, so that less than one is no difference.
        return Check("clock", status, f"server differs by {max(abs(skew_s) - 1, 0):.0f} s", step)

    return _guarded("clock", check)


def _ready(client: Client) -> list[Check]:
    try:
        ready = client.ready()
    except EdgectlError as error:
        return [Check("ready", "fail", f"{error.code}: {error.detail}", error.hint)]
    return [
        Check(name, "ok", "ok")
        if found == "ok"
        else Check(name, "fail", found, "look into the server's log")
        for name, found in sorted(ready.checks.items())
    ]


def _account(session: Session) -> list[Check]:
    try:
        with session.connect() as client:
            me = client.me()
            login = Check("login", "ok", f"{me.user}, {me.role}")
            checks = [login, _guarded("devices", lambda: _devices(client))]
            return checks + _trust(client)
    except EdgectlError as error:
        return [Check("login", "fail", f"{error.code}: {error.detail}", error.hint)]


def _trust(client: Client) -> list[Check]:
    try:
        found = client.trust()
    except EdgectlError as error:
        return [Check("trust", "fail", f"{error.code}: {error.detail}", error.hint)]
    if not found.alerts:
        return [Check("trust", "ok", f"{len(found.roles)} roles, nothing ends soon")]
    status = {"critical": "fail"}
    return [
        Check(one.code, status.get(one.severity, "warn"), one.detail, one.hint)
        for one in found.alerts
    ]


def _devices(client: Client) -> Check:
    fleet = client.fleet()
    detail = f"{fleet.online} of {fleet.devices} online, {fleet.failing} failing"
    if fleet.devices == 0:
        return Check("devices", "ok", "none yet", "edgectl devices token create")
    if fleet.failing:
        return Check("devices", "warn", detail, "edgectl devices list --failing")
    if fleet.online < fleet.devices:
        return Check("devices", "warn", detail, "edgectl devices list --offline")
    return Check("devices", "ok", detail)
