"""``python -m edgectl_server.ceremony``, which ``edgectl keys`` becomes.

Errors read ``error[code]: …``, ``while: …`` and ``try: …``. Exit codes: 0 done, 1 refused or
failed, 2 usage, 3 (``status`` alone) something needs attention.
"""

from __future__ import annotations

import click

from edgectl_server.ceremony.commands import COMMANDS
from edgectl_server.ceremony.console import examples
from edgectl_server.ceremony.offline import generate, public, sign

__all__ = ["main"]


class _InOrder(click.Group):
    """Lists the commands in the order in which a ceremony needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)


@click.group(
    cls=_InOrder,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "edgectl keys generate ana.pem --name ana",
        "edgectl keys status",
        "edgectl keys rotate timestamp",
    )
    + "\n\n"
    + "\b\nExit codes:\n  0 done, 1 refused or failed, 2 usage, 3 status: needs attention",
)
@click.version_option(package_name="edgectl", prog_name="edgectl keys")
def main() -> None:
    """The keys that sign models: who holds them, and changing them.

    Works on the server's data folder, not through its API: an administrator's account is not enough
    to sign a model. `generate`, `public` and `sign` need no server at all.
    """


for _command in (generate, public, sign, *COMMANDS):
    main.add_command(_command)
