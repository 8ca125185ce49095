"""Names and digests: their grammar, and the one place that checks it.

Device and model names become MQTT topic levels, file names and URL segments, so they hold no dot,
slash, space or wildcard. Versions and variants never become topic levels and may hold dots.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

import msgspec

from edgectl_protocol.errors import InvalidName

__all__ = [
    "DeviceId",
    "Digest",
    "GroupName",
    "ModelName",
    "Variant",
    "Version",
    "check_device_id",
    "check_digest",
    "check_group_name",
    "check_model_name",
    "check_variant",
    "check_version",
    "digest_of",
    "hex_of",
]

_DEVICE = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
_MODEL = r"^[a-z0-9][a-z0-9_-]{0,63}$"
_VERSION = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$"
_VARIANT = r"^[a-z0-9][a-z0-9._-]{0,63}$"
_GROUP = r"^[a-z0-9][a-z0-9._-]{0,63}$"
_DIGEST = r"^sha256:[0-9a-f]{64}$"
_METADATA_ROLE = r"^[a-z][a-z0-9-]{0,31}$"

DeviceId = Annotated[str, msgspec.Meta(pattern=_DEVICE)]
ModelName = Annotated[str, msgspec.Meta(pattern=_MODEL)]
Version = Annotated[str, msgspec.Meta(pattern=_VERSION)]
Variant = Annotated[str, msgspec.Meta(pattern=_VARIANT)]
GroupName = Annotated[str, msgspec.Meta(pattern=_GROUP)]
"""What the operator calls devices that belong together; never said by the device."""
Digest = Annotated[str, msgspec.Meta(pattern=_DIGEST)]
"""A content address in OCI notation, ``sha256:`` and 64 hexadecimal digits."""

RESERVED_DEVICE_IDS = frozenset({"server", "broker", "operator", "probe"})
"""Certificate names of the control plane itself; no device may enrol under them, in any case."""


def _check(kind: str, pattern: str, value: str) -> str:
    if not re.fullmatch(pattern, value):
        shown = value if len(value) <= 80 else value[:77] + "..."  # noqa: PLR2004
        raise InvalidName(f"{shown!r} is not a {kind}: expected {pattern}")
    return value


def check_device_id(value: str) -> str:
    """Return `value` if it can be a device's name; raise `InvalidName` otherwise."""
    _check("device name", _DEVICE, value)
    if value.lower() in RESERVED_DEVICE_IDS:
        raise InvalidName(
            f"{value!r} is reserved for the control plane: choose another device name"
        )
    return value


def check_model_name(value: str) -> str:
    """Return `value` if it can be a model's name; raise `InvalidName` otherwise."""
    return _check("model name", _MODEL, value)


def check_version(value: str) -> str:
    """Return `value` if it can be a model version; raise `InvalidName` otherwise."""
    return _check("model version", _VERSION, value)


def check_variant(value: str) -> str:
    """Return `value` if it can be a variant's name; raise `InvalidName` otherwise."""
    return _check("variant name", _VARIANT, value)


def check_group_name(value: str) -> str:
    """Return `value` if it can be a group's name; raise `InvalidName` otherwise."""
    return _check("group name", _GROUP, value)


def check_digest(value: str) -> str:
    """Return `value` if it is a content address; raise `InvalidName` otherwise."""
    return _check("digest", _DIGEST, value)


def digest_of(content: bytes | bytearray | memoryview) -> str:
    """Return the content address of `content`."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def check_metadata_role(value: str) -> str:
    """Return `value` if it can be the name of signed metadata; raise `InvalidName` otherwise.

    It becomes a topic level and a file name. Which names there are, the signed metadata says.
    """
    return _check("metadata role", _METADATA_ROLE, value)


def hex_of(digest: str) -> str:
    """Return the 64 hexadecimal digits of a content address, as topics and file names use them."""
    return check_digest(digest).removeprefix("sha256:")
