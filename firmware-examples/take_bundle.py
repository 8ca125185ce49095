"""Take the file for a microcontroller out of what ``edgectl export`` has written.

    edgectl export har@1 --variant cortex-m-int8 -o har.oci
    python firmware-examples/take_bundle.py har.oci model.emb

It checks that the file is the one that the manifest names. Who signed it is for the microcontroller
to check.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

BLOB_BYTES_MAX = 64 * 1024 * 1024
TITLE = "org.opencontainers.image.title"
FILE = "model.emb"
_LEVELS = 2
"""An index may name indexes."""


def take(archive: Path, target: Path) -> None:
    """Write the bundle for microcontrollers that is in an OCI image layout in a tar.

    Raises:
        SystemExit: there is none, or it is damaged.
    """
    with tarfile.open(archive) as opened:
        found = _find(opened, json.loads(_member(opened, "index.json")), _LEVELS)
        if found is None:
            raise SystemExit(f"{archive} holds no {FILE}: export a variant cortex-m-int8")
        target.write_bytes(_blob(opened, found))


def _find(opened: tarfile.TarFile, document: dict[str, Any], levels: int) -> str | None:
    """Return the digest of the file in a manifest, or in those that an index names."""
    for layer in document.get("layers", ()):
        if layer.get("annotations", {}).get(TITLE) == FILE:
            return str(layer["digest"])
    for one in document.get("manifests", ()) if levels else ():
        found = _find(opened, json.loads(_blob(opened, one["digest"])), levels - 1)
        if found is not None:
            return found
    return None


def _blob(opened: tarfile.TarFile, digest: str) -> bytes:
    kind, _, name = digest.partition(":")
    content = _member(opened, f"blobs/{kind}/{name}")
    if kind != "sha256" or hashlib.sha256(content).hexdigest() != name:
        raise SystemExit(f"{digest} is damaged")
    return content


def _member(opened: tarfile.TarFile, name: str) -> bytes:
    try:
        member = opened.extractfile(name)
    except KeyError:
        member = None
    if member is None:
        raise SystemExit(f"{opened.name!r} has no {name}")
    return member.read(BLOB_BYTES_MAX)


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))
