"""What can be wrong with something that a peer or a person has sent.

The tree is small and sorted by who must act::

    ProtocolError            a peer sent something outside the contract
    ├── MalformedMessage     not decodable, or a field of the wrong type
    ├── LimitExceeded        larger, longer or deeper than the contract allows
    ├── InvalidName          a device, model, version or variant name outside the grammar
    ├── InvalidRequirement   a gate or a bound that there is not, or that cannot be read
    ├── ArchiveRefused       the file of an exported version that is damaged, or none
    └── DeltaRefused         a delta that is not applied: the whole file is fetched instead

Every error carries a stable `code` (``area.problem``), which programs may compare, and a sentence
for a person, which they may not.
"""

from __future__ import annotations

__all__ = [
    "ArchiveRefused",
    "DeltaRefused",
    "InvalidName",
    "InvalidRequirement",
    "LimitExceeded",
    "MalformedMessage",
    "ProtocolError",
]


class ProtocolError(Exception):
    """A peer or a person sent something outside the contract."""

    code = "protocol.error"


class MalformedMessage(ProtocolError):
    """A message cannot be decoded, or a field has the wrong type."""

    code = "protocol.malformed"


class LimitExceeded(ProtocolError):
    """A message or a value is larger than the contract allows."""

    code = "protocol.limit"


class InvalidName(ProtocolError):
    """A device, model, version or variant name is outside the grammar."""

    code = "protocol.name"


class InvalidRequirement(ProtocolError):
    """A requirement, or the name of a gate, is outside the grammar."""

    code = "protocol.requirement"


class ArchiveRefused(ProtocolError):
    """The file of an exported version is damaged, hostile, or none; its code says which."""

    code = "offline.malformed"

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class DeltaRefused(ProtocolError):
    """A delta is damaged, hostile, or for another base; its code says which."""

    code = "delta.refused"

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
