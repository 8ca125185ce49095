"""``edgectl audit``: who did what, and whether the log of it can be believed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from edgectl.clock import now
from edgectl.durations import Duration
from edgectl.errors import EdgectlError, LocalError, doing
from edgectl.output import age, consoles, plain, print_json, table
from edgectl.session import Session, examples, json_option, limit_option, pass_session
from edgectl_protocol.audit import (
    LINE_BYTES_MAX,
    AuditHead,
    AuditHeader,
    ChainCheck,
    Finding,
    decode_line,
    head_message,
)
from edgectl_protocol.errors import ProtocolError

__all__ = ["audit"]

_DETAILS_SHOWN_MAX = 60


@click.group(
    epilog=examples(
        "edgectl audit list --search refused",
        "edgectl audit verify",
        "edgectl audit export --output audit.jsonl",
    )
)
def audit() -> None:
    """Show who did what, and check that nobody has changed the log of it (admins)."""


@audit.command(
    "list",
    epilog=examples(
        "edgectl audit list",
        "edgectl audit list --actor ana --outcome refused --since 7d",
        "edgectl audit list --search ana --limit 20 --json",
    ),
)
@click.option("--search", default="", help="Part of actor, action, object, address or outcome.")
@click.option("--actor", default="", help="Only what this one did.")
@click.option("--action", default="", help="Only this, such as start_rollout.")
@click.option("--object", "object_", default="", help="Part of what it was done to.")
@click.option("--outcome", type=click.Choice(["done", "refused", "failed"]))
@click.option(
    "--since", type=Duration(1, 3650 * 86400), help="Not older than this, like 12h or 30d."
)
@limit_option
@json_option
@pass_session
def list_entries(
    session: Session,
    search: str,
    limit: int,
    *,
    actor: str,
    action: str,
    object_: str,
    outcome: str | None,
    since: int | None,
    as_json: bool,
) -> None:
    """List what was done, the newest first."""
    began = "" if since is None else (now() - timedelta(seconds=since)).isoformat()
    asked = {
        "q": search,
        "actor": actor,
        "action": action,
        "object": object_,
        "outcome": outcome or "",
        "since": began,
    }
    with session.connect() as client:
        page = client.audit([(name, value) for name, value in asked.items() if value], limit)
    if as_json:
        print_json(page.items)
        return
    output, errors = consoles()
    columns = ["NO.", "WHEN", "WHO", "FROM", "WHAT", "TO", "OUTCOME", "DETAILS"]
    rows = [
        (
            str(one.number),
            age(one.at),
            plain(one.actor or "somebody unknown"),
            plain(one.address),
            plain(one.action),
            plain(one.object),
            plain(one.outcome),
            plain(_short(one.details)),
        )
        for one in page.items
    ]
    output.print(table(columns, rows))
    if page.total > len(page.items):
        errors.print(f"{len(page.items)} of {page.total}: see more with --limit {page.total}")


@audit.command(
    "export",
    epilog=examples("edgectl audit export --output audit.jsonl"),
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write, which must not be there yet; stdout by default.",
)
@json_option
@pass_session
def export_entries(session: Session, output: Path | None, *, as_json: bool) -> None:
    """Write everything, one JSON object a line: signed heads, then rows from the first on.

    `edgectl audit verify FILE` checks it without the server. Keep exports elsewhere: whoever has
    an old one can prove that what is in it was not written later.
    """
    if as_json and output is None:
        raise click.UsageError("--json needs --output: stdout holds the export otherwise")
    lines = 0
    with session.connect() as client, _writing(output) as file, doing("exporting the audit log"):
        for line in client.audit_export():
            file.write(line + b"\n")
            lines += 1
    if as_json:
        print_json({"file": str(output), "lines": lines})
    elif output is not None:
        click.echo(f"{lines} lines in {output}: `edgectl audit verify {output}`")


@audit.command(
    "verify",
    epilog=examples(
        "edgectl audit verify",
        "edgectl audit verify audit.jsonl --heads heads/2026-11.jsonl",
        "edgectl audit verify --key 3f0c…",
    ),
)
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--heads",
    "head_files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="More signed heads: copies of audit/heads/*.jsonl of the server's data folder.",
)
@click.option("--key", "keys", multiple=True, help="Believe heads signed by this key alone.")
@json_option
@pass_session
def verify(
    session: Session,
    file: Path | None,
    head_files: tuple[Path, ...],
    keys: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Check the whole log, of the server or of FILE, an export.

    The exit code is 1 when anything is wrong, with the first row that cannot be believed and what
    that means. Rows after the newest signed head are consistent, but nobody vouches for them yet.
    """
    what = str(file) if file is not None else session.address()
    with doing(f"checking the audit log of {what}"):
        if file is not None:
            with _reading(file) as opened:
                result = _check(_lines(opened), head_files, keys)
        else:
            with session.connect() as client:
                result = _check(client.audit_export(), head_files, keys)
    if as_json:
        print_json(result)
    elif result.finding is None:
        _print_whole(result)
    else:
        click.echo(f"row {result.finding.number}, {result.finding.fault}: {result.finding.meaning}")
        click.echo(f"rows 1 to {result.rows} before it are as they were written")
    if result.finding is not None:
        click.get_current_context().exit(EdgectlError.exit_code)


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a check has found; `rows` and `anchored` are numbers of rows."""

    rows: int
    anchored: int
    heads: int
    keys: list[str]
    finding: Finding | None


def _print_whole(result: _Result) -> None:
    click.echo(f"{result.rows} rows: nothing was changed, removed or put in between")
    if result.heads:
        click.echo(f"signed heads vouch for rows up to {result.anchored}, by the key")
        for key in result.keys:
            click.echo(f"  {key}")
    else:
        click.echo("no signed head is there: somebody may have made a whole new chain")


def _check(lines: Iterable[bytes], head_files: Iterable[Path], keys: tuple[str, ...]) -> _Result:
    signatures = _Signatures(keys)
    checked = ChainCheck()
    for path in head_files:
        with _reading(path) as file:
            for line in _lines(file):
                checked.add_head(signatures.checked(_decoded_head(line, path)))
    begun = False
    for line in lines:
        try:
            content = decode_line(line)
        except ProtocolError as error:
            raise LocalError("audit.export", f"this is no whole export: {error}") from error
        if isinstance(content, AuditHeader):
            begun = True
        elif isinstance(content, AuditHead):
            checked.add_head(signatures.checked(content))
        elif checked.add(content) is not None:
            break
    if not begun:
        raise LocalError("audit.export", "this is no export of an audit log")
    return _Result(
        rows=checked.number,
        anchored=checked.anchored,
        heads=signatures.count,
        keys=sorted(signatures.seen),
        finding=checked.finish(),
    )


class _Signatures:
    """Checks the signatures of heads, and notes whose they are."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._believed = {key.strip().lower() for key in keys}
        self.seen: set[str] = set()
        self.count = 0

    def checked(self, head: AuditHead) -> AuditHead:
        """Return `head`.

        Raises:
            LocalError: ``audit.signature``: not signed by its key, or by a key not believed.
        """
        if self._believed and head.key not in self._believed:
            raise LocalError(
                "audit.signature",
                f"the head of row {head.number} is signed by the key {head.key[:80]}, "
                "which is not one that you believe",
                "somebody may have made a new chain with a key of their own",
            )
        if not _is_signed(head):
            raise LocalError(
                "audit.signature",
                f"the head of row {head.number}, of {head.at[:40]}, is not signed by its key",
                "somebody has changed it: compare with another copy of audit/heads",
            )
        self.seen.add(head.key)
        self.count += 1
        return head


def _is_signed(head: AuditHead) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise LocalError(
            "client.package",
            "checking signatures needs the package cryptography",
            "pip install cryptography",
        ) from error
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(head.key))
        key.verify(bytes.fromhex(head.signature), head_message(head))
    except (ValueError, InvalidSignature):
        return False
    return True


def _decoded_head(line: bytes, path: Path) -> AuditHead:
    try:
        return msgspec.json.decode(line, type=AuditHead)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LocalError("audit.export", f"{path} holds a line that is no head") from error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(LINE_BYTES_MAX + 2):
        yield line.rstrip(b"\n")


def _reading(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise LocalError("audit.export", f"{path}: {error.strerror}") from error


def _writing(path: Path | None) -> AbstractContextManager[BinaryIO]:
    if path is None:
        return nullcontext(sys.stdout.buffer)
    try:
        return path.open("xb")
    except OSError as error:
        raise LocalError(
            "audit.export", f"{path}: {error.strerror}", "name a file that is not there yet"
        ) from error


def _short(details: dict[str, Any]) -> str:
    text = ", ".join(f"{key} {value}" for key, value in details.items())
    return text if len(text) <= _DETAILS_SHOWN_MAX else f"{text[: _DETAILS_SHOWN_MAX - 1]}…"
