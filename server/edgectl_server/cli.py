"""``python -m edgectl_server``, which ``edgectl server`` becomes.

Every setting is an option of ``start``; see `edgectl_server.settings` for where else it is looked
up. Errors read ``error[code]: …`` and ``try: …``. Exit codes: 0 done, 1 refused or failed, 2 usage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from edgectl_server.backup_commands import backup, restore
from edgectl_server.check_command import check
from edgectl_server.command_line import (
    FILE,
    check_data,
    data_options,
    errors,
    examples,
    setting_options,
)
from edgectl_server.errors import NotFound, Refused
from edgectl_server.settings import Settings, load_settings

if TYPE_CHECKING:
    from edgectl_server.converters.environments import Environments

__all__ = ["main"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_PORT = click.IntRange(1, 65535)


_WORKER = frozenset({
    *("data", "database_url", "blobs_url", "log_level", "job_lease_s", "job_attempts_max"),
    *("pipeline_workers", "known_trials_bytes_max", "trainers_file"),
    *("pipeline_memory_bytes_max", "pipeline_cpu_s_max", "pipeline_wall_s_max"),
})  # fmt: skip
"""Settings that a worker uses; the others are the server's, and may stand in the same file."""


def _worker_options(command: _Command) -> _Command:
    """Give a command an option for what a worker uses, and one for the file."""
    return setting_options(command, _WORKER)


def _log(settings: Settings) -> None:
    logging.basicConfig(
        level=settings.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for chatty in ("alembic", "uvicorn"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))


@click.group(
    epilog=examples(
        "edgectl server start",
        "edgectl server settings --data /var/lib/edgectl",
        "edgectl server user ana --role operator",
    )
)
@click.version_option(package_name="edgectl", prog_name="edgectl server")
def main() -> None:
    """The edgectl server."""


@main.command(
    epilog=examples(
        "edgectl server start",
        "edgectl server start --data /var/lib/edgectl --config /etc/edgectl/server.toml",
        "edgectl server start --host 0.0.0.0 --tls own --broker-host 0.0.0.0 "
        "--broker-public-host 192.0.2.10",
    )
)
@setting_options
@click.option("--json", "as_json", is_flag=True, help="Print the ready line as JSON.")
def start(config: Path | None, as_json: bool, **flags: Any) -> None:
    """Run the server until SIGTERM or Ctrl-C."""
    with errors(as_json=as_json):
        settings = load_settings(flags, os.environ, config)
        _log(settings)
        with _staying():
            from edgectl_server.running import run_server

        run_server(settings, as_json=as_json)


@main.command(
    epilog=examples(
        "edgectl server worker --data /var/lib/edgectl-worker "
        "--database-url postgresql+psycopg://edgectl@db/edgectl --blobs-url s3://models/edgectl",
    )
)
@_worker_options
@click.option("--json", "as_json", is_flag=True, help="Print the ready line as JSON.")
def worker(config: Path | None, as_json: bool, **flags: Any) -> None:
    """Make trials for the server on another machine, and train, until SIGTERM or Ctrl-C.

    A push divides its recipes among the server and all workers; a training is taken by whoever is
    free and has its trainer. Database and blob store are the
    server's, the data folder is the worker's own; it needs no keys and no broker.
    """
    with errors(as_json=as_json):
        settings = load_settings(flags, os.environ, config)
        _log(settings)
        with _staying():
            from edgectl_server.worker import run_worker

        run_worker(settings, as_json=as_json)


@main.command(
    "settings", epilog=examples("edgectl server settings --config /etc/edgectl/server.toml")
)
@setting_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_settings(config: Path | None, as_json: bool, **flags: Any) -> None:
    """Print what `start` would use, passwords hidden."""
    with errors(as_json=as_json):
        values = msgspec.to_builtins(load_settings(flags, os.environ, config))
        if values["database_url"]:
            from sqlalchemy import make_url

            values["database_url"] = make_url(values["database_url"]).render_as_string()
        if as_json:
            click.echo(json.dumps(values, indent=2))
        else:
            for key, value in values.items():
                click.echo(f"{key} = {json.dumps(value)}")


@main.command(
    epilog=examples(
        "edgectl server user ana --role operator",
        "edgectl server user ana --delete --data /var/lib/edgectl",
    )
)
@click.argument("name")
@click.option("--role", type=click.Choice(["viewer", "operator", "admin"]), default="viewer")
@click.option("--password-stdin", is_flag=True, help="Read the password from the first line.")
@click.option("--delete", is_flag=True, help="Delete the user with all tokens.")
@setting_options
def user(
    name: str, role: Any, password_stdin: bool, delete: bool, config: Path | None, **flags: Any
) -> None:
    """Make the user NAME or change the password and role; prints a generated password.

    Works on the database, whether the server runs or not.
    """
    with errors(as_json=False):
        settings = load_settings(flags, os.environ, config)
        if not settings.database_url:
            check_data(settings)
        from edgectl_server.auth import Auth
        from edgectl_server.clock import now
        from edgectl_server.command_audit import audited_command
        from edgectl_server.storage.database import Database

        with contextlib.closing(Database(settings.database_address)) as database:
            database.check_current()
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
    epilog=examples(
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
@data_options
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
    with errors(as_json=as_json):
        flags = {"data": data, "key_passphrase_file": key_passphrase_file}
        settings = load_settings(flags, os.environ, config)
        check_data(settings)
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
    epilog=examples(
        "edgectl server revocations --authority authority.pem --output revoked.pem",
        "edgectl server revocations --server https://192.0.2.10:8443 --ca server.pem "
        "--authority authority.pem --output revoked.pem --reload 'systemctl reload mosquitto'",
    ),
)
@click.option("--server", "url", default="http://127.0.0.1:8080", show_default=True)
@click.option("--ca", type=FILE, help="PEM of the authority of the server's https certificate.")
@click.option("--authority", type=FILE, required=True, help="PEM of the devices' authority.")
@click.option("--output", type=FILE, required=True, help="The file that the broker reads.")
@click.option("--reload", "command", default="", help="Run when the broker has to read it again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def revocations(
    *, url: str, ca: Path | None, authority: Path, output: Path, command: str, as_json: bool
) -> None:
    """Fetch the list of revoked certificates, on the machine of a broker of your own.

    For a timer, every 20 seconds. A list that is damaged, foreign, older or about to expire is
    refused, and the one that is there stays.
    """
    with errors(as_json=as_json):
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


@main.command(epilog=examples("edgectl server fingerprint --data /var/lib/edgectl"))
@setting_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fingerprint(config: Path | None, as_json: bool, **flags: Any) -> None:
    """Print by what devices and `edgectl login` know this server's own authority."""
    with errors(as_json=as_json):
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
    epilog=examples(
        "edgectl server converters list",
        "edgectl server converters install sklearn --data /var/lib/edgectl",
    )
)
def converters() -> None:
    """Show and install what converts models other than ONNX (docs/converters.md)."""


@converters.command("list", epilog=examples("edgectl server converters list --json"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_options
def list_converters(*, as_json: bool, **flags: Any) -> None:
    """List the converters, what they take, and whether they are installed."""
    with errors(as_json=as_json):
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
    epilog=examples(
        "edgectl server converters install sklearn",
        "edgectl server converters install tensorflow pytorch --data /var/lib/edgectl",
    ),
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_options
def install_converters(names: tuple[str, ...], *, as_json: bool, **flags: Any) -> None:
    """Install converters ahead of the first model, by pip and its settings.

    Works on the data folder, whether the server runs or not. Run it as the server's user.
    """
    with errors(as_json=as_json):
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


@main.command(epilog=examples("edgectl server openapi > openapi.json"))
def openapi() -> None:
    """Print the OpenAPI document of the REST API."""
    from edgectl_server.api.app import openapi_text

    click.echo(openapi_text(), nl=False)


@contextlib.contextmanager
def _staying() -> Iterator[None]:
    """Import what stays until the end: looking for garbage in it cost a seventh of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


for _command in (backup, check, restore):
    main.add_command(_command)
