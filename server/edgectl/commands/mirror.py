"""``edgectl mirror``: bundles for a site, fetched once over its line to the server."""

from __future__ import annotations

import json
import logging
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from edgectl.clock import now
from edgectl.errors import LocalError, doing
from edgectl.output import bytes_text
from edgectl.session import Session, examples, json_option, pass_session
from edgectl.sizes import Size

if TYPE_CHECKING:
    from edgectl.mirror.service import Mirror

__all__ = ["mirror"]


@click.command(
    epilog=examples(
        "edgectl mirror --folder /var/cache/edgectl --host 10.0.0.2",
        "edgectl mirror --folder /var/cache/edgectl --size 50G --port 8081",
    ),
)
@click.option(
    "--folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where bundles are kept; it belongs to the mirror alone.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8081, show_default=True)
@click.option(
    "--size",
    type=Size("512M", "20G"),
    default="10G",
    show_default=True,
    help="Most that is kept, from 512M.",
)
@click.option(
    "--open", "is_open", is_flag=True, help="Let everybody who reaches it pull, without a proof."
)
@json_option
@pass_session
def mirror(
    session: Session,
    *,
    folder: Path,
    host: str,
    port: int,
    size: int,
    is_open: bool,
    as_json: bool,
) -> None:
    """Serve bundles to the devices of a site, fetched from the server once.

    Devices find it by `mirror` in agent.toml. They check what it gives as they check the server,
    and go on with the broker where it is away. It needs a token that reads.
    """
    from edgectl.mirror.cache import Cache
    from edgectl.mirror.door import Door
    from edgectl.mirror.service import Mirror
    from edgectl.mirror.upstream import Upstream

    client = session.connect()
    client.close()
    with doing(f"starting a mirror of {session.address()}"):
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
        upstream = Upstream(session.address(), session.token(), authority=session.authority())
        cache = Cache(folder, size)
        door = None if is_open else Door(folder, upstream, now)
        try:
            server = Mirror(host, port, cache=cache, upstream=upstream, door=door)
        except OSError as error:
            raise LocalError(
                "mirror.address", f"cannot listen on {host}:{port}: {error}"
            ) from error
    url = f"http://{host}:{server.server_address[1]}"
    if as_json:
        # One line, because who starts it waits for one.
        click.echo(json.dumps({"ready": True, "url": url, "bytes": cache.bytes_held}))
    else:
        click.echo(f"{url} mirrors {upstream.url}, {bytes_text(cache.bytes_held)} are here")
    _serve(server)
    upstream.close()


def _serve(server: Mirror) -> None:
    """Serve until SIGTERM or SIGINT."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        # `shutdown` waits for the loop that this very thread runs.
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with server:
        server.serve_forever(poll_interval=0.2)
