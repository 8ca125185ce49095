"""Fetch the revocation list for a broker on another machine, and have it read.

Rules: a list is installed only when it is of the authority that this machine knows, is good for a
while, and is no older than the one that is there (RFC 5280 §5.2.3: by its number), because an empty
or old list lets revoked devices in. The broker is told only of another list than it has read; that
it has read one is noted in a file beside it, so that what failed is tried again.
"""

from __future__ import annotations

import hashlib
import shlex
import ssl
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx2
from cryptography import x509

from edgectl_server.distribution.mosquitto_files import check_revocation_list
from edgectl_server.errors import Refused, Unavailable
from edgectl_server.storage.files import write_durably

__all__ = ["Refreshed", "refresh_list"]

_LIST_BYTES_MAX = 16 * 1024**2
_TIMEOUT_S = 20.0
_COMMAND_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Refreshed:
    """What was done."""

    revoked: int
    """Certificates that the list names."""
    changed: bool
    """Another list than before is in the file."""
    reloaded: bool
    """The broker was told to read it."""


def refresh_list(
    url: str, *, authority: Path, output: Path, reload: str, ca: Path | None, now: datetime
) -> Refreshed:
    """Fetch the list at `url` into `output`.

    Args:
        url: of the server; its API's path is added.
        authority: PEM of the authority that signs the list.
        output: the file that the broker reads.
        reload: a command without a shell that makes the broker read it; empty: none.
        ca: PEM of the authority of the server's own certificate, with https; None: the system's.
        now: for the list's dates.

    Raises:
        Unavailable: ``broker.fetch``, ``broker.revocations``, ``broker.reload``.
        Refused: ``broker.older``: the list is older than the one that is there.
    """
    try:
        known = authority.read_bytes()
    except OSError as error:
        raise Unavailable(
            "broker.fetch", f"{authority} cannot be read", hint="name the file with --authority"
        ) from error
    content = check_revocation_list(_fetch(url, ca), known, now)
    before = output.read_bytes() if output.exists() else b""
    changed = content != before
    if changed:
        if _number(before) > _number(content):
            raise Refused(
                "broker.older",
                f"the list from {url} is older than the one in {output}",
                hint=f"see who answers at {url}; if the server's clock was wrong, delete {output}",
            )
        write_durably(output, content, mode=0o644)
    return Refreshed(
        revoked=len(x509.load_pem_x509_crl(content)),
        changed=changed,
        reloaded=bool(reload) and _reload(reload, content, output),
    )


def _fetch(url: str, ca: Path | None) -> bytes:
    at = url.rstrip("/") + "/api/v1/revocations.pem"
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        with (
            httpx2.Client(verify=context, timeout=_TIMEOUT_S, trust_env=False) as client,
            client.stream("GET", at) as answer,
        ):
            answer.raise_for_status()
            content = b""
            for part in answer.iter_bytes():
                content += part
                if len(content) > _LIST_BYTES_MAX:
                    raise Unavailable(
                        "broker.fetch", f"{at} sends too much", hint="see who answers there"
                    )
            return content
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise Unavailable(
            "broker.fetch",
            f"the revocation list cannot be fetched from {at}",
            hint="check the address, that the server runs, and --ca with https",
        ) from error


def _number(content: bytes) -> int:
    """Return a list's number; -1 for what is no list, which anything may replace."""
    try:
        extensions = x509.load_pem_x509_crl(content).extensions
        return extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (ValueError, x509.ExtensionNotFound):
        return -1


def _reload(command: str, content: bytes, output: Path) -> bool:
    """Run `command` if the broker has not read `content` yet; say whether it was run."""
    note = output.with_name(f"{output.name}.read")
    digest = hashlib.sha256(content).hexdigest().encode()
    if note.exists() and note.read_bytes() == digest:
        return False
    try:
        subprocess.run(
            shlex.split(command), check=True, capture_output=True, timeout=_COMMAND_TIMEOUT_S
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise Unavailable(
            "broker.reload",
            f"the broker was not told of the new revocation list: {command!r} has failed",
            hint="run it by hand; it is tried again at the next turn",
        ) from error
    write_durably(note, digest)
    return True
