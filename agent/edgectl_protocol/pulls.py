"""What a device asks for over HTTP, and how it says who it is.

Content is at the addresses of the OCI distribution specification 1.1, in one repository a model::

    /v2/models/<model>/manifests/<digest>
    /v2/models/<model>/blobs/<digest>          layers, and the chunk indexes that manifests name

Each request carries its own proof, so that there is no secret to steal from the wire or from a
mirror's log: a signature by the key of the device's certificate, over the path and the time::

    Authorization: EdgectlDevice device="<id>", at="<seconds since 1970>", proof="<hex>"
    proof = ECDSA(device's key, pull_text(…))      P-256, SHA-256, DER, hexadecimal

Whoever repeats it within `PULL_S` gets the bytes that they have seen go by, and nothing else. A
device whose clock is wrong is answered `PULL_CLOCK`, with the server's time in ``Date``, and asks
again with that.
"""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct

from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.names import DeviceId, check_digest, check_model_name

__all__ = [
    "CERTIFICATE_HEADER",
    "PULL_CLOCK",
    "PULL_S",
    "PULL_SCHEME",
    "PullProof",
    "blob_path",
    "format_pull",
    "manifest_path",
    "parse_pull",
    "pull_text",
    "repository_of",
]

PULL_SCHEME = "EdgectlDevice"
PULL_S = 300
"""A proof is good for so many seconds before and after its time."""
PULL_CLOCK = "pull.clock"
"""Code of the refusal of a proof that is out of its time."""
CERTIFICATE_HEADER = "Edgectl-Certificate"
"""For a mirror, which does not know the keys of devices: the certificate, DER in base64."""
_HEADER = re.compile(
    r'(?i:EdgectlDevice) +device="([A-Za-z0-9][A-Za-z0-9_-]{0,63})", *'
    r'at="([0-9]{1,12})", *proof="([0-9a-f]{16,144})"'
)
_HEADER_CHARACTERS_MAX = 512


class PullProof(Struct, frozen=True, kw_only=True):
    """Who asks, when, and the signature that covers both and the path."""

    device: DeviceId
    at: Annotated[int, Meta(ge=0)]
    """Seconds since 1970, UTC."""
    proof: Annotated[str, Meta(pattern=r"^[0-9a-f]{16,144}$")]


def pull_text(*, device: str, at: int, path: str) -> bytes:
    """Return what the proof covers; `path` begins with ``/v2/``, without a query."""
    return "\0".join(("edgectl-pull-request-v1", device, str(at), path)).encode()


def format_pull(proof: PullProof) -> str:
    """Return the value of the header ``Authorization``."""
    return f'{PULL_SCHEME} device="{proof.device}", at="{proof.at}", proof="{proof.proof}"'


def parse_pull(header: str) -> PullProof:
    """Return what such a header says; raise `MalformedMessage` for any other."""
    match = _HEADER.fullmatch(header[: _HEADER_CHARACTERS_MAX + 1].strip())
    if match is None:
        raise MalformedMessage(f"not the proof of a device: expected {PULL_SCHEME} device=…")
    return PullProof(device=match[1], at=int(match[2]), proof=match[3])


def repository_of(model: str) -> str:
    """Return the name of a model's repository; raise `InvalidName`."""
    return f"models/{check_model_name(model)}"


def manifest_path(model: str, digest: str) -> str:
    """Return where a manifest is."""
    return f"/v2/{repository_of(model)}/manifests/{check_digest(digest)}"


def blob_path(model: str, digest: str) -> str:
    """Return where a layer, or a chunk index, is."""
    return f"/v2/{repository_of(model)}/blobs/{check_digest(digest)}"
