"""A dataset from the server as a folder: taken out of a tar file, and believed piece by piece.

Rules: only the names of a dataset's files are taken, each once, as regular files within bounds;
blobs must have the digest that they are called by. The folder has its name only when it is whole.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from edgectl.errors import ApiError, LocalError

__all__ = ["unpack"]

_MEMBER = re.compile(
    r"[a-z0-9][a-z0-9._-]{0,63}/(dataset\.json|rows\.parquet|blobs/([0-9a-f]{64})\.safetensors)"
)
_FILE_BYTES_MAX = 64 * 1024**2
_BYTES_MAX = 3 * 1024**3
_FILES_MAX = 20_002
_NEEDED = frozenset({"dataset.json", "rows.parquet"})


def unpack(pieces: Iterator[bytes], target: Path) -> int:
    """Write the dataset to the folder `target`, which must not be there; return its bytes.

    Raises:
        ApiError: ``client.answer``: it is no such archive, or was cut off.
        LocalError: ``dataset.output``.
    """
    if target.exists():
        raise LocalError(
            "dataset.output", f"{target} is there already", "choose another place with --output"
        )
    try:
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            total = _take_out(_Pieces(pieces), beside)
            beside.chmod(0o755)
            beside.replace(target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise LocalError(
            "dataset.output",
            f"cannot write {target}: {error.strerror}",
            "choose another place with --output",
        ) from error
    return total


def _take_out(file: _Pieces, folder: Path) -> int:
    (folder / "blobs").mkdir()
    total, taken = 0, set[str]()
    try:
        with tarfile.open(fileobj=file, mode="r|") as archive:  # type: ignore[call-overload,unused-ignore]
            for member in archive:
                found = _MEMBER.fullmatch(member.name)
                name = found.group(1) if found else ""
                fits = member.isreg() and member.size <= _FILE_BYTES_MAX
                if not name or not fits or name in taken or len(taken) >= _FILES_MAX:
                    raise _no_answer(f"a member {member.name[:100]!r} of {member.size} bytes")
                total += member.size
                if total > _BYTES_MAX:
                    raise _no_answer(f"more than {_BYTES_MAX} bytes")
                content = _content(archive.extractfile(member), member.size)
                digest = found.group(2) if found else None
                if digest and hashlib.sha256(content).hexdigest() != digest:
                    raise _no_answer(f"{name} has other content")
                (folder / name).write_bytes(content)
                taken.add(name)
    except tarfile.TarError as error:
        raise _no_answer(f"no tar file: {error}") from error
    if not taken >= _NEEDED:
        raise _no_answer("the archive was cut off")
    return total


def _content(file: IO[bytes] | None, size: int) -> bytes:
    content = file.read(size) if file is not None else b""
    if len(content) != size:
        raise _no_answer("the archive was cut off")
    return content


def _no_answer(detail: str) -> ApiError:
    return ApiError(
        "client.answer",
        f"the server sends no dataset: {detail}",
        "try again; the server's log says more",
        status=0,
    )


class _Pieces:
    """What comes in pieces, as a file that is read once."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, count: int) -> bytes:
        """Return `count` bytes, fewer at the end."""
        while len(self._rest) < count:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._rest += piece
        found, self._rest = self._rest[:count], self._rest[count:]
        return found
