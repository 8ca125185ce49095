"""Versions that came as a file: what is kept of one until it is installed, and where metadata is.

::

    offline/<slot>     `Package`: the variants, and the signed metadata that came with them

Rules:

1. A package is on the disk, durably, before the update machine hears of it, and until the update
   has ended: after a power loss it goes on from there. Its blobs are in the store like all others,
   and are kept for it from the moment at which the package is written.
2. The metadata goes through the same verifying process as what comes over the network, against the
   same root and the same floor; only where the files come from is different. While there is a
   connection, the network is asked, because it may know of something newer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from edgectl_agent.core.orders import choose
from edgectl_agent.core.record import Floor, Record
from edgectl_agent.durable import TEMPORARY_SUFFIX, Disk
from edgectl_agent.errors import StepFailed
from edgectl_agent.trust.frames import Want
from edgectl_agent.trust.process import Trust
from edgectl_protocol.errors import InvalidName
from edgectl_protocol.messages import MetadataHead, SlotOrder, encode
from edgectl_protocol.metadata import METADATA_BYTES_MAX, parse_metadata_file
from edgectl_protocol.names import check_model_name
from edgectl_protocol.offline import METADATA_FILES_MAX
from edgectl_protocol.update import UpdateState

__all__ = ["LocalMetadata", "MetadataFiles", "Package", "Packages"]

_FOLDER = "offline"
_PACKAGE_BYTES_MAX = 64 * 1024 * 1024
_DONE = frozenset({UpdateState.COMMITTED, UpdateState.ROLLED_BACK, UpdateState.IDLE})
_log = logging.getLogger(__name__)


class Package(Struct, frozen=True, kw_only=True):
    """One version that came as a file."""

    format: Literal["edgectl-offline-1"] = "edgectl-offline-1"
    wanted: SlotOrder
    metadata: Annotated[dict[str, bytes], Meta(max_length=METADATA_FILES_MAX)]

    @property
    def manifests(self) -> tuple[str, ...]:
        """Digests of the variants."""
        return tuple(one.manifest for one in self.wanted.candidates)


class MetadataFiles:
    """The metadata of a package, as the verifying process asks for it."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = {parse_metadata_file(name): content for name, content in files.items()}

    def __call__(self, want: Want) -> bytes | None:
        """Return what is wanted; None where it is not there."""
        if want.role is None:
            roots = [version or 0 for role, version in self._files if role == "root"]
            return encode(MetadataHead(root=max(roots, default=0)))
        content = self._files.get((want.role, want.version))
        return None if content is None else content[: METADATA_BYTES_MAX + 1]


class Packages:
    """The packages of one state directory; may be used from any thread."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._lock = threading.Lock()
        self._kept: dict[str, Package] = {}
        """By slot; without the metadata, which is read when it is needed."""
        self._coming: set[str] = set()
        """Slots whose package the update machine has not heard of yet."""
        disk.make_directory(_FOLDER)
        for name in disk.list(_FOLDER):
            package = self._read(name)
            if package is None:
                disk.unlink(f"{_FOLDER}/{name}")
            else:
                self._kept[name] = msgspec.structs.replace(package, metadata={})

    def put(self, slot: str, package: Package) -> None:
        """Keep a package, in place of an older one of the slot; raise `OSError`."""
        path = f"{_FOLDER}/{check_model_name(slot)}"
        with self._lock:
            self._coming.add(slot)
            self._disk.write_atomic(path, msgspec.msgpack.encode(package))
            self._kept[slot] = msgspec.structs.replace(package, metadata={})

    def handed_over(self, slot: str) -> None:
        """The update machine has heard of the slot's package, or never will."""
        with self._lock:
            self._coming.discard(slot)

    def drop(self, slot: str) -> None:
        """Forget a package that could not be completed; never raises."""
        with self._lock:
            self._coming.discard(slot)
            self._kept.pop(slot, None)
            self._remove(slot)

    def pinned(self) -> tuple[str, ...]:
        """Return the manifests whose blobs are kept."""
        with self._lock:
            return tuple(digest for one in self._kept.values() for digest in one.manifests)

    def files_for(self, manifest: str) -> MetadataFiles | None:
        """Return the metadata that came with a bundle; None: it did not come as a file."""
        with self._lock:
            slots = [slot for slot, one in self._kept.items() if manifest in one.manifests]
        for slot in slots:
            package = self._read(slot)
            if package is not None:
                return MetadataFiles(package.metadata)
        return None

    def tidy(self, record: Record) -> None:
        """Forget the packages that no update needs any more."""
        with self._lock:
            for slot, package in list(self._kept.items()):
                if slot not in self._coming and _is_done(slot, package, record):
                    del self._kept[slot]
                    self._remove(slot)

    def _remove(self, slot: str) -> None:
        try:
            self._disk.unlink_durably(f"{_FOLDER}/{slot}")
        except OSError as error:
            _log.warning("offline/%s stays until the next start: %s", slot, error)

    def _read(self, slot: str) -> Package | None:
        try:
            if slot.endswith(TEMPORARY_SUFFIX):
                return None
            check_model_name(slot)
            content = self._disk.read(f"{_FOLDER}/{slot}", _PACKAGE_BYTES_MAX)
            package = msgspec.msgpack.decode(content, type=Package)
            MetadataFiles(package.metadata)
        except (OSError, InvalidName, ValueError, RecursionError) as error:
            _log.warning("offline/%.80s is not used: %s", slot, error)
            return None
        return package


class LocalMetadata:
    """The signed metadata: over the network, or from the file that a bundle came in."""

    def __init__(self, trust: Trust, packages: Packages, connected: Callable[[], bool]) -> None:
        self._trust = trust
        self._packages = packages
        self._connected = connected

    def find(
        self, target: str, manifest: str, floor: Floor, cancelled: Callable[[], bool]
    ) -> Floor:
        """As `Trust.find`."""
        files = self._packages.files_for(manifest)
        if files is None:
            return self._trust.find(target, manifest, floor, cancelled)
        if self._connected():
            try:
                return self._trust.find(target, manifest, floor, cancelled)
            except StepFailed as error:
                if error.code != "trust.unreachable":
                    raise
        return self._trust.find(target, manifest, floor, cancelled, files=files)


def _is_done(slot: str, package: Package, record: Record) -> bool:
    """Say whether the update machine has no use for the package any more."""
    update = record.updates.get(slot)
    same = update is not None and update.is_for(package.wanted)
    if slot not in record.local and not same:
        return True
    if update is None or not same:
        return False
    if update.state is UpdateState.REJECTED:
        return choose(package.wanted, record.rejected) is None
    return update.state in _DONE
