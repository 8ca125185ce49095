"""The files of the repository, and the lock under which they change.

Layout::

    timestamp.json            the newest; whatever it does not lead to does not count
    <version>.<role>.json     root (all versions), snapshot, targets, models, families, bins
    staged/<version>.<role>.json   changes that wait for signatures
    .lock                     held by whoever changes something, on this machine

Rules:

1. Every file but ``timestamp.json`` has its version in its name and is referred to by the next one
   up, so that writing ``timestamp.json`` last makes a change visible whole: after a crash in
   between there is the older repository, and files that nothing refers to are written over. A root
   counts as soon as it is there; what it demands of the others is made good at the next opening.
2. Files are kept for the last three versions, because a device may be in the middle of a refresh;
   roots are kept for ever, because a device walks through all of them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import MetaFile, Root, Snapshot, Targets, Timestamp

from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.metadata import METADATA_BYTES_MAX, parse_metadata_file
from edgectl_server.errors import Refused, Unavailable
from edgectl_server.signing.documents import (
    Document,
    SignedT,
    mandate_in_models,
    read_delegator,
    read_document,
)
from edgectl_server.storage.files import make_private_directory, sync_directory, write_durably

__all__ = ["KEPT", "Drafts", "MetadataFile", "MetadataFolder", "Published", "published_document"]

KEPT = 3
_LOCK = ".lock"

MetadataFile = tuple[str, int | None, bytes]
"""Role, version (None for the timestamp), content."""
Drafts = dict[str, Document[Any]]
"""Documents that wait to be published, by role."""


@dataclass(frozen=True)
class Published:
    """What devices see."""

    root: Document[Root]
    targets: Document[Targets]
    delegated: Mapping[str, Document[Targets]]
    """Families, ``models`` and its bins."""
    snapshot: Document[Snapshot]
    timestamp: Document[Timestamp]

    def document(self, role: str) -> Document[Any] | None:
        """Return the document of a role; None: there is none."""
        if role in {"root", "targets", "snapshot", "timestamp"}:
            found: Document[Any] = getattr(self, role)
            return found
        return self.delegated.get(role)

    @property
    def retired(self) -> dict[str, MetaFile]:
        """Files of roles that are not delegated to any more.

        A snapshot goes on listing them (TUF 1.0.33 §5.5.5).
        """
        here = {"targets.json", *(f"{role}.json" for role in self.delegated)}
        return {name: meta for name, meta in self.snapshot.signed.meta.items() if name not in here}


def published_document(published: Published | None, role: str) -> Document[Any] | None:
    """Return the published document of a role; None: there is none."""
    return None if published is None else published.document(role)


class MetadataFolder:
    """Reads and writes the files."""

    def __init__(self, directory: Path) -> None:
        self._directory = make_private_directory(directory)
        self._staged = make_private_directory(directory / "staged")
        self._known: dict[tuple[str, int | None], Document[Any]] = {}

    def __str__(self) -> str:
        """Return the folder's path."""
        return str(self._directory)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from changing anything."""
        descriptor = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def fingerprint(self) -> object:
        """Return what is another value after any change; a few calls to the file system."""
        staged = [(path.name, _stat(path)) for path in sorted(self._staged.iterdir())]
        return _stat(self._directory / "timestamp.json"), _stat(self._directory), staged

    # ------------------------------------------------------------ reading

    def roots(self) -> list[Document[Root]]:
        """Return all versions of the root, from the first."""
        roots: list[Document[Root]] = []
        while self._path("root", len(roots) + 1).exists():
            roots.append(self._read("root", len(roots) + 1, Root))
        return roots

    def published(self) -> Published | None:
        """Return what ``timestamp.json`` leads to; None where there is none.

        Raises:
            Unavailable: ``tuf.damaged``.
        """
        if not self._path("timestamp", None).exists():
            return None
        try:
            timestamp = self._read("timestamp", None, Timestamp)
            named = timestamp.signed.snapshot_meta
            snapshot = self._referred("snapshot", named, Snapshot)
            meta = snapshot.signed.meta
            targets = self._referred("targets", meta["targets.json"], Targets)
            delegations = targets.signed.delegations
            roles = {} if delegations is None else delegations.roles or {}
            delegated = {
                role: self._referred(role, meta[f"{role}.json"], Targets) for role in roles
            }
            for models in list(delegated.values()):
                if mandate_in_models(models.signed) is not None:
                    bins = models.signed.delegations.succinct_roles  # type: ignore[union-attr]
                    for role in bins.get_roles():  # type: ignore[union-attr]
                        delegated[role] = self._referred(role, meta[f"{role}.json"], Targets)
            root = self.roots()[-1]
        except (OSError, LookupError, ValueError, RepositoryError, Refused) as error:
            raise Unavailable(
                "tuf.damaged",
                f"cannot read the signed metadata in {self}: {error}",
                hint="restore the folder from a backup; devices refuse a new repository",
            ) from error
        return Published(root, targets, delegated, snapshot, timestamp)

    def files(self, published: Published) -> list[MetadataFile]:
        """Return everything that devices may ask for, what is referred to before what refers."""
        files: list[MetadataFile] = [
            ("root", root.version, root.content)
            for root in self.roots()
            if root.version <= published.root.version
        ]
        current = {role: one.version for role, one in published.delegated.items()}
        current["targets"] = published.targets.version
        current["snapshot"] = published.snapshot.version
        for role, version in current.items():
            for number in range(max(1, version - KEPT + 1), version + 1):
                path = self._path(role, number)
                if path.exists():
                    files.append((role, number, path.read_bytes()))
        files.append(("timestamp", None, published.timestamp.content))
        return files

    def drafts(self) -> Drafts:
        """Return what waits for signatures.

        Raises:
            Unavailable: ``tuf.damaged``.
        """
        found: Drafts = {}
        for path in sorted(self._staged.glob("*.json")):
            try:
                role, _ = parse_metadata_file(path.name)
                content = _bounded(path)
                known = self._known.get((f"staged {role}", None))
                if known is None or known.content != content:
                    known = read_delegator(role, content)
                    self._known[f"staged {role}", None] = known
                found[role] = known
            except (OSError, ProtocolError, Refused) as error:
                raise Unavailable(
                    "tuf.damaged",
                    f"cannot read {path}, which waits for signatures: {error}",
                    hint="delete the file, and make the change again",
                ) from error
        return found

    # ------------------------------------------------------------ writing

    def write(self, role: str, document: Document[Any]) -> None:
        """Write one version of a role."""
        version = None if role == "timestamp" else document.version
        write_durably(self._path(role, version), document.content, mode=0o644)
        self._known[role, version] = document

    def stage(self, drafts: Drafts) -> None:
        """Keep exactly these drafts."""
        wanted = {f"{one.version}.{role}.json": one.content for role, one in drafts.items()}
        present = {path.name: path for path in self._staged.glob("*.json")}
        for name, content in wanted.items():
            if name not in present or present[name].read_bytes() != content:
                write_durably(self._staged / name, content, mode=0o600)
        gone = [path for name, path in present.items() if name not in wanted]
        for path in gone:
            path.unlink()
        if gone:
            sync_directory(self._staged)

    def forget_old(self, published: Published) -> None:
        """Delete what no device can be in the middle of reading any more."""
        current = {role: one.version for role, one in published.delegated.items()}
        current["targets"] = published.targets.version
        current["snapshot"] = published.snapshot.version
        for path in self._directory.glob("*.json"):
            role, version = parse_metadata_file(path.name)
            if version is not None and role in current and version <= current[role] - KEPT:
                path.unlink()
                self._known.pop((role, version), None)

    # ------------------------------------------------------------ one file

    def _path(self, role: str, version: int | None) -> Path:
        name = f"{role}.json" if version is None else f"{version}.{role}.json"
        return self._directory / name

    def _read(self, role: str, version: int | None, kind: type[SignedT]) -> Document[SignedT]:
        """Return a file's document; what is known already is not decoded and checked again."""
        content = _bounded(self._path(role, version))
        known = self._known.get((role, version))
        if known is None or known.content != content:
            known = read_document(content, kind)
            self._known[role, version] = known
        return known

    def _referred(self, role: str, meta: MetaFile, kind: type[SignedT]) -> Document[SignedT]:
        document = self._read(role, meta.version, kind)
        meta.verify_length_and_hashes(document.content)
        return document


def _bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(METADATA_BYTES_MAX + 1)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
