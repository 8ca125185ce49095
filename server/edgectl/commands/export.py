"""``edgectl export``: a version as one file, for devices without a network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click

from edgectl.errors import ApiError, doing
from edgectl.output import bytes_text, consoles, print_json
from edgectl.output_files import output_option, write_output
from edgectl.progress import PushProgress
from edgectl.session import (
    MODEL_AND_VERSION,
    VARIANT,
    Session,
    examples,
    given,
    json_option,
    pass_session,
)

__all__ = ["export"]


@click.command(
    epilog=examples(
        "edgectl export har@1 -o har.oci",
        "edgectl export har@1 --variant int8 -o /media/stick/har.oci",
        "edgectl export har@1 --device-class rpi4-arm64",
    ),
)
@click.argument("model", type=MODEL_AND_VERSION)
@click.option("--variant", type=VARIANT, help="This one alone; by default all, best first.")
@click.option(
    "--device-class",
    metavar="CLASS",
    help="Only what may run on the class, what is best there first: `edgectl targets list`.",
)
@output_option
@json_option
@pass_session
def export(
    session: Session,
    model: str,
    *,
    variant: str | None,
    device_class: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write MODEL@VERSION as one file that `edgectl-agent install` takes without a network.

    The file is an OCI image layout in a tar, with the signed metadata. Its signatures end within a
    day, and a device takes it only as long as they are good. Another server takes it too: `edgectl
    import`. The fingerprint of this server's root, which it asks for the first time, is printed;
    take it there by another way than the file.
    """
    name, _, version = model.partition("@")
    output = output or Path(f"{name}-{version}.oci")
    chosen = {"variant": variant, "device_class": device_class}
    query = given(chosen)
    _, errors = consoles()
    with (
        session.connect() as client,
        doing(f"exporting {name}@{version}"),
        PushProgress(errors) as progress,
    ):
        pieces = client.export(name, version, query)
        length = write_output(output, _whole(pieces, progress.download(output.name)))
        root = f"sha256:{hashlib.sha256(client.published('root')).hexdigest()}"
    if as_json:
        print_json({"file": str(output), "bytes": length, "root": root})
        return
    click.echo(f"wrote {output}, {bytes_text(length)}")
    click.echo(f"on a device:       edgectl-agent install {output}")
    click.echo(f"on another server: edgectl import {output} --origin NAME --origin-root {root}")


def _whole(
    pieces: Iterable[tuple[bytes, int]], report: Callable[[int, int], None]
) -> Iterator[bytes]:
    """Pass pieces on; raise where they end before the length that was announced."""
    came = total = 0
    for piece, total in pieces:
        yield piece
        came += len(piece)
        report(came, total)
    if came == 0 or (total and came != total):
        raise ApiError(
            "client.answer",
            f"the file was cut off after {came} of {total} bytes",
            "try again; the server's log says more",
            status=0,
        )
