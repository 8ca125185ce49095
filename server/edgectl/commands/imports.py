"""``edgectl import`` and ``edgectl origins``: versions that another server has exported."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import click

from edgectl.durations import Duration
from edgectl.errors import EdgectlError, LocalError, doing
from edgectl.job_end import check_succeeded, follow_job
from edgectl.lineage_tables import imported_rows
from edgectl.output import age, bytes_text, consoles, pairs, plain, print_json, table
from edgectl.progress import PushProgress
from edgectl.session import Session, examples, json_option, pass_session
from edgectl.trust_tables import wait_text
from edgectl.types import ImportRequest, JobInfo, VersionDetail
from edgectl_protocol.metadata import METADATA_BYTES_MAX

__all__ = ["import_version", "origins"]

_EXPIRED_S_MAX = 90 * 86400
_ORIGIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class _Origin(click.ParamType[str]):
    """The name of another server."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it, or fail as a usage error."""
        if _ORIGIN.fullmatch(value) is None:
            self.fail(f"{value!r}: lower-case letters, digits, '.', '_' and '-'", param, ctx)
        return value


@click.command(
    "import",
    epilog=examples(
        "edgectl import har.oci --origin lab --origin-root 1.root.json",
        "edgectl import har.oci --origin lab",
        "edgectl import har.oci --origin lab --expired-for 7d",
    ),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--origin", required=True, type=_Origin(), help="What the other server is called.")
@click.option(
    "--origin-root",
    metavar="FILE|FINGERPRINT",
    help="One of its roots, brought by another way than FILE, or sha256:… of it; the first time.",
)
@click.option(
    "--expired-for",
    type=Duration(1, _EXPIRED_S_MAX),
    help="Take signatures that have ended at most so long ago, like 7d: FILE was on its way.",
)
@click.option("--detach", is_flag=True, help="Do not wait for the end.")
@json_option
@pass_session
def import_version(
    session: Session,
    file: Path,
    *,
    origin: str,
    origin_root: str | None,
    expired_for: int | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Import a version that another server has exported into FILE.

    All of it is verified against the origin's own keys, beginning at the root that an admin names
    at the first import; then this server signs the version with its own. Digests of bundles stay
    the same. What is there already is left as it is. A file that is older than what was imported
    from there before is refused, and so is one whose signatures have ended, unless --expired-for
    says for how long it may have been on its way: what the origin has taken back meanwhile is not
    known here then.
    """
    root = None if origin_root is None else _fingerprint(origin_root)
    with session.connect() as client, doing(f"importing {file.name}"):
        with PushProgress(consoles()[1]) as progress:
            sent = client.upload(file, progress.upload(file.name, file.stat().st_size))
        accepted = client.import_version(
            ImportRequest(
                file=sent.sha256,
                filename=file.name,
                origin=origin,
                origin_root=root,
                expired_for_s=expired_for or 0,
            )
        )
        if detach:
            _show_detached(accepted.job, as_json=as_json)
            return
        job = follow_job(client, accepted.job)
        check_succeeded(job)
        model, version, created = _made(job)
        result = client.patiently(lambda: client.get_version(model, version))
    if as_json:
        print_json(result)
    else:
        _show(result, created=created)


def _fingerprint(text: str) -> str:
    """Return the digest of a root that is given by its file, or by itself."""
    if _DIGEST.fullmatch(text):
        return text
    try:
        with Path(text).open("rb") as file:
            content = file.read(METADATA_BYTES_MAX + 1)
    except OSError as error:
        raise LocalError(
            "import.root_file",
            f"{text}: {error.strerror}",
            "give the file of a root, or sha256: and 64 hexadecimal digits",
        ) from error
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _made(job: JobInfo) -> tuple[str, str, bool]:
    match job.result:
        case {"model": str(model), "version": str(version), "created": bool(created)}:
            return model, version, created
    raise EdgectlError(
        "client.answer",
        f"the result of job {job.id} names no version",
        "bring this command line and the server to the same version",
    )


def _show_detached(job: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"job": job})
    else:
        click.echo(f"the import goes on: edgectl jobs show {plain(job)} --watch")


def _show(version: VersionDetail, *, created: bool) -> None:
    output, _ = consoles()
    name = f"{plain(version.model)}@{plain(version.version)}"
    if version.imported is not None:
        output.print(pairs(imported_rows(version.imported), name))
    rows = [
        (plain(one.variant), bytes_text(one.model_bytes), plain(one.manifest))
        for one in version.variants
    ]
    output.print(table(["VARIANT", "SIZE", "MANIFEST"], rows))
    if not created:
        output.print(f"{name} is there already, with these bundles")
    if version.waits_for is not None:
        role = plain(version.waits_for.role)
        output.print(
            f"\n{name} {wait_text(version.waits_for)}. Next: edgectl keys sign {role} --key KEY"
        )
    else:
        output.print(f"\n{name} is {version.state}. Next: edgectl rollout start {name} --all")


@click.group(epilog=examples("edgectl origins list", "edgectl origins forget lab"))
def origins() -> None:
    """Show and forget the servers whose exported versions are imported."""


@origins.command("list", epilog=examples("edgectl origins list", "edgectl origins list --json"))
@json_option
@pass_session
def list_origins(session: Session, *, as_json: bool) -> None:
    """List them, with the roots by which they are believed."""
    with session.connect() as client:
        page = client.origins()
    if as_json:
        print_json(page)
        return
    rows = [
        (plain(one.name), str(one.root_version), plain(one.root), age(one.imported_at))
        for one in page.items
    ]
    consoles()[0].print(table(["ORIGIN", "ROOT", "FINGERPRINT", "IMPORTED"], rows))


@origins.command(epilog=examples("edgectl origins forget lab"))
@click.argument("name", type=_Origin())
@json_option
@pass_session
def forget(session: Session, name: str, *, as_json: bool) -> None:
    """Forget an origin; the versions that came from it stay.

    The next import from there names a root again. How new its metadata was is forgotten too.
    """
    with session.connect() as client, doing(f"forgetting {name}"):
        client.forget_origin(name)
    if as_json:
        print_json({"forgotten": name})
    else:
        click.echo(f"forgot {plain(name)}")
