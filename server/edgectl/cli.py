"""``edgectl``: the operator's command line.

Exit codes: 0 done, 1 refused or failed, 2 usage, 3 server unreachable. Errors go to stderr as
``error[code]: …``, ``while: …``, ``try: …``; with ``--json`` stdout holds one JSON value and
nothing else.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

import click

from edgectl.errors import EdgectlError
from edgectl.output import plain, print_error
from edgectl.session import Session, examples
from edgectl_protocol import __version__

__all__ = ["cli", "main", "run"]

_EXIT_USAGE = 2


_COMMANDS = {
    "login": "access:login",
    "logout": "access:logout",
    "push": "push:push",
    "models": "models:models",
    "export": "export:export",
    "import": "imports:import_version",
    "origins": "imports:origins",
    "mirror": "mirror:mirror",
    "rollout": "rollouts:rollout",
    "apply": "apply:apply",
    "devices": "devices:devices",
    "selectors": "labels:selectors",
    "targets": "targets:targets",
    "bench": "targets:bench",
    "telemetry": "telemetry:telemetry",
    "answers": "answers:answers",
    "drift": "drift:drift",
    "accuracy": "accuracy:accuracy",
    "samples": "samples:samples",
    "alerts": "alerts:alerts",
    "labels": "sample_labels:labels",
    "dataset": "datasets:dataset",
    "data": "data:data",
    "retrain": "retraining:retrain",
    "retrainings": "retraining:retrainings",
    "loop": "loops:loop",
    "jobs": "jobs:jobs",
    "tokens": "tokens:tokens",
    "users": "users:users",
    "webhooks": "webhooks:webhooks",
    "audit": "audit:audit",
    "doctor": "doctor:doctor",
    "server": "server:server",
    "keys": "keys:keys",
    "simulate": "simulate:simulate",
    "demo": "demo:demo",
}
"""Module and name in `edgectl.commands`, in the order in which a newcomer needs the commands."""


class _OnDemand(Mapping[str, click.Command]):
    """Imports a command when somebody looks at it, so that no other waits for it."""

    def __getitem__(self, name: str) -> click.Command:
        module, attribute = _COMMANDS[name].split(":")
        command: click.Command = getattr(import_module(f"edgectl.commands.{module}"), attribute)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class _InOrder(click.Group):
    """Lists the commands in the order in which a newcomer needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)


@click.group(
    cls=_InOrder,
    commands=_OnDemand(),
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "edgectl demo",
        "edgectl login http://127.0.0.1:8080",
        "edgectl push har.onnx --calibration cal.npz --evaluation eval.npz",
        "edgectl rollout start har@1 --all",
    )
    + "\n\n"
    + "\b\nCompletion in bash (zsh and fish alike):\n"
    + '  eval "$(_EDGECTL_COMPLETE=bash_source edgectl)"'
    + "\n\n"
    + "\b\nExit codes:\n  0 done, 1 refused or failed, 2 usage, 3 server unreachable",
)
@click.option("--url", default="", metavar="URL", help="Of the server; EDGECTL_URL does the same.")
@click.version_option(__version__, prog_name="edgectl", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, url: str) -> None:
    """Push machine-learning models to a fleet of small devices."""
    context.obj = Session(url)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        result = cli.main(list(arguments), prog_name="edgectl", standalone_mode=False)
    except EdgectlError as error:
        print_error(error)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return _EXIT_USAGE
    except click.ClickException as error:
        _print_usage_error(error)
        return _EXIT_USAGE
    except click.exceptions.Abort as error:
        if isinstance(error.__context__, EOFError):  # as in a script: nobody has stopped anything
            click.echo("\nerror[interrupted]: the input ended where a question was asked", err=True)
            click.echo("try: give the answer beforehand: --yes, or --password-stdin", err=True)
        else:
            click.echo("error[interrupted]: stopped by you", err=True)
        return 1
    return result if isinstance(result, int) else 0


def _print_usage_error(error: click.ClickException) -> None:
    click.echo(f"error[usage]: {plain(error.format_message())}", err=True)
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "edgectl"
    click.echo(f"try: {command} --help", err=True)


def main() -> None:
    """Run the command line of this process."""
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        # Somebody like `head` has read enough: nothing is wrong, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
