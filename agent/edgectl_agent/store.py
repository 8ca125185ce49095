"""The blobs on the device, the partial downloads, and the pointers of the slots.

::

    blobs/sha256/<hex>     whole files by content: manifests and layers
    partial/<hex>          a blob that is coming, at its full length
    partial/<hex>.bitmap   which of its chunks have come
    partial/<hex>.<delta>  a delta that leads to the blob, by its own digest, and its bitmap
    partial/<hex>.made     the blob as a delta makes it, by another process
    sealed/<hex>           content key of an encrypted bundle, by its manifest, as an order brought
                           it: sealed to this device's key, which is not in the store
    slots.json             what runs in each slot and what it would roll back to (`SlotPointers`),
                           and a check sum
    slots.copy             the same, for when that is damaged; written first

Rules:

1. A blob gets its name after its content has been checked and synchronized: each chunk against its
   signed digest before it was written, or the whole as it is on the disk.
2. Nothing is used unverified: `Store.bundle` hashes every file as it is on the disk. A file that is
   not what its name says is removed, and can be fetched again.
3. What runs is never written in place; any number of slots change by one rename.
4. A bit of a bitmap is set after the chunk has been synchronized, so a bitmap never promises more
   than there is; whatever it says, rule 2 holds.
5. What a pointer names would survive a power loss before the pointer does, also where an earlier
   step or an agent that was killed had not come to synchronize it (`Store.settle`).
"""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec import structs

from edgectl_agent.bundle import Bundle
from edgectl_agent.core.record import SlotPointer, SlotPointers, decode_pointers
from edgectl_agent.durable import PRIVATE, TEMPORARY_SUFFIX, Disk, OpenFile, folder_of
from edgectl_agent.errors import KeyUnavailable, StepFailed, StepRejected
from edgectl_agent.keyring import Keyring
from edgectl_protocol.chunks import CHUNK_BYTES, Bitmap, chunk_count
from edgectl_protocol.encryption import SEALED_KEY_BYTES
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import (
    CONFIG_FILE,
    GOLDEN_FILE,
    MANIFEST_BYTES_MAX,
    BundleConfig,
    Manifest,
    decode_config,
    decode_manifest,
    device_layers,
    is_encrypted,
    layer_by_file,
    offered_layers,
)
from edgectl_protocol.messages import Installed
from edgectl_protocol.metadata import target_path
from edgectl_protocol.names import check_model_name, digest_of, hex_of
from edgectl_protocol.watching import REFERENCE_FILE, WATCHED_FILE

__all__ = ["Partial", "Store", "read_config", "read_pointers", "stored_bytes"]

_BLOBS = "blobs/sha256"
_PARTIAL = "partial"
_SEALED = "sealed"
_SLOTS = "slots.json"
_SLOTS_COPY = "slots.copy"
_BITMAP_SUFFIX = ".bitmap"
_MADE_SUFFIX = ".made"
_BLOCK_BYTES = 4096
_POINTERS_BYTES_MAX = 1024 * 1024
_CONFIG_BYTES_MAX = 1024 * 1024
_log = logging.getLogger(__name__)


class Store:
    """The store of one state directory.

    It remembers nothing between calls, and every change is one step on the disk, so that two
    threads may read while one fetches. Slots are changed under the lock of `Serving` only.
    """

    def __init__(
        self, disk: Disk, *, keyring: Keyring | None = None, reserve_bytes: int = 0
    ) -> None:
        """Open the store.

        Args:
            disk: the state directory.
            keyring: opens the content keys; None where no bundle is encrypted.
            reserve_bytes: what a download must leave free.
        """
        self._disk = disk
        self._keyring = keyring
        self._reserve_bytes = reserve_bytes
        for folder in (_BLOBS, _PARTIAL, _SEALED):
            disk.make_directory(folder)
        self._repair()

    # ------------------------------------------------------------ slots

    def pointers(self) -> dict[str, SlotPointer]:
        """Return the pointer of every slot; none where the file is damaged."""
        return read_pointers(self._disk)

    def point(self, changed: Mapping[str, SlotPointer]) -> None:
        """Change what these slots run, all of them in one step."""
        for slot in changed:
            check_model_name(slot)
        text = msgspec.json.encode(SlotPointers(slots={**self.pointers(), **changed}))
        content = text + b"\n" + _check_sum(text)
        self._disk.write_atomic(_SLOTS_COPY, content)
        self._disk.write_atomic(_SLOTS, content)

    def _repair(self) -> None:
        """Write both files of pointers again where they differ, so that one damage is not two."""
        first, copy = (_raw_pointers(self._disk, path) for path in (_SLOTS, _SLOTS_COPY))
        if first != copy and self.pointers():
            try:
                self.point({})
            except OSError as error:  # one of them is good, and serving goes on with it
                _log.error("the pointers cannot be written again: %s", error)

    def settle(self) -> None:
        """Return when the names of pointers, blobs and keys would survive a power loss.

        A rename that was not synchronized, because that failed or the agent was killed just then,
        is seen as done by all that comes after it, and is not.
        """
        for folder in (_BLOBS, _SEALED, folder_of(_SLOTS)):
            self._disk.sync_directory(folder)

    # ------------------------------------------------------------ blobs

    def has(self, digest: str) -> bool:
        """Say whether the blob is there; its content is checked when it is used."""
        return self._disk.size(_blob(digest)) is not None

    def add(self, digest: str, content: bytes) -> None:
        """Store a small blob that has been checked against `digest`."""
        assert digest_of(content) == digest, digest
        self._disk.write_atomic(_blob(digest), content)

    def partial(self, digest: str, length: int) -> Partial:
        """Take up or begin the download of a blob; raise `OSError` when the disk is full."""
        return Partial(self._disk, digest, length)

    def delta(self, target: str, delta: str, length: int) -> Partial:
        """Take up or begin the download of a delta for the blob `target`, which it stays beside."""
        return Partial(self._disk, delta, length, beside=target)

    def is_begun(self, digest: str) -> bool:
        """Say whether the download of a blob was begun."""
        return self._disk.size(_partial(digest)) is not None

    def size(self, digest: str) -> int:
        """Return the bytes of a blob; 0 where it is not there."""
        return self._disk.size(_blob(digest)) or 0

    def layers_of(self, manifests: Iterable[str]) -> set[str]:
        """Return the digests of the layers of stored bundles; of a damaged manifest none."""
        found: set[str] = set()
        for digest in manifests:
            try:
                layers = offered_layers(self.manifest(digest)) if self.has(digest) else ()
            except (StepFailed, StepRejected):
                layers = ()  # damaged: its layers are found again when it is fetched again
            found.update(layer.digest for layer in layers)
        return found

    def locate(self, digest: str) -> str:
        """Return the absolute path of a blob, for another process."""
        return self._disk.locate(_blob(digest))

    def locate_made(self, target: str) -> str:
        """Return the absolute path of the file in which another process makes a blob."""
        return self._disk.locate(_partial(target) + _MADE_SUFFIX)

    def made(self, target: str) -> Iterator[bytes]:
        """Yield what another process has made beside a blob, which need not be that blob."""
        return self._disk.blocks(_partial(target) + _MADE_SUFFIX)

    def write_made(self, target: str, pieces: Iterable[bytes]) -> None:
        """Write what may be a blob, to be adopted."""
        path = _partial(target) + _MADE_SUFFIX
        self._disk.write(path, b"")
        for piece in pieces:
            self._disk.append(path, piece)

    def adopt(self, target: str, length: int) -> bool:
        """Give a blob that was made from a delta its name, if it is the right one.

        What was made is synchronized and hashed as it is on the disk, as what was fetched is.
        """
        made = _partial(target) + _MADE_SUFFIX
        if self._disk.size(made) != length:
            return False
        self._disk.sync(made)
        if _hash(self._disk, made) != target:
            return False
        self._disk.rename_durably(made, _blob(target))
        self.discard_deltas(target)
        return True

    def discard_deltas(self, target: str) -> None:
        """Remove the deltas for a blob, and what was made of them."""
        own = {hex_of(target), hex_of(target) + _BITMAP_SUFFIX}
        for name in self._disk.list(_PARTIAL):
            if name.partition(".")[0] == hex_of(target) and name not in own:
                self._disk.unlink(f"{_PARTIAL}/{name}")

    def check_space(self, digests_and_lengths: Iterable[tuple[str, int]]) -> None:
        """Raise `StepFailed` ``disk.full`` when the blobs that are missing would not fit.

        Counted are whole blocks, of the blob, its bitmap and the bitmap's successor; and what has
        its place already, because its download was begun, is not.
        """
        needed = 0
        for digest, length in digests_and_lengths:
            if self.has(digest):
                continue
            if self._disk.size(_partial(digest)) != length:
                needed += _on_disk(length)
            if self._disk.size(_partial(digest) + _BITMAP_SUFFIX) is None:
                needed += 2 * _on_disk((chunk_count(length) + 7) // 8)
        free = self._disk.free_bytes()
        if needed and free - needed < self._reserve_bytes:
            raise StepFailed(
                "disk.full",
                f"{needed} bytes are to come, {free} are free, "
                f"{self._reserve_bytes} of them are kept in reserve",
                hint="free space in the state directory's file system",
            )

    def keep_key(self, manifest: str, sealed: bytes) -> None:
        """Keep the sealed content key of a bundle, in place of an older one."""
        path = _sealed(manifest)
        if self._disk.size(path) is None or self._disk.read(path, SEALED_KEY_BYTES) != sealed:
            self._disk.write_atomic(path, sealed, PRIVATE)

    def has_key(self, manifest: str) -> bool:
        """Say whether a sealed content key of the bundle is kept."""
        return self._disk.size(_sealed(manifest)) is not None

    def renew_keys(self, keys: Mapping[str, bytes]) -> None:
        """Replace the sealed content keys that are kept here by those of a newer order.

        They differ only where the server knows a newer key of this device.
        """
        for manifest, sealed in keys.items():
            if self._disk.size(_sealed(manifest)) is not None:
                self.keep_key(manifest, sealed)

    def manifest(self, digest: str) -> Manifest:
        """Return a stored manifest.

        Raises:
            StepFailed: ``store.missing`` or ``store.damaged``.
            StepRejected: ``bundle.malformed``: it is what was signed, and outside the contract.
        """
        content = self._read_checked(digest, MANIFEST_BYTES_MAX)
        try:
            return decode_manifest(content)
        except ProtocolError as error:
            raise StepRejected("bundle.malformed", str(error)) from error

    def installed(self, slot: str, installed: Installed) -> Bundle:
        """Return what a slot runs, as `bundle` does, to be run as its trial has found best."""
        bundle = self.bundle(
            slot,
            manifest=installed.manifest,
            version=installed.version,
            variant=installed.variant,
        )
        return structs.replace(bundle, threads=installed.threads, provider=installed.provider)

    def bundle(self, slot: str, *, manifest: str, version: str, variant: str) -> Bundle:
        """Hash every file of a bundle and return it ready to be loaded, with its content key.

        Raises:
            KeyUnavailable: ``key.missing``, ``key.device`` or ``key.sealed``: it is encrypted, and
                cannot be opened now.
            StepFailed: ``store.missing``, or ``store.damaged`` after removing the damaged file.
            StepRejected: ``bundle.malformed``, or ``bundle.mismatch`` where the description is not
                of what was ordered.
        """
        decoded = self.manifest(manifest)
        for layer in device_layers(decoded):
            self._check(layer.digest, layer.size)
        try:
            config_layer = layer_by_file(decoded, CONFIG_FILE)
            config = decode_config(self._read_checked(config_layer.digest, _CONFIG_BYTES_MAX))
            model = layer_by_file(decoded, config.model_file)
            golden = layer_by_file(decoded, GOLDEN_FILE)
            files = {
                one.file: self._disk.locate(_blob(one.digest)) for one in device_layers(decoded)
            }
        except ProtocolError as error:
            raise StepRejected("bundle.malformed", str(error)) from error
        if (config.version, config.variant) != (version, variant):
            raise StepRejected(
                "bundle.mismatch",
                f"the bundle describes itself as {config.version} {config.variant}, "
                f"ordered was {version} {variant}",
            )
        return Bundle(
            slot=slot,
            version=version,
            variant=variant,
            manifest=manifest,
            model=self._disk.locate(_blob(model.digest)),
            golden=self._disk.locate(_blob(golden.digest)),
            config=config,
            reference=files.get(REFERENCE_FILE, ""),
            watched=files.get(WATCHED_FILE, ""),
            key=self._key(manifest, config) if is_encrypted(decoded) else None,
        )

    def discard_unreadable(self, manifest: str) -> None:
        """Remove those files of a bundle that the disk does not give back, to be fetched again.

        Raises:
            StepFailed, StepRejected: as `manifest`.
        """
        self._discard_unreadable(manifest)
        for layer in device_layers(self.manifest(manifest)):
            self._discard_unreadable(layer.digest)

    def _discard_unreadable(self, digest: str) -> None:
        path = _blob(digest)
        try:
            _hash(self._disk, path)
        except OSError as error:
            if error.errno == errno.EIO:
                _log.error("%s cannot be read: removed, to be fetched", digest)
                self._disk.unlink_durably(path)

    def _key(self, manifest: str, config: BundleConfig) -> bytearray:
        """Return the content key of an encrypted bundle."""
        try:
            sealed = self._disk.read(_sealed(manifest), SEALED_KEY_BYTES + 1)
        except FileNotFoundError:
            sealed = b""
        if self._keyring is None or not sealed:
            raise KeyUnavailable(
                "key.missing",
                f"{manifest} is encrypted, and no order has brought its key",
                hint="enrol the device again, so that the server knows its encryption key",
            )
        target = target_path(config.model, config.version, config.variant)
        return self._keyring.open(sealed, target=target, manifest=manifest)

    def collect(self, keep: Iterable[str]) -> int:
        """Remove what the manifests `keep` do not need; return the number of files removed."""
        manifests = set(keep)
        needed = {hex_of(digest) for digest in (*manifests, *self.layers_of(manifests))}
        whole = set(self._disk.list(_BLOBS))
        removed = 0
        for folder in (_BLOBS, _PARTIAL, _SEALED):
            for name in self._disk.list(folder):
                stem = name.partition(".")[0]
                # A download that is whole leaves its bitmap behind where the power goes just then.
                leftover = name.endswith(TEMPORARY_SUFFIX) or (folder == _PARTIAL and stem in whole)
                if leftover or stem not in needed:
                    self._disk.unlink(f"{folder}/{name}")
                    removed += 1
        return removed

    def _check(self, digest: str, length: int) -> None:
        """Hash a stored blob as it is on the disk; remove it if it is not what it should be."""
        path = _blob(digest)
        if self._disk.size(path) is None:
            raise StepFailed("store.missing", f"{digest} is not on the disk")
        if _hash(self._disk, path) != digest or self._disk.size(path) != length:
            self._disk.unlink_durably(path)
            raise StepFailed(
                "store.damaged", f"{digest} was not what its name says: removed, to be fetched"
            )

    def _read_checked(self, digest: str, limit: int) -> bytes:
        path = _blob(digest)
        try:
            content = self._disk.read(path, limit + 1)
        except FileNotFoundError as error:
            raise StepFailed("store.missing", f"{digest} is not on the disk") from error
        if len(content) <= limit and digest_of(content) == digest:
            return content
        self._disk.unlink_durably(path)
        raise StepFailed(
            "store.damaged", f"{digest} was not what its name says: removed, to be fetched"
        )


class Partial:
    """A blob that is coming, chunk by chunk, in any order."""

    def __init__(self, disk: Disk, digest: str, length: int, *, beside: str = "") -> None:
        """Take it up or begin it; a delta stays `beside` the blob that it leads to."""
        self._disk = disk
        self._digest = digest
        self._stays = bool(beside)
        self._path = f"{_partial(beside)}.{hex_of(digest)}" if beside else _partial(digest)
        self._bitmap_path = self._path + _BITMAP_SUFFIX
        count = chunk_count(length)
        if disk.size(self._path) == length and disk.size(self._bitmap_path) is not None:
            self.bitmap = Bitmap(count, disk.read(self._bitmap_path, count))
        else:
            disk.unlink_durably(self._bitmap_path)  # it must not speak of the new file
            try:
                disk.allocate(self._path, length)
            except OSError:
                disk.unlink(self._path)
                raise
            self.bitmap = Bitmap(count)
            disk.write(self._bitmap_path, self.bitmap.to_bytes())
        self._file: OpenFile | None = None
        self._unsynchronized = 0
        self._are_names_durable = False

    @property
    def path(self) -> str:
        """The absolute path, for another process."""
        return self._disk.locate(self._path)

    @property
    def unsynchronized(self) -> int:
        """Chunks written since the last checkpoint, or since `note`."""
        return self._unsynchronized

    def write(self, number: int, chunk: bytes) -> None:
        """Write a chunk that has been checked."""
        if self._file is None:
            self._file = self._disk.opened(self._path)
        self._file.write_at(number * CHUNK_BYTES, chunk)
        self.bitmap.add(number)
        self._unsynchronized += 1

    def close(self) -> None:
        """Let go of the file, until something is written again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def note(self) -> bytes:
        """Return what a checkpoint of all that has been written until now would say."""
        self._unsynchronized = 0
        return self.bitmap.to_bytes()

    def checkpoint(self, noted: bytes | None = None) -> None:
        """Make durable what has been written, then say so in the bitmap.

        Args:
            noted: from `note`, where another thread writes on meanwhile; there is one checkpoint
                at a time all the same.
        """
        if noted is None:
            if not self._unsynchronized:
                return
            noted = self.note()
        self._disk.sync(self._path)
        self._disk.write_at(self._bitmap_path, 0, noted)
        self._disk.sync(self._bitmap_path)
        if not self._are_names_durable:
            self._disk.sync_directory(folder_of(self._path))
            self._are_names_durable = True

    def finish(self, *, checked: bool = False) -> None:
        """Give the whole its name, hashed as it is on the disk unless it was checked otherwise.

        Args:
            checked: each chunk was checked against its signed digest.

        Raises:
            StepFailed: ``store.damaged``: the disk holds something else than was written; all of
                it is removed.
        """
        assert self.bitmap.complete()
        self.close()
        if self._stays:
            self.checkpoint()  # its bitmap alone says that it is whole
        else:
            self._disk.sync(self._path)
        if not checked and _hash(self._disk, self._path) != self._digest:
            self._disk.unlink_durably(self._bitmap_path)
            self._disk.unlink_durably(self._path)
            raise StepFailed(
                "store.damaged", f"{self._digest} is not what was written: removed, to be fetched"
            )
        if self._stays:
            return
        self._disk.rename_durably(self._path, _blob(self._digest))
        self._disk.unlink(self._bitmap_path)


def stored_bytes(disk: Disk, manifest: str) -> int | None:
    """Return how long the stored files of a bundle are together; None where one is missing.

    Reads only, so that somebody else's store can be looked at.
    """
    try:
        content = disk.read(_blob(manifest), MANIFEST_BYTES_MAX + 1)
        decoded = decode_manifest(content)
    except (FileNotFoundError, ProtocolError):
        return None
    sizes = [disk.size(_blob(layer.digest)) for layer in device_layers(decoded)]
    found = [size for size in sizes if size is not None]
    return len(content) + sum(found) if len(found) == len(sizes) else None


def read_config(disk: Disk, manifest: str) -> BundleConfig | None:
    """Return how a stored bundle describes itself; None where it is missing or damaged.

    Reads only, as `stored_bytes` does.
    """
    try:
        content = disk.read(_blob(manifest), MANIFEST_BYTES_MAX + 1)
        layer = layer_by_file(decode_manifest(content), CONFIG_FILE)
        config = disk.read(_blob(layer.digest), _CONFIG_BYTES_MAX + 1)
        return decode_config(config) if digest_of(config) == layer.digest else None
    except (FileNotFoundError, ProtocolError):
        return None


def read_pointers(disk: Disk) -> dict[str, SlotPointer]:
    """Return the pointer of every slot of a state directory; none where both files are damaged.

    A file that is lost counts as damaged where the other one is there.
    """
    found = [path for path in (_SLOTS, _SLOTS_COPY) if disk.size(path) is not None]
    for path in found:
        try:
            text, _, digits = disk.read(path, _POINTERS_BYTES_MAX).rpartition(b"\n")
            if digits == _check_sum(text):
                return decode_pointers(text)
        except ProtocolError:
            pass  # of a later agent, perhaps
        _log.error("%s is damaged", path)
    if found:
        _log.error("all slots count as empty, and are filled again")
    return {}


def _raw_pointers(disk: Disk, path: str) -> bytes | None:
    try:
        return disk.read(path, _POINTERS_BYTES_MAX)
    except FileNotFoundError:
        return None


def _on_disk(length: int) -> int:
    """Return what a file of `length` bytes takes, rounded up to a block."""
    return -(-length // _BLOCK_BYTES) * _BLOCK_BYTES


def _check_sum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def _hash(disk: Disk, path: str) -> str:
    total = hashlib.sha256()
    for block in disk.blocks(path):
        total.update(block)
    return "sha256:" + total.hexdigest()


def _blob(digest: str) -> str:
    return f"{_BLOBS}/{hex_of(digest)}"


def _partial(digest: str) -> str:
    return f"{_PARTIAL}/{hex_of(digest)}"


def _sealed(manifest: str) -> str:
    return f"{_SEALED}/{hex_of(manifest)}"
