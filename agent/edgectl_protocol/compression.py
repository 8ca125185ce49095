"""Payloads of telemetry, compressed as a whole: zlib's format (RFC 1950), nothing before or after.

The envelope's type says that a payload is so (`COMPRESSED`); the signature is over what travels,
and is checked before anything is decompressed. What comes out is the message that it would have
been without, and is decoded by the same types: nothing can be said so that could not be said plain.
"""

from __future__ import annotations

import zlib

from edgectl_protocol.errors import LimitExceeded, MalformedMessage

__all__ = ["COMPRESSED", "compress", "decompress"]

COMPRESSED = "+zlib"
"""What the payload type ends in."""
_LEVEL = 6


def compress(payload: bytes) -> bytes:
    """Return the payload as it travels."""
    return zlib.compress(payload, _LEVEL)


def decompress(payload: bytes, *, bytes_max: int) -> bytes:
    """Return what a payload was before.

    Args:
        payload: as it came.
        bytes_max: no more of it is made than this, whatever it would become.

    Raises:
        LimitExceeded: it would be longer.
        MalformedMessage: it is not zlib's format, is cut off, or something stands behind it.
    """
    machine = zlib.decompressobj()
    try:
        content = machine.decompress(payload, bytes_max + 1)
    except zlib.error as error:
        raise MalformedMessage("a compressed payload that is none") from error
    if len(content) > bytes_max:
        raise LimitExceeded(f"a compressed payload of more than {bytes_max} bytes")
    if not machine.eof or machine.unused_data:
        raise MalformedMessage("a compressed payload that does not end where it should")
    return content
