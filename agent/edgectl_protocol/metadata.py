"""How our TUF repository is laid out: paths of targets, bins, and the key for orders.

Targets are bundle manifests. They are spread over 16 hash bins (TUF 1.0.33 §4.5.1, succinct roles),
so that a device fetches the part that it needs. The keys that sign orders are listed in the signed
root, beside those of the other online roles, in a field of our own: replacing one is an ordinary
root rotation.
"""

from __future__ import annotations

import re

from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.names import check_model_name, check_variant, check_version

__all__ = [
    "BIN_BIT_LENGTH",
    "BIN_NAME_PREFIX",
    "METADATA_BYTES_MAX",
    "ORDER_KEYS_FIELD",
    "parse_metadata_file",
    "target_path",
]

BIN_NAME_PREFIX = "bin"
BIN_BIT_LENGTH = 4
ORDER_KEYS_FIELD = "x-edgectl-order-keys"
"""Field of the signed root: ``{keyid: key}`` in TUF's key format."""
METADATA_BYTES_MAX = 100 * 1024


def target_path(model: str, version: str, variant: str) -> str:
    """Return the TUF target path of a bundle manifest."""
    return f"models/{check_model_name(model)}/{check_version(version)}/{check_variant(variant)}"


def parse_metadata_file(name: str) -> tuple[str, int | None]:
    """Split a metadata file name, as a TUF client asks for it, into role and version.

    ``timestamp.json`` has no version; every other file has one, such as ``12.bin-3.json``.
    """
    if name == "timestamp.json":
        return "timestamp", None
    match = re.fullmatch(
        r"([1-9][0-9]{0,9})\.(root|snapshot|targets|bin-[0-9a-f]{1,8})\.json", name
    )
    if match is None:
        raise MalformedMessage(f"{name[:80]!r} is not a metadata file of ours")
    return match[2], int(match[1])
