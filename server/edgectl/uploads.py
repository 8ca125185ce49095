"""Files to the server: named by their digest, in pieces, resumed where they broke off.

1. The file is hashed in blocks, never held in memory.
2. ``HEAD /uploads/<sha256>`` says how much the server has.
3. ``PATCH`` sends pieces of `PIECE_BYTES` from there. When the connection drops or the server
   restarts, step 2 is asked again; the server's offset is the truth, not ours.

What passes by itself is waited for: a lost connection, a restart, another writer that has not
ended yet; a full disk is not. The first HEAD is not repeated: a server that was never there is
reported at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from edgectl.errors import ApiError, EdgectlError, LocalError
from edgectl.transport import Connection, Patience, is_passing

if TYPE_CHECKING:
    import httpx2

__all__ = ["BLOCK_BYTES", "PIECE_BYTES", "LocalFile", "hash_file", "upload"]

PIECE_BYTES = 4 * 1024 * 1024
BLOCK_BYTES = 256 * 1024

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


class LocalFile(NamedTuple):
    """A file and what identified it when it was hashed."""

    path: Path
    sha256: str
    size_bytes: int
    modified_ns: int


class _Offset(NamedTuple):
    bytes_done: int
    complete: bool


def hash_file(path: Path) -> LocalFile:
    """Return the SHA-256 and size of `path`; raise `LocalError` ``file.unreadable``."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise LocalError("file.unreadable", f"{path}: {error.strerror}") from error
    return LocalFile(path, digest.hexdigest(), before.st_size, before.st_mtime_ns)


def upload(connection: Connection, file: LocalFile, progress: Progress | None = None) -> None:
    """Bring `file` to the server; return when it is complete and checked there.

    Raises:
        ApiError: refused, for example by quota; ``upload.digest`` when the file has changed.
        LocalError: the file has changed or can no longer be read.
        ServerUnreachable: the connection was lost and not regained in time.
    """
    report = progress or (lambda _done, _total: None)
    patience = Patience(connection.retry)
    offset = _status(connection, file)
    report(offset.bytes_done, file.size_bytes)
    try:
        with file.path.open("rb") as source:
            _check_unchanged(source, file)
            while not offset.complete:
                try:
                    reached = _send_piece(connection, file, source, offset.bytes_done, report)
                    _check_progress(offset, reached)
                    offset = reached
                    patience.succeeded()
                except EdgectlError as error:
                    if not _may_go_on(error):
                        raise
                    patience.failed(error)
                    offset = connection.patiently(lambda: _status(connection, file))
                report(offset.bytes_done, file.size_bytes)
    except OSError as error:
        raise LocalError("file.unreadable", f"{file.path}: {error.strerror}") from error


def _may_go_on(error: EdgectlError) -> bool:
    if error.code in {"upload.offset", "upload.busy"}:
        return True
    return is_passing(error) and error.code != "upload.disk"


def _status(connection: Connection, file: LocalFile) -> _Offset:
    with connection.stream("HEAD", f"/uploads/{file.sha256}") as response:
        return _offset_of(response, file)


def _send_piece(
    connection: Connection, file: LocalFile, source: BinaryIO, start: int, report: Progress
) -> _Offset:
    length = min(PIECE_BYTES, file.size_bytes - start)
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(length),
        "Upload-Offset": str(start),
        "Upload-Length": str(file.size_bytes),
    }

    def blocks() -> Iterator[bytes]:
        source.seek(start)
        done = 0
        while done < length:
            block = source.read(min(BLOCK_BYTES, length - done))
            if not block:
                raise _changed(file)
            yield block
            done += len(block)
            report(start + done, file.size_bytes)

    path = f"/uploads/{file.sha256}"
    with connection.stream("PATCH", path, headers=headers, content=blocks()) as response:
        return _offset_of(response, file)


def _offset_of(response: httpx2.Response, file: LocalFile) -> _Offset:
    text = response.headers.get("Upload-Offset", "")
    complete = response.headers.get("Upload-Complete", "") == "?1"
    if not (text.isascii() and text.isdigit()) or int(text) > file.size_bytes:
        raise ApiError(
            "client.answer",
            f"the server says Upload-Offset {text!r} for a file of {file.size_bytes} bytes",
            "is this the address of an edgectl server of the same version? `edgectl doctor`",
            status=response.status_code,
        )
    return _Offset(file.size_bytes if complete else int(text), complete)


def _check_progress(before: _Offset, after: _Offset) -> None:
    if not after.complete and after.bytes_done <= before.bytes_done:
        raise ApiError(
            "client.answer",
            f"the server took a piece and stayed at offset {after.bytes_done}",
            "look into the server's log, then push again: what has arrived is kept",
            status=204,
        )


def _check_unchanged(source: BinaryIO, file: LocalFile) -> None:
    now = os.fstat(source.fileno())
    if (now.st_size, now.st_mtime_ns) != (file.size_bytes, file.modified_ns):
        raise _changed(file)


def _changed(file: LocalFile) -> LocalError:
    return LocalError(
        "file.changed", f"{file.path} has changed while it was uploaded", "push it again"
    )
