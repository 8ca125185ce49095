"""The blob store: content by its digest, in a folder or in an S3 bucket.

Rules: a blob is added whole, once, and never changed; its name is the SHA-256 of its content, which
is checked before it is added. A blob whose size is wrong (power loss, full disk) is written again.
Memory is bounded whatever the blob's size.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from edgectl_protocol.names import digest_of, hex_of
from edgectl_server.clock import now
from edgectl_server.errors import NotFound, Refused, Unavailable
from edgectl_server.storage.files import (
    make_private_directory,
    move_durably,
    sync_directory,
    sync_file,
)

__all__ = ["BlobStore", "file_digest"]

_READ_BYTES = 1024**2
_NAME = re.compile(r"[0-9a-f]{64}")
_SINGLE_PUT_BYTES_MAX = 8 * 1024**2
"""Larger files are put in parts, so that they are never whole in memory."""
_PART_BYTES = 8 * 1024**2
_PARTS_AT_ONCE = 2
_STALE_S = 3600
_RETRY: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=15)}
"""An object store that does not answer: who asks is told before they give up by themselves."""


def file_digest(path: Path) -> str:
    """Return the content address of the file `path`, reading it in pieces."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            state.update(piece)
    return f"sha256:{state.hexdigest()}"


class BlobStore:
    """Blobs in a folder (an absolute path) or at a URL such as ``s3://bucket/prefix``."""

    def __init__(self, url: str) -> None:
        """Open the store; a folder is made when it is not there.

        Raises:
            Unavailable: ``blobs.unavailable``.
        """
        self._directory: Path | None = None
        self._store: Any
        if "://" not in url:
            self._directory = make_private_directory(Path(url))
            _remove_stale(self._directory)
            self._store = LocalStore(str(self._directory))
        else:
            try:
                self._store = from_url(url, retry_config=_RETRY)
            except (BaseError, ValueError) as error:
                raise Unavailable(
                    "blobs.unavailable",
                    f"cannot open the blob store {url}",
                    hint="check blobs_url, and the credentials in the environment",
                ) from error

    def add_file(self, path: Path, *, expected: str | None = None, consume: bool = False) -> str:
        """Add the content of the file `path` and return its digest.

        Args:
            path: a file that nobody writes to any more.
            expected: what the digest must be.
            consume: the file is not needed any more and may be moved into the store.

        Raises:
            Refused: ``blob.digest``: the content is not `expected`.
            Unavailable: ``blobs.unavailable``: the store does not take it.
        """
        digest = file_digest(path)
        if expected is not None and digest != expected:
            raise Refused("blob.digest", f"the content is {digest}, expected {expected}")
        size = path.stat().st_size
        if consume and self._directory is not None and _same_device(path, self._directory):
            move_durably(path, self._directory / _key(digest))
            return digest
        if size <= _SINGLE_PUT_BYTES_MAX:
            self._put(digest, size, path.read_bytes())
        else:
            self._put(digest, size, path)
        if consume:
            path.unlink()
        return digest

    def add_bytes(self, content: bytes) -> str:
        """Add `content` and return its digest."""
        digest = digest_of(content)
        self._put(digest, len(content), content)
        return digest

    def exists(self, digest: str) -> bool:
        """Say whether the blob is there."""
        return self._stored_size(digest) is not None

    def size(self, digest: str) -> int:
        """Return the length of a blob in bytes; raise `NotFound` ``blob.missing``."""
        size = self._stored_size(digest)
        if size is None:
            raise _missing(digest)
        return size

    def read(self, digest: str, start: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes of a blob from `start`, or all from there; fewer at its end."""
        end = self.size(digest)
        stop = end if length is None else min(end, start + length)
        if start >= stop:
            return b""
        try:
            return bytes(obstore.get_range(self._store, _key(digest), start=start, end=stop))
        except FileNotFoundError as error:
            raise _missing(digest) from error
        except BaseError as error:
            raise _unavailable("read", digest) from error

    def stream(self, digest: str, chunk_bytes: int = 65536) -> Iterator[bytes]:
        """Yield a blob in pieces of `chunk_bytes`, the last one shorter; an empty one has none."""
        yield from self.stream_range(digest, 0, self.size(digest), chunk_bytes)

    def stream_range(
        self, digest: str, start: int, stop: int, chunk_bytes: int = 65536
    ) -> Iterator[bytes]:
        """Yield the bytes of a blob from `start` to before `stop`, in pieces of `chunk_bytes`.

        Raises:
            NotFound: ``blob.missing``.
            Unavailable: ``blobs.unavailable``: it cannot be read, or is shorter than `stop`.
        """
        if start >= stop:
            return
        if self._directory is not None:  # fifty times cheaper than through the library
            yield from _read_file(self._directory / _key(digest), digest, start, stop, chunk_bytes)
            return
        try:
            pending = bytearray()
            left = stop - start
            found = obstore.get(self._store, _key(digest), options={"range": (start, stop)})
            for piece in found.stream(min_chunk_size=max(chunk_bytes, _READ_BYTES)):
                pending += piece
                left -= len(piece)
                while len(pending) >= chunk_bytes:
                    yield bytes(pending[:chunk_bytes])
                    del pending[:chunk_bytes]
            if left:
                raise _unavailable("read", digest)  # the store has lost some of it
            if pending:
                yield bytes(pending)
        except FileNotFoundError as error:
            raise _missing(digest) from error
        except BaseError as error:
            raise _unavailable("read", digest) from error

    def copy_to(self, digest: str, path: Path) -> None:
        """Write a blob to the file `path`, checked; raise `Unavailable` when it is damaged."""
        state = hashlib.sha256()
        with path.open("wb") as file:
            for piece in self.stream(digest, _READ_BYTES):
                state.update(piece)
                file.write(piece)
        if state.hexdigest() != hex_of(digest):
            path.unlink()
            raise Unavailable(
                "blobs.damaged",
                f"the stored blob {digest} has other content",
                hint="delete it from the blob store and upload it again",
            )

    def delete(self, digest: str) -> None:
        """Remove a blob that nothing refers to any more; one that is not there is no error."""
        try:
            obstore.delete(self._store, _key(digest))
        except FileNotFoundError:
            return
        except BaseError as error:
            raise _unavailable("delete", digest) from error

    def check_writable(self) -> None:
        """Put something, find that it cannot be put twice, read it, and delete it.

        Raises:
            Unavailable: ``blobs.unavailable``; ``blobs.overwrites`` where two servers that add the
                same blob at once could tear it.
        """
        key, content = f"check/{secrets.token_hex(8)}", b"edgectl server check"
        try:
            obstore.put(self._store, key, content, mode="create")
            try:
                obstore.put(self._store, key, content, mode="create")
            except AlreadyExistsError:
                refuses = True
            else:
                refuses = False
            same = bytes(obstore.get(self._store, key).bytes()) == content
            obstore.delete(self._store, key)
        except (BaseError, FileNotFoundError) as error:
            raise _unavailable("write", "anything") from error
        if not same or not refuses:
            raise Unavailable(
                "blobs.overwrites",
                "the blob store does not refuse to write a name twice",
                hint="use a store that knows conditional writes (If-None-Match: *)",
            )

    def sizes(self) -> dict[str, int]:
        """Return what is in the store: length in bytes, by digest in hexadecimal."""
        found = {}
        try:
            for some in obstore.list(self._store, prefix="sha256", chunk_size=1000):
                for one in some:
                    name = one["path"].rpartition("/")[2]
                    if _NAME.fullmatch(name) and one["path"].endswith(_key(f"sha256:{name}")):
                        found[name] = int(one["size"])
        except BaseError as error:
            raise _unavailable("list", "what is") from error
        return dict(sorted(found.items()))

    def probe(self) -> None:
        """Raise `Unavailable` when the store cannot be read."""
        self._stored_size("sha256:" + "0" * 64)

    def _stored_size(self, digest: str) -> int | None:
        try:
            return int(obstore.head(self._store, _key(digest))["size"])
        except FileNotFoundError:
            return None
        except BaseError as error:
            raise _unavailable("look up", digest) from error

    def _put(self, digest: str, size: int, content: bytes | Path) -> None:
        stored = self._stored_size(digest)
        if stored == size:
            return
        mode = "create" if stored is None and isinstance(content, bytes) else "overwrite"
        try:
            obstore.put(
                self._store,
                _key(digest),
                content,
                mode=mode,  # type: ignore[arg-type,unused-ignore]
                use_multipart=isinstance(content, Path),
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )
        except AlreadyExistsError:
            return  # somebody else was first, with the same content
        except BaseError as error:
            raise _unavailable("write", digest) from error
        self._sync(digest)

    def _sync(self, digest: str) -> None:
        """Make a blob durable in a folder; object stores answer when it is."""
        if self._directory is None:
            return
        path = self._directory / _key(digest)
        sync_file(path)
        sync_directory(path.parent)
        sync_directory(path.parent.parent)


def _remove_stale(directory: Path) -> None:
    """Remove parts of puts that were cut short; a server may be putting while a backup is made."""
    for part in directory.glob("sha256/*/*#*"):
        with contextlib.suppress(FileNotFoundError):  # it has just become a blob
            if part.stat().st_mtime < now().timestamp() - _STALE_S:
                part.unlink()


def _read_file(path: Path, digest: str, start: int, stop: int, chunk_bytes: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(start)
            while start < stop:
                length = min(chunk_bytes, stop - start)
                piece = file.read(length)
                if len(piece) < length:
                    raise _unavailable("read", digest)  # the disk has lost some of it
                start += length
                yield piece
    except FileNotFoundError as error:
        raise _missing(digest) from error
    except OSError as error:
        raise _unavailable("read", digest) from error


def _key(digest: str) -> str:
    name = hex_of(digest)
    return f"sha256/{name[:2]}/{name}"


def _same_device(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _missing(digest: str) -> NotFound:
    return NotFound("blob.missing", f"the blob store does not hold {digest}")


def _unavailable(action: str, digest: str) -> Unavailable:
    return Unavailable(
        "blobs.unavailable",
        f"cannot {action} {digest} in the blob store",
        hint="check the disk, or blobs_url and its credentials",
    )
