"""``edgectl server check``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edgectl_server.command_line import errors, examples, setting_options
from edgectl_server.settings import load_settings

if TYPE_CHECKING:
    from edgectl_server.checkup.findings import Finding

__all__ = ["check"]

_SIGNS = {"ok": "✓", "warning": "!", "failed": "✗"}


@click.command(
    epilog=examples(
        "edgectl server check --config /etc/edgectl/server.toml",
        "edgectl server check --data /var/lib/edgectl-server --json",
    )
)
@setting_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(config: Path | None, as_json: bool, **flags: Any) -> None:
    """Look whether the server can start: settings, folder, disk, database, keys, broker, ports.

    Nothing is changed. Run it as the server's user, before the first start and after changes.
    Exit code 1 when something has failed; a warning (!) keeps no server from starting.
    """
    with errors(as_json=as_json):
        settings = load_settings(flags, os.environ, config)
        from edgectl_server.checkup.everything import check_everything
        from edgectl_server.clock import now

        show = (lambda _: None) if as_json else _show
        if not as_json:
            click.echo(f"✓ settings: {config or 'defaults and environment'}")
        found = check_everything(settings, now(), show)
        failed = [one for one in found if one.state == "failed"]
        if as_json:
            click.echo(
                json.dumps({"ok": not failed, "checks": msgspec.to_builtins(found)}, indent=2)
            )
    if failed:
        sys.exit(1)


def _show(finding: Finding) -> None:
    click.echo(f"{_SIGNS[finding.state]} {finding.check}: {finding.detail}")
    if finding.hint and finding.state != "ok":
        click.echo(f"  try: {finding.hint}")
