"""Zstandard with bounds: nothing is decompressed beyond the length that was announced."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edgectl_protocol.deltas import FRAME_BYTES_MAX
from edgectl_protocol.errors import DeltaRefused

if TYPE_CHECKING:
    from backports import zstd
elif sys.version_info >= (3, 14):
    from compression import zstd
else:
    try:
        from backports import zstd
    except ImportError:
        from edgectl_delta import pyzstd_names as zstd

__all__ = ["pack", "pieces", "unpack"]

_WINDOW_LOG_MAX = 23
"""Of what is decompressed: 8 MiB of memory."""
_INPUT_BYTES = 64 * 1024
_OUTPUT_BYTES = 256 * 1024
_LONG_BYTES = 2**17
_LEVEL = 19
_NO_PREFIX = b""
_PREFIX_BYTES_MIN = 8
_MAGIC = b"\x28\xb5\x2f\xfd"
"""Of every frame; it is left out, for small deltas."""


def pack(content: bytes, prefix: bytes = _NO_PREFIX, *, level: int = _LEVEL) -> bytes:
    """Return one frame, without its magic number; what `prefix` holds already costs little."""
    prefix = _usable(prefix)
    parameter = zstd.CompressionParameter
    span = max(len(content) + len(prefix), 1)
    options: dict[int, int] = {
        parameter.compression_level: level,
        parameter.content_size_flag: 0,
        parameter.dict_id_flag: 0,
    }
    if prefix:
        options[parameter.window_log] = min(max((span - 1).bit_length(), 10), _WINDOW_LOG_MAX)
        if span > _LONG_BYTES:
            options[parameter.enable_long_distance_matching] = 1
    dictionary = zstd.ZstdDict(prefix, is_raw=True).as_prefix if prefix else None
    made = zstd.compress(content, options=options, zstd_dict=dictionary)
    assert made.startswith(_MAGIC)
    return made.removeprefix(_MAGIC)


def _usable(prefix: bytes) -> bytes:
    """Return the prefix, or none: zstd takes no shorter one."""
    return prefix if len(prefix) >= _PREFIX_BYTES_MIN else _NO_PREFIX


def unpack(content: bytes, length: int, prefix: bytes = _NO_PREFIX) -> bytes:
    """Return the `length` bytes of a frame.

    Raises:
        DeltaRefused: it is damaged, or holds more or less than that.
    """
    offset = 0

    def read(size: int) -> bytes:
        nonlocal offset
        offset += size
        return content[offset - size : offset]

    return b"".join(pieces(read, len(content), length, prefix))


def pieces(
    read: Callable[[int], bytes], packed: int, length: int, prefix: bytes = _NO_PREFIX
) -> Iterator[bytes]:
    """Yield the `length` bytes of a frame of `packed` bytes, in pieces.

    Args:
        read: returns the next bytes of the frame, exactly as many as it is asked for.
        packed: length of the frame.
        length: what it must hold.
        prefix: what it was compressed against.

    Raises:
        DeltaRefused: as `unpack`.
    """
    assert length <= FRAME_BYTES_MAX
    prefix = _usable(prefix)
    parameter = zstd.DecompressionParameter.window_log_max
    dictionary = zstd.ZstdDict(prefix, is_raw=True).as_prefix if prefix else None
    stream = zstd.ZstdDecompressor(zstd_dict=dictionary, options={parameter: _WINDOW_LOG_MAX})
    left = length
    try:
        stream.decompress(_MAGIC)
        while not stream.eof:
            taken = b""
            if stream.needs_input:
                if packed == 0:
                    raise DeltaRefused("delta.truncated", "a frame ends early")
                taken = read(min(packed, _INPUT_BYTES))
                packed -= len(taken)
            made = stream.decompress(taken, max_length=min(left + 1, _OUTPUT_BYTES))
            left -= len(made)
            if left < 0:
                raise DeltaRefused("delta.limit", f"a frame of more than {length} bytes")
            if made:
                yield made
    except zstd.ZstdError as error:
        raise DeltaRefused("delta.malformed", "a frame that zstd does not read") from error
    if left or packed or stream.unused_data:
        raise DeltaRefused("delta.malformed", f"a frame with {left} of {length} bytes missing")
