"""The TUF repository: which bundle manifests are ours, signed so that nobody in between can lie.

Layout (TUF 1.0.33, consistent snapshots): ``root`` names the keys, ``targets`` delegates to 16
succinct hash bins (TAP 15), the bins hold the targets, ``snapshot`` names the versions of all of
them, ``timestamp`` names the snapshot. Root also carries the keys that sign orders.

Rules:

1. The files in the folder are the truth. Every file but ``timestamp.json`` has its version in its
   name and is referred to by the next one up, so that writing ``timestamp.json`` last makes a
   change visible whole: after a crash in between there is the older repository, and the files that
   nothing refers to are written over by the next change.
2. A version number only grows; a target path names one content for ever.
3. Files are kept for the last three versions, because a device may be in the middle of a refresh;
   roots are kept for ever, because a device walks through all of them.
4. What is less than half its life from its end is signed anew by `Repository.refresh`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from edgectl_protocol.metadata import (
    BIN_BIT_LENGTH,
    BIN_NAME_PREFIX,
    METADATA_BYTES_MAX,
    ORDER_KEYS_FIELD,
    parse_metadata_file,
)
from edgectl_protocol.names import hex_of
from edgectl_server.errors import Conflict, TooLarge, Unavailable
from edgectl_server.signing.keys import Keys
from edgectl_server.storage.files import make_private_directory, write_durably

__all__ = ["LIFETIMES", "MetadataFile", "Repository", "Target"]

LIFETIMES = {
    "root": timedelta(days=365),
    "targets": timedelta(days=365),
    "bins": timedelta(days=30),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(days=1),
}
"""From the signature to the expiry, by role; half of it is what a stopped server is granted."""
KEPT = 3
_SERIALIZER = JSONSerializer(compact=True)
_TOP = ("root", "targets", "snapshot", "timestamp")

MetadataFile = tuple[str, int | None, bytes]
"""Role, version (None for the timestamp), content."""
SignedT = TypeVar("SignedT", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True)
class Target:
    """A bundle manifest to be signed for."""

    path: str
    digest: str
    length: int
    """Bytes of the manifest."""
    custom: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Current(Generic[SignedT]):
    """A role's newest metadata: as signed, and as the bytes that are published."""

    metadata: Metadata[SignedT]
    content: bytes

    @property
    def signed(self) -> SignedT:
        return self.metadata.signed


class Repository:
    """Signs, keeps and hands out the metadata. Its methods may be called from any thread."""

    def __init__(self, directory: Path, keys: Keys) -> None:
        self._directory = directory
        self._keys = keys
        self._lock = threading.RLock()
        self._roots: list[bytes] = []
        self._root: _Current[Root]
        self._targets: _Current[Targets]
        self._bins: dict[str, _Current[Targets]] = {}
        self._snapshot: _Current[Snapshot]
        self._timestamp: _Current[Timestamp]

    @classmethod
    def open(cls, directory: Path, keys: Keys, now: datetime) -> Repository:
        """Load the repository in `directory`, or make its first version.

        Raises:
            Unavailable: ``tuf.damaged``, or ``tuf.keys`` where the keys are not the root's.
        """
        make_private_directory(directory)
        repository = cls(directory, keys)
        if (directory / "timestamp.json").exists():
            try:
                repository._load()
            except (OSError, DeserializationError, RepositoryError, KeyError, ValueError) as error:
                raise Unavailable(
                    "tuf.damaged",
                    f"cannot read the signed metadata in {directory}: {error}",
                    hint="restore the folder from a backup; devices refuse a new repository",
                ) from error
            repository._check_keys()
        else:
            repository._make_first(now)
        return repository

    @property
    def root_version(self) -> int:
        """Version of the newest root."""
        with self._lock:
            return self._root.signed.version

    @property
    def first_root(self) -> bytes:
        """The root that a device is enrolled with: version 1, exactly as signed."""
        return self._roots[0]

    def find(self, path: str) -> TargetFile | None:
        """Return the signed target at `path`."""
        with self._lock:
            return self._bins[self._bin_of(path)].signed.targets.get(path)

    def metadata(self) -> list[MetadataFile]:
        """Return everything that the broker must hold, in the order in which it is published.

        What is referred to comes before what refers to it, so that a device which reads in between
        finds what the timestamp names.
        """
        with self._lock:
            files: list[MetadataFile] = [
                ("root", number, content) for number, content in enumerate(self._roots, start=1)
            ]
            current = {"targets": self._targets.signed.version}
            current.update({role: one.signed.version for role, one in self._bins.items()})
            current["snapshot"] = self._snapshot.signed.version
            for role, version in current.items():
                for number in range(max(1, version - KEPT + 1), version + 1):
                    path = self._path(role, number)
                    if path.exists():
                        files.append((role, number, path.read_bytes()))
            files.append(("timestamp", None, self._timestamp.content))
            return files

    def add_targets(self, targets: Iterable[Target], now: datetime) -> bool:
        """Sign for `targets`; True if anything was new.

        Raises:
            Conflict: ``tuf.target_exists``: a path is signed for another content.
            TooLarge: ``tuf.full``: a bin would be larger than devices accept.
        """
        with self._lock:
            added: dict[str, dict[str, TargetFile]] = {}
            for target in targets:
                role = self._bin_of(target.path)
                wanted = TargetFile(
                    target.length,
                    {"sha256": hex_of(target.digest)},
                    target.path,
                    {"custom": target.custom} if target.custom else {},
                )
                known = added.get(role, {}).get(target.path) or self.find(target.path)
                if known is None:
                    added.setdefault(role, {})[target.path] = wanted
                elif (known.hashes, known.length) != (wanted.hashes, wanted.length):
                    raise Conflict(
                        "tuf.target_exists",
                        f"{target.path} is signed for {known.hashes['sha256'][:12]}…, "
                        f"not {hex_of(target.digest)[:12]}…",
                        hint="push it as another version: a published version never changes",
                    )
            if not added:
                return False
            bins = {
                role: self._sign(
                    Targets(
                        version=self._bins[role].signed.version + 1,
                        expires=_end(now, "bins"),
                        targets={**self._bins[role].signed.targets, **extra},
                    ),
                    "bins",
                )
                for role, extra in added.items()
            }
            self._publish(now, bins=bins)
            return True

    def refresh(self, now: datetime) -> bool:
        """Sign anew what nears its end; True if anything was."""
        with self._lock:
            changed = _old(self._root.signed, "root", now)
            if changed:
                self._renew_root(now)
            bins = {}
            for role, current in self._bins.items():
                if _old(current.signed, "bins", now):
                    renewed = Targets(
                        version=current.signed.version + 1,
                        expires=_end(now, "bins"),
                        targets=current.signed.targets,
                    )
                    bins[role] = self._sign(renewed, "bins")
            targets = None
            if _old(self._targets.signed, "targets", now):
                targets = self._make_targets(self._targets.signed.version + 1, now)
            snapshot_is_old = _old(self._snapshot.signed, "snapshot", now)
            if bins or targets is not None or snapshot_is_old:
                self._publish(now, bins=bins, targets=targets)
                changed = True
            elif _old(self._timestamp.signed, "timestamp", now):
                self._publish_timestamp(now)
                changed = True
            return changed

    # ------------------------------------------------------------ making

    def _make_first(self, now: datetime) -> None:
        path = self._path("root", 1)
        if path.exists():  # a first start was cut off; nobody has seen this root
            path.unlink()
        self._root = self._make_root(1, now)
        self._write("root", self._root)
        self._roots = [self._root.content]
        self._bins = {
            role: self._sign(Targets(version=1, expires=_end(now, "bins")), "bins")
            for role in self._succinct().get_roles()
        }
        for role, current in self._bins.items():
            self._write(role, current)
        self._targets = self._make_targets(1, now)
        self._write("targets", self._targets)
        self._snapshot = self._make_snapshot(1, now)
        self._write("snapshot", self._snapshot)
        self._timestamp = self._make_timestamp(1, now)
        self._write("timestamp", self._timestamp)

    def _make_root(self, version: int, now: datetime) -> _Current[Root]:
        order_key = self._keys.signer("orders").public_key
        root = Root(
            version=version,
            expires=_end(now, "root"),
            consistent_snapshot=True,
            unrecognized_fields={ORDER_KEYS_FIELD: {order_key.keyid: order_key.to_dict()}},
        )
        for role in _TOP:
            root.add_key(self._keys.signer(role).public_key, role)
        return self._sign(root, "root")

    def _renew_root(self, now: datetime) -> None:
        """Write the next root with the same keys; one signature satisfies the old and the new."""
        self._root = self._make_root(self._root.signed.version + 1, now)
        self._write("root", self._root)
        self._roots.append(self._root.content)

    def _succinct(self) -> SuccinctRoles:
        keyid = self._keys.signer("bins").public_key.keyid
        return SuccinctRoles([keyid], 1, BIN_BIT_LENGTH, BIN_NAME_PREFIX)

    def _make_targets(self, version: int, now: datetime) -> _Current[Targets]:
        key = self._keys.signer("bins").public_key
        delegations = Delegations({key.keyid: key}, None, self._succinct())
        targets = Targets(version=version, expires=_end(now, "targets"), delegations=delegations)
        return self._sign(targets, "targets")

    def _make_snapshot(self, version: int, now: datetime) -> _Current[Snapshot]:
        meta = {"targets.json": _meta_file(self._targets)}
        meta.update({f"{role}.json": _meta_file(current) for role, current in self._bins.items()})
        snapshot = Snapshot(version=version, expires=_end(now, "snapshot"), meta=meta)
        return self._sign(snapshot, "snapshot")

    def _make_timestamp(self, version: int, now: datetime) -> _Current[Timestamp]:
        timestamp = Timestamp(
            version=version,
            expires=_end(now, "timestamp"),
            snapshot_meta=_meta_file(self._snapshot),
        )
        return self._sign(timestamp, "timestamp")

    def _publish(
        self,
        now: datetime,
        *,
        bins: dict[str, _Current[Targets]],
        targets: _Current[Targets] | None = None,
    ) -> None:
        """Write changed bins and targets, the snapshot over them, and the timestamp last.

        Memory follows the disk: a failed write leaves both at the older repository.
        """
        for role, current in bins.items():
            self._write(role, current)
        if targets is not None:
            self._write("targets", targets)
        before = (self._bins, self._targets, self._snapshot)
        try:
            self._bins = {**self._bins, **bins}
            self._targets = targets or self._targets
            self._snapshot = self._make_snapshot(self._snapshot.signed.version + 1, now)
            self._write("snapshot", self._snapshot)
            self._publish_timestamp(now)
        except BaseException:
            self._bins, self._targets, self._snapshot = before
            raise
        self._forget_old_files()

    def _publish_timestamp(self, now: datetime) -> None:
        timestamp = self._make_timestamp(self._timestamp.signed.version + 1, now)
        self._write("timestamp", timestamp)
        self._timestamp = timestamp

    def _sign(self, signed: SignedT, key: str) -> _Current[SignedT]:
        metadata = Metadata(signed)
        metadata.sign(self._keys.signer(key))
        content = metadata.to_bytes(_SERIALIZER)
        if len(content) > METADATA_BYTES_MAX:
            raise TooLarge(
                "tuf.full",
                f"signed metadata of {len(content)} bytes, devices accept {METADATA_BYTES_MAX}",
                hint="this repository holds as many versions as it can",
            )
        return _Current(metadata, content)

    # ------------------------------------------------------------ files

    def _path(self, role: str, version: int | None) -> Path:
        name = f"{role}.json" if version is None else f"{version}.{role}.json"
        return self._directory / name

    def _write(self, role: str, current: _Current[Any]) -> None:
        version = None if role == "timestamp" else current.signed.version
        write_durably(self._path(role, version), current.content, mode=0o644)

    def _read(self, role: str, version: int | None, kind: type[SignedT]) -> _Current[SignedT]:
        content = self._path(role, version).read_bytes()
        metadata: Metadata[SignedT] = Metadata.from_bytes(content)
        if not isinstance(metadata.signed, kind):
            raise DeserializationError(f"{self._path(role, version).name} is no {kind.type} file")
        return _Current(metadata, content)

    def _load(self) -> None:
        self._timestamp = self._read("timestamp", None, Timestamp)
        self._snapshot = self._read(
            "snapshot", self._timestamp.signed.snapshot_meta.version, Snapshot
        )
        self._timestamp.signed.snapshot_meta.verify_length_and_hashes(self._snapshot.content)
        meta = self._snapshot.signed.meta
        self._targets = self._read("targets", meta["targets.json"].version, Targets)
        for role in self._succinct().get_roles():
            self._bins[role] = self._read(role, meta[f"{role}.json"].version, Targets)
            meta[f"{role}.json"].verify_length_and_hashes(self._bins[role].content)
        number = 1
        while self._path("root", number).exists():
            self._root = self._read("root", number, Root)
            self._roots.append(self._root.content)
            number += 1
        if not self._roots:
            raise ValueError("1.root.json is missing")

    def _check_keys(self) -> None:
        """The keys at hand must be those that devices were told of."""
        wanted = {role: set(self._root.signed.roles[role].keyids) for role in _TOP}
        wanted["orders"] = set(self._root.signed.unrecognized_fields.get(ORDER_KEYS_FIELD, {}))
        delegations = self._targets.signed.delegations
        succinct = None if delegations is None else delegations.succinct_roles
        wanted["bins"] = set() if succinct is None else set(succinct.keyids)
        for role, keyids in wanted.items():
            if self._keys.signer(role).public_key.keyid not in keyids:
                raise Unavailable(
                    "tuf.keys",
                    f"the key {role}.pem is not the one that the signed metadata names",
                    hint="restore the keys folder that belongs to this data folder from a backup",
                )

    def _forget_old_files(self) -> None:
        current = {role: one.signed.version for role, one in self._bins.items()}
        current["targets"] = self._targets.signed.version
        current["snapshot"] = self._snapshot.signed.version
        for path in self._directory.glob("*.json"):
            role, version = parse_metadata_file(path.name)
            if version is not None and role in current and version <= current[role] - KEPT:
                path.unlink()

    def _bin_of(self, path: str) -> str:
        return self._succinct().get_role_for_target(path)


def _end(now: datetime, role: str) -> datetime:
    return now.astimezone(UTC).replace(microsecond=0) + LIFETIMES[role]


def _old(signed: Root | Targets | Snapshot | Timestamp, role: str, now: datetime) -> bool:
    return signed.expires - now < LIFETIMES[role] / 2


def _meta_file(current: _Current[Any]) -> MetaFile:
    return MetaFile.from_data(current.signed.version, current.content, ["sha256"])
