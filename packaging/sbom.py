"""The bill of materials of a Debian package, from the lock file that it was built from.

CycloneDX 1.6 in JSON: the package, and each wheel in it with its version and digests. Made of
nothing but the lock file and the time of the build, so two builds give the same bytes.
"""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["bill_of_materials", "read_lock"]

_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.+!]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_NAMESPACE = uuid.UUID("6f9a6c3e-6f0b-5c0e-9d5b-0e1d6a2b7c11")
"""Of our serial numbers: any, but always this."""


def read_lock(path: Path) -> list[tuple[str, str, list[str]]]:
    """Return name, version and SHA-256 digests of each wheel in a lock file."""
    found: list[tuple[str, str, list[str]]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := _LINE.match(line):
            found.append((match["name"], match["version"], []))
        for digest in _HASH.findall(line):
            found[-1][2].append(digest)
    return found


def bill_of_materials(name: str, version: str, lock: Path, epoch: int) -> bytes:
    """Return the document of one package.

    Args:
        name: of the Debian package.
        version: of the Debian package.
        lock: its lock file.
        epoch: time of the build, seconds since 1970.
    """
    components = [_component(*one) for one in read_lock(lock)]
    subject = f"pkg:deb/edgectl/{name}@{version}"
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, subject + lock.read_text())}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": subject,
                "name": name,
                "version": version,
                "purl": subject,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
        },
        "components": components,
        "dependencies": [
            {"ref": subject, "dependsOn": sorted(one["bom-ref"] for one in components)},
            *({"ref": one["bom-ref"]} for one in components),
        ],
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def _component(name: str, version: str, digests: list[str]) -> dict[str, Any]:
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        # One wheel for each architecture: they are files of one component.
        "components": [
            {
                "type": "file",
                "bom-ref": f"{purl}#{digest[:16]}",
                "name": f"{name}-{version}.whl",
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
            for digest in digests
        ],
    }
