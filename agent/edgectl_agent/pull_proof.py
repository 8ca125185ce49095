"""Says who this device is where it pulls over HTTP: see `edgectl_protocol.pulls`.

A mirror does not know the keys of devices. It is sent the certificate as well, so that it can check
both against the authority of the installation.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import datetime

from edgectl_agent.durable import Disk
from edgectl_agent.enrol import CERTIFICATE_PATH
from edgectl_agent.http_pull import Proof
from edgectl_agent.signing import Signer
from edgectl_protocol.pulls import CERTIFICATE_HEADER, PullProof, format_pull, pull_text

__all__ = ["make_proof", "read_certificate"]

_CERTIFICATE_BYTES_MAX = 65536


def make_proof(
    device: str,
    signer: Signer,
    *,
    now: Callable[[], datetime],
    certificate: Callable[[], str] = lambda: "",
) -> Proof:
    """Return what makes the headers of a request.

    Args:
        device: its name.
        signer: the key of its certificate.
        now: the wall clock.
        certificate: the certificate to send along, DER in base64; empty: none.
    """

    def proof(path: str, server_s: int | None) -> Mapping[str, str]:
        at = int(now().timestamp()) if server_s is None else server_s
        signature = signer.sign(pull_text(device=device, at=at, path=path)).hex()
        text = format_pull(PullProof(device=device, at=at, proof=signature))
        sent = certificate()
        return {"Authorization": text} | ({CERTIFICATE_HEADER: sent} if sent else {})

    return proof


def read_certificate(disk: Disk) -> str:
    """Return the device's certificate as it is sent: DER in base64; empty where it is damaged."""
    try:
        pem = disk.read(CERTIFICATE_PATH, _CERTIFICATE_BYTES_MAX).decode()
        body = pem.partition("-----BEGIN CERTIFICATE-----")[2]
        der = base64.b64decode(body.partition("-----END CERTIFICATE-----")[0])
    except (OSError, ValueError, binascii.Error):
        return ""
    return base64.b64encode(der).decode()
