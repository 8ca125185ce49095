"""Of whom a judgement is asked: the whole fleet, a site or a device; and of which bundle."""

from __future__ import annotations

import click

from edgectl.session import DEVICE, Command, given

__all__ = ["group_options", "group_query"]


def group_options(command: Command) -> Command:
    """Add ``--site``, ``--device`` and ``--manifest``; `group_query` takes what they give."""
    for option in (
        click.option(
            "--manifest", default=None, help="Of this bundle; else of the one judged last."
        ),
        click.option("--device", type=DEVICE, default=None, help="Of this device."),
        click.option("--site", default=None, help="Of this site; else of the whole fleet."),
    ):
        command = option(command)
    return command


def group_query(
    site: str | None, device: str | None, manifest: str | None
) -> list[tuple[str, str]]:
    """Return the parameters of the question; raise `click.UsageError` for two in one."""
    if site is not None and device is not None:
        raise click.UsageError("--site and --device are two questions: ask one of them")
    return given({"site": site, "device": device, "manifest": manifest})
