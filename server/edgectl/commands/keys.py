"""``edgectl keys``: becomes the key ceremony's own command line.

The CLI speaks HTTP and imports nothing that signs; keys are changed on the server's data folder,
and people sign on machines without a network. So this process is replaced by ``python -m
edgectl_server.ceremony``, which has its own help, errors and exit codes, and needs no more than the
small extra ``keys``.
"""

from __future__ import annotations

import os
import sys

import click

from edgectl.commands.server import missing_packages
from edgectl.errors import LocalError
from edgectl.session import examples

__all__ = ["keys"]

_NEEDED = ("edgectl_server", "cryptography", "securesystemslib", "tuf")


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
    epilog=examples(
        "edgectl keys generate ana.pem --name ana",
        "edgectl keys status --data /var/lib/edgectl",
        "edgectl keys sign root.json --key ana.pem",
        "edgectl keys --help",
    ),
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def keys(arguments: tuple[str, ...]) -> None:
    """Who may sign models: on the server's data folder, or offline.

    Needs `pip install 'edgectl[keys]'`; docs/operations/keys.md has the whole ceremony.
    """
    missing = missing_packages(_NEEDED)
    if missing:
        raise LocalError(
            "keys.not_installed",
            f"what signs is not installed here: {', '.join(missing)} missing",
            "pip install 'edgectl[keys]'",
        )
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: a module in the working directory must not stand in for one of ours.
    command = [sys.executable, "-P", "-m", "edgectl_server.ceremony", *arguments]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is the point
