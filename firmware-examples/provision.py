"""Write the identity of an enrolled device for one of the agents here.

    edgectl-agent enrol --server http://… --device mcu-1 --token ee_… --state mcu-1
    python firmware-examples/provision.py mcu-1 flash.bin              # a microcontroller's flash
    python firmware-examples/provision.py pi-1 agent/identity --file   # the agent's in C, on Linux

The key is made where this runs, and is in the flash or the file afterwards: remove the folder then.
A board that makes its own key needs a firmware that enrols. ``--address`` is where the device
reaches the broker, when that is not the address of the enrolment; the broker's certificate is
checked for the latter in any case. The format is in ``wire/identity.h``.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import zlib
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_pem_x509_certificate

FLASH_BYTES = 1024 * 1024
IDENTITY_AT = 2 * 4096 + 2 * 256 * 1024
"""``SLOTS_END`` of ``node/device.h``."""
IDENTITY_BYTES_MAX = 4096
ORDER_KEYS_FIELD = "x-edgectl-order-keys"
_ORDER_KEYS_MAX = 8


def identity(state: Path, address: str | None) -> bytes:
    """Return the identity of a device, from the state folder of an enrolment.

    Args:
        state: folder with ``identity/enrolment.json`` and the files beside it.
        address: of the broker, for microcontrollers IPv4; None: as the enrolment says.

    Raises:
        SystemExit: it is none, or too long, or an order key is not of Ed25519.
    """
    folder = state / "identity"
    if not (folder / "enrolment.json").is_file():
        raise SystemExit(f"{folder} holds no enrolment: enrol the device first")
    enrolment = json.loads((folder / "enrolment.json").read_bytes())
    broker = enrolment["broker"]
    authority = load_pem_x509_certificate((folder / "authority.pem").read_bytes())
    certificate = load_pem_x509_certificate((folder / "certificate.pem").read_bytes())
    key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
    key_id = Hash(SHA256())
    key_id.update(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    fields = (
        enrolment["device"].encode(),
        (address or broker["host"]).encode(),
        struct.pack("<H", broker["port"]),
        broker["host"].encode(),
        key_id.finalize().hex().encode(),
        authority.public_bytes(Encoding.DER),
        certificate.public_bytes(Encoding.DER),
        key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        _order_keys((folder / "root.json").read_bytes()),
    )
    rest = b"".join(struct.pack("<H", len(field)) + field for field in fields)
    content = b"EMI1" + struct.pack("<II", len(rest), zlib.crc32(rest)) + rest
    if len(content) > IDENTITY_BYTES_MAX:
        raise SystemExit(f"an identity of {len(content)} bytes, at most {IDENTITY_BYTES_MAX}")
    return content


def _order_keys(root: bytes) -> bytes:
    """Return the public keys that may sign orders, as the root of the enrolment lists them."""
    listed = json.loads(root)["signed"][ORDER_KEYS_FIELD]
    others = sorted({one["keytype"] for one in listed.values()} - {"ed25519"})
    if others or not 0 < len(listed) <= _ORDER_KEYS_MAX:
        raise SystemExit(f"{len(listed)} order keys {others}: a microcontroller checks Ed25519")
    return b"".join(bytes.fromhex(one["keyval"]["public"]) for one in listed.values())


def write(content: bytes, flash: Path) -> None:
    """Put an identity into the file of a flash, which is made if there is none; the rest stays."""
    if not flash.exists():
        flash.write_bytes(b"\xff" * FLASH_BYTES)
    if flash.stat().st_size != FLASH_BYTES:
        raise SystemExit(f"{flash} is no flash of {FLASH_BYTES} bytes")
    with flash.open("r+b") as opened:
        opened.seek(IDENTITY_AT)
        opened.write(content.ljust(IDENTITY_BYTES_MAX, b"\xff"))


def write_file(content: bytes, path: Path) -> None:
    """Write an identity as a file of its own, which holds the key: for its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    opened = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(opened, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a device's identity.")
    parser.add_argument("state", type=Path, help="state folder of the enrolment")
    parser.add_argument("target", type=Path, help="file that stands for the flash, or the identity")
    parser.add_argument("--file", action="store_true", help="the target is the identity alone")
    parser.add_argument("--address", help="of the broker, as the device reaches it")
    arguments = parser.parse_args()
    found = identity(arguments.state, arguments.address)
    if arguments.file:
        write_file(found, arguments.target)
    else:
        write(found, arguments.target)
