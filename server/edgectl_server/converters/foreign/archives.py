"""ZIP archives without trust: bounds first, then names, then the content, each byte counted.

A SavedModel comes as one; ``.keras``, ``.skops`` and ``.pt2`` files are some, too.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from edgectl_server.converters.foreign.refusal import Refusal, one_line

__all__ = ["check_archive", "unpack"]

_MEMBERS_MAX = 10_000
_DIRECTORY_BYTES_MAX = 8 * 1024 * 1024
_END = b"PK\x05\x06"
_END_BYTES_MAX = 22 + 65535
_NAME_MAX = 512
_DEPTH_MAX = 16
_READ_BYTES = 1024 * 1024
_LINK_HINT = "Push the folder itself: edgectl packs it without links and foreign paths."
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError,
               RuntimeError)  # fmt: skip


def check_archive(path: Path, bytes_max: int) -> list[zipfile.ZipInfo]:
    """Return the members of a ZIP archive that may be read.

    Args:
        path: the file.
        bytes_max: how much it may hold, unpacked, as it declares.

    Raises:
        Refusal: ``convert.damaged``, ``convert.too_large`` or ``convert.path``.
    """
    try:
        _bound_directory(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except _UNREADABLE as error:
        raise _damaged(error) from error
    if len(members) > _MEMBERS_MAX:
        raise Refusal(
            "convert.too_large",
            f"The archive has {len(members)} files, at most {_MEMBERS_MAX} are taken.",
            "Push what the model needs alone.",
        )
    declared = sum(member.file_size for member in members)
    if declared > bytes_max:
        raise _too_large(bytes_max)
    seen = set()
    for member in members:
        _check_name(member)
        if member.filename in seen:
            raise Refusal(
                "convert.path",
                f"The archive has two files of the name {member.filename[:100]!r}.",
                _LINK_HINT,
            )
        seen.add(member.filename)
    return members


def unpack(path: Path, into: Path, bytes_max: int) -> None:
    """Write the members of the archive `path` into the new folder `into`.

    Raises:
        Refusal: as `check_archive`, and when there is more in it than it declares.
    """
    members = check_archive(path, bytes_max)
    into.mkdir()
    left = bytes_max
    try:
        with zipfile.ZipFile(path) as archive:
            for member in members:
                target = into / member.filename
                if member.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("xb") as file:
                    while content := source.read(_READ_BYTES):
                        left -= len(content)
                        if left < 0:
                            raise _too_large(bytes_max)
                        file.write(content)
    except _UNREADABLE as error:
        raise _damaged(error) from error


def _bound_directory(path: Path) -> None:
    """Refuse a list of members that would take much memory, before zipfile reads it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END_BYTES_MAX))
        tail = file.read(_END_BYTES_MAX)
    end = tail.rfind(_END)
    if end < 0 or len(tail) - end < 22:  # noqa: PLR2004 - the fixed part of the record
        raise zipfile.BadZipFile("it has no end")
    members = int.from_bytes(tail[end + 10 : end + 12], "little")
    directory = int.from_bytes(tail[end + 12 : end + 16], "little")
    zip64 = tail.rfind(b"PK\x06\x06")
    if directory == 0xFFFFFFFF and zip64 >= 0:  # noqa: PLR2004 - "see the ZIP64 record"
        directory = int.from_bytes(tail[zip64 + 40 : zip64 + 48], "little")
        members = int.from_bytes(tail[zip64 + 32 : zip64 + 40], "little")
    if directory > min(size, _DIRECTORY_BYTES_MAX):
        raise Refusal(
            "convert.too_large",
            f"The archive's list of {members} files has {directory} bytes, at most"
            f" {_DIRECTORY_BYTES_MAX} are taken.",
            "Push what the model needs alone.",
        )


def _check_name(member: zipfile.ZipInfo) -> None:
    name = member.filename
    parts = PurePosixPath(name).parts
    outside = name.startswith("/") or "\\" in name or ":" in name or ".." in parts
    if outside or not parts or len(name) > _NAME_MAX or len(parts) > _DEPTH_MAX:
        raise Refusal(
            "convert.path",
            f"The archive has a file of the name {name[:100]!r}, which would be outside of it.",
            _LINK_HINT,
        )
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Refusal(
            "convert.path",
            f"In the archive {name[:100]!r} is a link or a device.",
            _LINK_HINT,
        )
    if member.flag_bits & 0x1:
        raise Refusal("convert.damaged", f"In the archive {name[:100]!r} is encrypted.")


def _too_large(bytes_max: int) -> Refusal:
    return Refusal(
        "convert.too_large",
        f"Unpacked, the model has more than {bytes_max} bytes.",
        "Push a smaller model: devices take files of up to 256 MiB.",
    )


def _damaged(error: BaseException) -> Refusal:
    return Refusal(
        "convert.damaged",
        f"The file is no readable ZIP archive: {one_line(error)}.",
        "Compare its size and SHA-256 with the original, and push it again.",
    )
