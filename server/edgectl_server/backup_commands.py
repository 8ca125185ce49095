"""``edgectl server backup`` and ``restore``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from edgectl_server.command_line import FILE, check_data, errors, examples, setting_options
from edgectl_server.settings import load_settings

__all__ = ["backup", "restore"]

_PLACES = frozenset({"data", "database_url", "blobs_url"})
_place_options = partial(setting_options, only=_PLACES)
_passphrase_option = click.option(
    "--passphrase-file", type=FILE, help="File whose first line is the backup's passphrase."
)


@click.command(
    epilog=examples(
        "edgectl server backup /backup/edgectl/ --passphrase-file /etc/edgectl/backup.passphrase",
        "edgectl server backup edgectl.backup --passphrase-file backup.passphrase --json",
        "edgectl server backup /backup/edgectl/ --without-keys",
    )
)
@click.argument("target", metavar="TARGET")
@_passphrase_option
@click.option("--without-keys", is_flag=True, help="Leave out all keys; keep them elsewhere.")
@click.option("--without-uploads", is_flag=True, help="Leave out what devices have uploaded.")
@_place_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backup(
    *,
    target: str,
    passphrase_file: Path | None,
    without_keys: bool,
    without_uploads: bool,
    as_json: bool,
    config: Path | None,
    **flags: Any,
) -> None:
    """Back up the server to TARGET, while it runs or not, and check what was written.

    TARGET is a folder, which holds many backups and each blob once, if it is one already or ends
    in a slash; else a new file. Keys are encrypted with the passphrase. Keep the digest that is
    printed: it tells this backup from one that somebody has changed.
    """
    if without_keys == (passphrase_file is not None):
        raise click.UsageError("give either --passphrase-file or --without-keys")
    with errors(as_json=as_json):
        settings = load_settings(flags, os.environ, config)
        check_data(settings)
        from edgectl_server.backup.making import make_backup
        from edgectl_server.clock import now
        from edgectl_server.command_audit import audited_command
        from edgectl_server.signing.key_files import read_passphrase
        from edgectl_server.storage.database import Database
        from edgectl_server.storage.files import make_private_directory

        passphrase = read_passphrase(str(passphrase_file or ""))
        path = Path(target)
        if target.endswith("/") and not path.is_dir():
            make_private_directory(path)
        with contextlib.closing(Database(settings.database_address)) as database:
            database.check_current()
            with audited_command(database, "backup", target, keys=not without_keys):
                made = make_backup(
                    settings,
                    database,
                    path,
                    passphrase=passphrase,
                    with_uploads=not without_uploads,
                    now=now(),
                )
        if as_json:
            click.echo(json.dumps(msgspec.to_builtins(dataclasses.asdict(made))))
            return
        keys = "with keys" if made.with_keys else "without keys: keep them elsewhere"
        click.echo(
            f"{made.path}: {made.files} files, {made.blobs} blobs ({made.written} new), "
            f"{made.size / 1e6:.1f} MB, {keys}"
        )
        click.echo(made.manifest)
        if made.mended:
            click.echo(
                f"{made.mended} blobs of earlier backups were damaged, and are written again: "
                "look after the disk",
                err=True,
            )


@click.command(
    epilog=examples(
        "edgectl server restore /backup/edgectl --passphrase-file backup.passphrase "
        "--data /var/lib/edgectl-server",
        "edgectl server restore edgectl.backup --passphrase-file backup.passphrase --check",
        "edgectl server restore edgectl.backup --passphrase-file backup.passphrase --carry-on",
    )
)
@click.argument("source", type=click.Path(path_type=Path))
@_passphrase_option
@click.option("--expect", default="", help="Digest that `backup` has printed.")
@click.option("--snapshot", default="", help="Which of a folder's backups. Default: the newest.")
@click.option("--check", "check_only", is_flag=True, help="Check the backup, restore nothing.")
@click.option(
    "--carry-on",
    is_flag=True,
    help="The server had stopped before the backup: rollouts go on by themselves.",
)
@click.option(
    "--metadata",
    type=click.Path(path_type=Path, file_okay=False),
    help="A newer copy of the folder tuf.",
)
@click.option("--revocations", type=FILE, help="A newer list of revoked certificates, PEM.")
@_place_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def restore(
    *,
    source: Path,
    passphrase_file: Path | None,
    expect: str,
    snapshot: str,
    check_only: bool,
    carry_on: bool,
    metadata: Path | None,
    revocations: Path | None,
    as_json: bool,
    config: Path | None,
    **flags: Any,
) -> None:
    """Restore the backup SOURCE into a data folder, and a database, that are empty.

    Run it as the server's user. The first start numbers everything ahead of what devices may have
    seen since. Rollouts wait, paused, until somebody resumes or aborts them.
    """
    with errors(as_json=as_json):
        settings = load_settings(flags, os.environ, config)
        from edgectl_server.backup.restoring import (
            RestoreOptions,
            check_backup,
            open_backup,
            restore_backup,
        )
        from edgectl_server.clock import now
        from edgectl_server.signing.key_files import read_passphrase

        options = RestoreOptions(
            passphrase=read_passphrase(str(passphrase_file or "")),
            expected=expect,
            carry_on=carry_on,
            metadata=metadata,
            revocations=revocations,
        )
        if check_only:
            with contextlib.closing(open_backup(source, snapshot)) as reader:
                found = check_backup(reader, options)
            said = {"made_at": found.made_at, "made_by": found.made_by, "whole": True}
            if as_json:
                click.echo(json.dumps(msgspec.to_builtins(said)))
            else:
                click.echo(f"{source}: whole, of {found.made_at:%Y-%m-%d %H:%M} UTC")
            return
        with contextlib.closing(open_backup(source, snapshot)) as reader:
            done = restore_backup(reader, settings, options, now())
        if as_json:
            click.echo(json.dumps(msgspec.to_builtins(dataclasses.asdict(done))))
            return
        click.echo(f"{done.data}: restored as of {done.made_at:%Y-%m-%d %H:%M} UTC")
        for line in _next_steps(with_keys=done.with_keys, carry_on=carry_on):
            click.echo(f"next: {line}", err=True)


def _next_steps(*, with_keys: bool, carry_on: bool) -> list[str]:
    steps = [] if with_keys else ["put back the folder keys, pki/*.key and audit/key.pem"]
    steps.append("edgectl server check, then start the server")
    if not carry_on:
        steps += [
            "edgectl rollout list: resume or abort what is paused",
            "take out again what was revoked or deleted since: devices, users, tokens of the API",
        ]
    return steps
