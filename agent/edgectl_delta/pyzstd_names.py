"""What `frames` needs of Zstandard, on pyzstd: the forerunner of what Python 3.14 has.

Debian 13 has this one alone. It does the same under other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyzstd
from pyzstd import ZstdDict, ZstdError

__all__ = [
    "CompressionParameter",
    "DecompressionParameter",
    "ZstdDecompressor",
    "ZstdDict",
    "ZstdError",
    "compress",
]


class CompressionParameter:
    """As in ``compression.zstd``, as far as it is used here."""

    compression_level = pyzstd.CParameter.compressionLevel
    content_size_flag = pyzstd.CParameter.contentSizeFlag
    dict_id_flag = pyzstd.CParameter.dictIDFlag
    enable_long_distance_matching = pyzstd.CParameter.enableLongDistanceMatching
    window_log = pyzstd.CParameter.windowLog


class DecompressionParameter:
    """As in ``compression.zstd``."""

    window_log_max = pyzstd.DParameter.windowLogMax


def compress(content: bytes, *, options: Mapping[Any, int], zstd_dict: Any) -> bytes:
    """Return one frame."""
    made: bytes = pyzstd.compress(content, dict(options), zstd_dict)
    return made


def ZstdDecompressor(*, zstd_dict: Any, options: Mapping[Any, int]) -> Any:  # noqa: N802
    """Return a decompressor of one frame."""
    return pyzstd.ZstdDecompressor(zstd_dict, dict(options))
