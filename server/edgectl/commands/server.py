"""``edgectl server``: becomes the server's own command line.

The CLI speaks HTTP and imports nothing of the server, so that it stays small; this process is
replaced by ``python -m edgectl_server``, which has its own help, errors and exit codes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import click

from edgectl.errors import LocalError
from edgectl.session import examples

__all__ = ["missing_packages", "server"]

_NEEDED = ("edgectl_server", "fastapi", "uvicorn", "sqlalchemy", "onnx", "onnxruntime", "tuf")
"""One distribution holds all code; the extra `server` brings what it needs."""


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
    epilog=examples(
        "edgectl server start",
        "edgectl server start --data /var/lib/edgectl --listen-port 8080",
        "edgectl server --help",
    ),
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def server(arguments: tuple[str, ...]) -> None:
    """Run the server: everything after `server` goes to it.

    Needs `pip install 'edgectl[server]'`.
    """
    missing = missing_packages(_NEEDED)
    if missing:
        raise LocalError(
            "server.not_installed",
            f"the server is not installed here: {', '.join(missing)} missing",
            "pip install 'edgectl[server]'",
        )
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: a module in the working directory must not stand in for one of ours.
    command = [sys.executable, "-P", "-m", "edgectl_server", *arguments]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is the point


def missing_packages(needed: Sequence[str]) -> list[str]:
    """Return which of the packages are not installed, without importing any."""
    return [name for name in needed if find_spec(name) is None]
