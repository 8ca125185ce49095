"""How our TUF repository is laid out: roles, paths of targets, bins, and the keys for orders.

::

    root ── targets ─┬─ <family>   models/<pattern>/*/*   a team's own keys and threshold
                     └─ models     models/*/*/*           ── bin-00 … bin-3f

Targets are bundle manifests. A model family is asked first and has the last word on what its
patterns cover (TUF 1.0.33 §4.5, terminating). Everything else is spread over 64 hash bins (succinct
roles), so that a device fetches the part that it needs: with 10,000 targets less than 100 KB in
all. The keys that sign orders are listed in the signed root, beside those of the other online
roles, in a field of our own: replacing one is an ordinary root rotation.
"""

from __future__ import annotations

import re

from edgectl_protocol.errors import InvalidName, MalformedMessage
from edgectl_protocol.names import (
    check_metadata_role,
    check_model_name,
    check_variant,
    check_version,
)

__all__ = [
    "BIN_BIT_LENGTH",
    "BIN_NAME_PREFIX",
    "KEY_NAME_FIELD",
    "METADATA_BYTES_MAX",
    "MODELS_PATTERN",
    "MODELS_ROLE",
    "ORDER_KEYS_FIELD",
    "check_family",
    "family_pattern",
    "parse_metadata_file",
    "target_path",
]

BIN_NAME_PREFIX = "bin"
BIN_BIT_LENGTH = 6
MODELS_ROLE = "models"
MODELS_PATTERN = "models/*/*/*"
ORDER_KEYS_FIELD = "x-edgectl-order-keys"
"""Field of the signed root: ``{keyid: key}`` in TUF's key format."""
KEY_NAME_FIELD = "x-edgectl-name"
"""Field of a key in signed metadata: whose it is, for people."""
METADATA_BYTES_MAX = 100 * 1024
_RESERVED = frozenset(
    {"root", "targets", "snapshot", "timestamp", MODELS_ROLE, "orders", "head", "bin", "bins"}
)
_NEWEST_ONLY = frozenset({"timestamp", "head"})


def target_path(model: str, version: str, variant: str) -> str:
    """Return the TUF target path of a bundle manifest."""
    return f"models/{check_model_name(model)}/{check_version(version)}/{check_variant(variant)}"


def check_family(name: str) -> str:
    """Return `name` if a model family can have it; raise `InvalidName` otherwise."""
    check_metadata_role(name)
    if name in _RESERVED or name.startswith(f"{BIN_NAME_PREFIX}-"):
        raise InvalidName(f"{name!r} is the name of another role: choose another for the family")
    return name


def family_pattern(models: str) -> str:
    """Return the path pattern for a model's name, or for the beginning of one and ``*``.

    Raises:
        InvalidName: `models` is neither.
    """
    beginning = models.removesuffix("*")
    if beginning or not models:
        check_model_name(beginning)
    return f"models/{models}/*/*"


def parse_metadata_file(name: str) -> tuple[str, int | None]:
    """Split a metadata file name, as a TUF client asks for it, into role and version.

    ``timestamp.json`` has no version; every other file has one, such as ``12.bin-3f.json``.
    """
    if name == "timestamp.json":
        return "timestamp", None
    match = re.fullmatch(r"([1-9][0-9]{0,9})\.([a-z][a-z0-9-]{0,31})\.json", name)
    if match is None or match[2] in _NEWEST_ONLY:
        raise MalformedMessage(f"{name[:80]!r} is not a metadata file of ours")
    return match[2], int(match[1])
