"""``python -m edgectl_server``, which ``edgectl server`` becomes.

Every setting is an option of ``start``; see `edgectl_server.settings` for where else it is looked
up. Errors read ``error[code]: …`` and ``try: …``. Exit codes: 0 done, 1 refused or failed, 2 usage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import click
import msgspec
import sqlalchemy

from edgectl_server.errors import NotFound, Refused, ServerError
from edgectl_server.settings import Settings, load_settings

if TYPE_CHECKING:
    from edgectl_server.converters.environments import Environments

__all__ = ["main"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False)
_PORT = click.IntRange(1, 65535)
_SHORT = {"listen_host": "--host", "listen_port": "--port"}


def _setting_options(command: _Command) -> _Command:
    """Give a command an option for every setting, and one for the file."""
    for field in reversed(msgspec.structs.fields(Settings)):
        kind = (get_args(field.type) or (field.type,))[0]
        if get_origin(field.type) is Literal:
            kind = click.Choice(get_args(field.type))
        names = [f"--{field.name.replace('_', '-')}"]
        if field.name in _SHORT:
            names.append(_SHORT[field.name])
        shown = "empty" if field.default == "" else field.default
        command = click.option(
            *names, field.name, type=kind, default=None, help=f"Default: {shown}."
        )(command)
    return click.option(
        "--config",
        "config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="A TOML file; docs/server.toml shows every key.",
    )(command)


def _log(settings: Settings) -> None:
    logging.basicConfig(
        level=settings.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for chatty in ("alembic", "uvicorn"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))


def _data_options(command: _Command) -> _Command:
    """Give a command what it takes to find and open the data folder."""
    for option in (
        click.option("--key-passphrase-file", help="File whose first line decrypts the keys."),
        click.option("--data", help="The data folder. Default: edgectl-data."),
        click.option("--config", type=_FILE, help="A TOML file; docs/server.toml shows every key."),
    ):
        command = option(command)
    return command


def _check_data(settings: Settings) -> None:
    if not settings.data_path.is_dir():
        raise NotFound(
            "server.data",
            f"there is no server in {settings.data_path}",
            hint="name its folder with --data, or start it once",
        )


def _examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


@click.group(
    epilog=_examples(
        "edgectl server start",
        "edgectl server settings --data /var/lib/edgectl",
        "edgectl server user ana --role operator",
    )
)
@click.version_option(package_name="edgectl", prog_name="edgectl server")
def main() -> None:
    """The edgectl server."""


@main.command(
    epilog=_examples(
        "edgectl server start",
        "edgectl server start --data /var/lib/edgectl --config /etc/edgectl/server.toml",
        "edgectl server start --host 0.0.0.0 --tls own --broker-host 0.0.0.0 "
        "--broker-public-host 192.0.2.10",
    )
)
@_setting_options
@click.option("--json", "as_json", is_flag=True, help="Print the ready line as JSON.")
def start(config: Path | None, as_json: bool, **flags: Any) -> None:
    """Run the server until SIGTERM or Ctrl-C."""
    with _errors(as_json=as_json):
        settings = load_settings(flags, os.environ, config)
        _log(settings)
        from edgectl_server.running import run_server

        run_server(settings, as_json=as_json)


@main.command(
    epilog=_examples(
        "edgectl server worker --data /var/lib/edgectl-worker "
        "--database-url postgresql+psycopg://edgectl@db/edgectl --blobs-url s3://models/edgectl",
    )
)
@_setting_options
@click.option("--json", "as_json", is_flag=True, help="Print the ready line as JSON.")
def worker(config: Path | None, as_json: bool, **flags: Any) -> None:
    """Make trials for the server on another machine, until SIGTERM or Ctrl-C.

    A push divides its recipes among the server and all workers. Database and blob store are the
    server's, the data folder is the worker's own; it needs no keys and no broker.
    """
    with _errors(as_json=as_json):
        settings = load_settings(flags, os.environ, config)
        _log(settings)
        from edgectl_server.worker import run_worker

        run_worker(settings, as_json=as_json)


@main.command(
    "settings", epilog=_examples("edgectl server settings --config /etc/edgectl/server.toml")
)
@_setting_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_settings(config: Path | None, as_json: bool, **flags: Any) -> None:
    """Print what `start` would use, passwords hidden."""
    with _errors(as_json=as_json):
        values = msgspec.to_builtins(load_settings(flags, os.environ, config))
        if values["database_url"]:
            values["database_url"] = sqlalchemy.make_url(values["database_url"]).render_as_string()
        if as_json:
            click.echo(json.dumps(values, indent=2))
        else:
            for key, value in values.items():
                click.echo(f"{key} = {json.dumps(value)}")


@main.command(
    epilog=_examples(
        "edgectl server user ana --role operator",
        "edgectl server user ana --delete --data /var/lib/edgectl",
    )
)
@click.argument("name")
@click.option("--role", type=click.Choice(["viewer", "operator", "admin"]), default="viewer")
@click.option("--password-stdin", is_flag=True, help="Read the password from the first line.")
@click.option("--delete", is_flag=True, help="Delete the user with all tokens.")
@_setting_options
def user(
    name: str, role: Any, password_stdin: bool, delete: bool, config: Path | None, **flags: Any
) -> None:
    """Make the user NAME or change the password and role; prints a generated password.

    Works on the database, whether the server runs or not.
    """
    with _errors(as_json=False):
        settings = load_settings(flags, os.environ, config)
        if not settings.database_url:
            _check_data(settings)
        from edgectl_server.auth import Auth
        from edgectl_server.clock import now
        from edgectl_server.command_audit import audited_command
        from edgectl_server.storage.database import Database

        with contextlib.closing(Database(settings.database_address)) as database:
            database.migrate()
            auth = Auth(database, now)
            if delete:
                with audited_command(database, "delete_user", name):
                    auth.delete_user(name)
                return
            password = secrets.token_urlsafe(18)
            if password_stdin:
                password = sys.stdin.readline().rstrip("\r\n")
            with audited_command(database, "set_user", name, role=role):
                auth.set_user(name, password, role)
            if not password_stdin:
                click.echo(password)


@main.command(
    "broker-config",
    epilog=_examples(
        "edgectl server broker-config --output broker --host mqtt.example.org",
        "edgectl server broker-config --output broker --host 192.0.2.20 --connections 5000",
        "edgectl server broker-config --output broker --host mqtt.example.org --force --json",
    ),
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write; made if it is not there.",
)
@click.option("--host", required=True, help="Name or address by which it will be reached.")
@click.option("--port", type=_PORT, default=8883, show_default=True, help="Of the devices.")
@click.option(
    "--kick-port",
    type=click.IntRange(0, 65535),
    default=8884,
    show_default=True,
    help="On which this server ends connections of revoked devices; 0: none.",
)
@click.option("--listen", default="0.0.0.0", show_default=True, help="Address to listen on.")  # noqa: S104 - a broker is for others
@click.option(
    "--directory",
    default="/etc/mosquitto/edgectl",
    show_default=True,
    help="Where the files will lie on the broker's machine.",
)
@click.option("--state", default="/var/lib/mosquitto", show_default=True, help="Its own state.")
@click.option("--user", default="mosquitto", show_default=True, help="Whom it runs as.")
@click.option(
    "--connections",
    type=click.IntRange(10, 100_000),
    default=1000,
    show_default=True,
    help="How many at once.",
)
@click.option("--server", "server_url", default="", help="Address of this server, from there.")
@click.option("--force", is_flag=True, help="Replace files that are there; makes a new key.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_data_options
def broker_config(
    *,
    output: Path,
    force: bool,
    as_json: bool,
    config: Path | None,
    data: str | None,
    key_passphrase_file: str | None,
    **plan: Any,
) -> None:
    """Write all that a Mosquitto of your own needs: settings, access rules, certificate, README.

    Works on the data folder, whether the server runs or not.
    """
    with _errors(as_json=as_json):
        flags = {"data": data, "key_passphrase_file": key_passphrase_file}
        settings = load_settings(flags, os.environ, config)
        _check_data(settings)
        from edgectl_server.clock import now
        from edgectl_server.distribution.broker_config import BrokerPlan, write_broker_config
        from edgectl_server.signing.authority import Authority
        from edgectl_server.signing.keys import read_passphrase

        pki = settings.data_path / "pki"
        passphrase = read_passphrase(settings.key_passphrase_file)
        authority = Authority.open(pki, now(), passphrase=passphrase)
        names = write_broker_config(output, BrokerPlan(**plan), authority, pki, now(), force=force)
        if as_json:
            click.echo(json.dumps({"output": str(output), "files": names}))
            return
        click.echo(f"{output}: {', '.join(names)}")
        click.echo(f"Next: read {output / 'README.md'}; broker.key is secret.", err=True)


@main.command(
    epilog=_examples(
        "edgectl server revocations --authority authority.pem --output revoked.pem",
        "edgectl server revocations --server https://192.0.2.10:8443 --ca server.pem "
        "--authority authority.pem --output revoked.pem --reload 'systemctl reload mosquitto'",
    ),
)
@click.option("--server", "url", default="http://127.0.0.1:8080", show_default=True)
@click.option("--ca", type=_FILE, help="PEM of the authority of the server's https certificate.")
@click.option("--authority", type=_FILE, required=True, help="PEM of the devices' authority.")
@click.option("--output", type=_FILE, required=True, help="The file that the broker reads.")
@click.option("--reload", "command", default="", help="Run when the broker has to read it again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def revocations(
    *, url: str, ca: Path | None, authority: Path, output: Path, command: str, as_json: bool
) -> None:
    """Fetch the list of revoked certificates, on the machine of a broker of your own.

    For a timer, every 20 seconds. A list that is damaged, foreign, older or about to expire is
    refused, and the one that is there stays.
    """
    with _errors(as_json=as_json):
        from edgectl_server.clock import now
        from edgectl_server.distribution.list_refresh import refresh_list

        done = refresh_list(
            url, authority=authority, output=output, reload=command, ca=ca, now=now()
        )
        if as_json:
            click.echo(json.dumps(dataclasses.asdict(done)))
        elif done.changed or done.reloaded:
            told = ", the broker was told" if done.reloaded else ""
            click.echo(f"{output}: {done.revoked} revoked{told}")


@main.command(epilog=_examples("edgectl server fingerprint --data /var/lib/edgectl"))
@_setting_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fingerprint(config: Path | None, as_json: bool, **flags: Any) -> None:
    """Print by what devices and `edgectl login` know this server's own authority."""
    with _errors(as_json=as_json):
        settings = load_settings(flags, os.environ, config)
        path = settings.data_path / "pki" / "authority.pem"
        if not path.exists():
            raise NotFound(
                "server.data",
                f"there is no server in {settings.data_path}",
                hint="name its folder with --data, or start it once",
            )
        from edgectl_protocol.enrolment import format_fingerprint
        from edgectl_server.signing.authority import fingerprint_of_certificate

        found = fingerprint_of_certificate(path)
        if as_json:
            click.echo(json.dumps({"fingerprint": found, "certificate": str(path)}))
        else:
            click.echo(format_fingerprint(found))


@main.group(
    epilog=_examples(
        "edgectl server converters list",
        "edgectl server converters install sklearn --data /var/lib/edgectl",
    )
)
def converters() -> None:
    """Show and install what converts models other than ONNX (docs/converters.md)."""


@converters.command("list", epilog=_examples("edgectl server converters list --json"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_data_options
def list_converters(*, as_json: bool, **flags: Any) -> None:
    """List the converters, what they take, and whether they are installed."""
    with _errors(as_json=as_json):
        from edgectl_server.converters.environments import CONVERTERS

        environments = _environments(**flags)
        rows = [
            {
                "name": one.name,
                "installed": environments.installed(one.name) is not None,
                "formats": one.formats,
                "megabytes": one.megabytes,
                "path": str(environments.path(one.name)),
            }
            for one in CONVERTERS.values()
        ]
        if as_json:
            click.echo(json.dumps(rows, indent=2))
            return
        for row in rows:
            state = "installed" if row["installed"] else f"about {row['megabytes']} MB"
            click.echo(f"{row['name']:<12}{state:<16}{row['formats']}")


@converters.command(
    "install",
    epilog=_examples(
        "edgectl server converters install sklearn",
        "edgectl server converters install tensorflow pytorch --data /var/lib/edgectl",
    ),
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_data_options
def install_converters(names: tuple[str, ...], *, as_json: bool, **flags: Any) -> None:
    """Install converters ahead of the first model, by pip and its settings.

    Works on the data folder, whether the server runs or not. Run it as the server's user.
    """
    with _errors(as_json=as_json):
        from edgectl_server.converters.environments import CONVERTERS
        from edgectl_server.pipeline.errors import PipelineError

        environments = _environments(**flags)
        for name in names:
            if name not in CONVERTERS:
                raise NotFound(
                    "convert.unknown",
                    f"there is no converter {name}",
                    hint=f"the converters are: {', '.join(CONVERTERS)}",
                )
        try:
            done = [
                environments.install(
                    name, tell=lambda line: click.echo(line, err=True), cancelled=lambda: False
                )
                for name in names
            ]
        except PipelineError as error:
            raise Refused(error.code, error.detail, hint=error.hint) from error
        if as_json:
            click.echo(json.dumps([msgspec.to_builtins(one) for one in done], indent=2))
            return
        for one in done:
            click.echo(f"{one.converter}: installed in {environments.path(one.converter)}")


def _environments(*, config: Path | None, **flags: Any) -> Environments:
    """Return the converters' environments of a server."""
    from edgectl_server.converters.environments import Environments

    settings = load_settings(flags, os.environ, config)
    return Environments(
        settings.converters_path, build_s_max=float(settings.converter_install_s_max)
    )


@main.command(epilog=_examples("edgectl server openapi > openapi.json"))
def openapi() -> None:
    """Print the OpenAPI document of the REST API."""
    from edgectl_server.api.app import openapi_text

    click.echo(openapi_text(), nl=False)


@contextlib.contextmanager
def _errors(*, as_json: bool) -> Iterator[None]:
    """Print our errors for a person, or as one JSON line, and exit with 1."""
    try:
        yield
    except ServerError as error:
        if as_json:
            problem = {"code": error.code, "detail": error.detail, "hint": error.hint}
            click.echo(json.dumps({"ready": False, "error": problem}))
        click.echo(f"error[{error.code}]: {error.detail}", err=True)
        if error.__cause__ is not None:
            logging.getLogger(__name__).debug("caused by", exc_info=error.__cause__)
            click.echo(f"while: {str(error.__cause__).splitlines()[0][:300]}", err=True)
        if error.hint:
            click.echo(f"try: {error.hint}", err=True)
        sys.exit(1)
