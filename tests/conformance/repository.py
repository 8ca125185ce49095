"""A TUF repository of which we hold every key, so that an attacker may be given any of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer
from tuf.ngclient import FetcherInterface

from agent.core.made import MadeBundle
from edgectl_agent.clock import now
from edgectl_protocol.metadata import parse_metadata_file
from edgectl_protocol.names import hex_of

TOP = ("root", "timestamp", "snapshot", "targets")
BASE_URL = "files:///"


def make_signer() -> Signer:
    return CryptoSigner.generate_ed25519()


class SignedRepository:
    """Current payloads by role, who signs them, and the files as a device would get them.

    `publish` makes the next consistent set. An attack changes payloads, signers or files.
    """

    def __init__(self) -> None:
        self.now = now().replace(microsecond=0)
        end = self.now + timedelta(days=1)
        self.signers: dict[str, list[Signer]] = {role: [make_signer()] for role in TOP}
        self.root = Root(expires=end, consistent_snapshot=True)
        for role in TOP:
            self.root.add_key(self.signers[role][0].public_key, role)
        self.targets: dict[str, Targets] = {"targets": Targets(expires=end)}
        self.snapshot = Snapshot(expires=end)
        self.timestamp = Timestamp(expires=end)
        self.files: dict[str, bytes] = {}
        self.put("root", self.root)
        self.first_root = self.files["1.root.json"]
        self.publish(*self.targets, bump=False)

    # ------------------------------------------------------------ honest work

    def add(self, bundle: MadeBundle, role: str = "targets", path: str | None = None) -> None:
        """Name `bundle` in `role`; nothing is signed yet."""
        path = path or bundle.candidate.target
        info = TargetFile(len(bundle.manifest), {"sha256": hex_of(bundle.digest)}, path)
        self.targets[role].targets[path] = info

    def delegate(
        self, role: str, paths: Sequence[str], *, parent: str = "targets", terminating: bool = False
    ) -> None:
        """Let `parent` delegate `paths` to `role`, which signs with a key of its own."""
        signer = make_signer()
        self.signers.setdefault(role, []).append(signer)
        of = self.targets[parent]
        if of.delegations is None:
            of.delegations = Delegations({}, {})
        assert of.delegations.roles is not None
        of.delegations.roles[role] = DelegatedRole(role, [], 1, terminating, list(paths))
        of.add_key(signer.public_key, role)
        if role not in self.targets:
            self.targets[role] = Targets(expires=self.now + timedelta(days=1))

    def publish(self, *roles: str, bump: bool = True) -> None:
        """Sign `roles`, and the snapshot and timestamp over them, each with the next version."""
        for role in roles:
            self.targets[role].version += bump
            content = self.put(role, self.targets[role])
            self.snapshot.meta[f"{role}.json"] = meta_file(self.targets[role], content)
        self.publish_snapshot(bump=bump)

    def publish_snapshot(self, *, bump: bool = True) -> None:
        self.snapshot.version += bump
        content = self.put("snapshot", self.snapshot)
        self.timestamp.snapshot_meta = meta_file(self.snapshot, content)
        self.publish_timestamp(bump=bump)

    def publish_timestamp(self, *, bump: bool = True) -> None:
        self.timestamp.version += bump
        self.put("timestamp", self.timestamp)

    def publish_root(self, *also: Signer) -> None:
        """Sign the next root with the root's signers, and `also` with those that went."""
        self.root.version += 1
        self.put("root", self.root, [*self.signers["root"], *also])

    def replace_key(self, role: str) -> Signer:
        """Give `role` another key in the next root, and return the old one; publish follows."""
        (old,) = self.signers[role]
        self.signers[role] = [make_signer()]
        self.root.revoke_key(old.public_key.keyid, role)
        self.root.add_key(self.signers[role][0].public_key, role)
        return old

    # ------------------------------------------------------------ files

    def put(self, role: str, payload: Signed, signers: Sequence[Signer] | None = None) -> bytes:
        """Sign and serve `payload` as the newest file of `role`; return its bytes."""
        content = self.sign(payload, self.signers[role] if signers is None else signers)
        self.files[name_of(role, payload.version)] = content
        return content

    def sign(self, payload: Signed, signers: Sequence[Signer]) -> bytes:
        metadata: Metadata[Any] = Metadata(payload)
        for signer in signers:
            metadata.sign(signer, append=True)
        content: bytes = metadata.to_bytes(JSONSerializer(compact=True))
        return content

    def sign_raw(self, role: str, changes: dict[str, Any]) -> bytes:
        """Return the newest file of `role` with fields that python-tuf would not write, signed."""
        from securesystemslib.formats import encode_canonical

        signed = self.payload(role).to_dict() | changes
        encoded = encode_canonical(signed)
        assert encoded is not None
        signatures = [one.sign(encoded.encode()).to_dict() for one in self.signers[role]]
        return json.dumps({"signatures": signatures, "signed": signed}).encode()

    def payload(self, role: str) -> Signed:
        if role in self.targets:
            return self.targets[role]
        payload: Signed = getattr(self, role)
        return payload

    @property
    def head(self) -> int:
        """The newest root that is served."""
        return max(int(name.split(".")[0]) for name in self.files if name.endswith(".root.json"))


class Files(FetcherInterface):
    """python-tuf's fetcher on a `SignedRepository`; as bounded in names as that on topics."""

    def __init__(self, repository: SignedRepository) -> None:
        self._repository = repository

    def _fetch(self, url: str) -> Iterator[bytes]:
        role, version = parse_metadata_file(url.removeprefix(BASE_URL))
        content = self._repository.files.get(name_of(role, version))
        if content is not None:
            return iter((content,))
        if role == "root":
            raise DownloadHTTPError(f"no root {version}", 404)
        raise DownloadError(f"{role} holds nothing")


def name_of(role: str, version: int | None) -> str:
    return "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"


def meta_file(payload: Signed, content: bytes) -> MetaFile:
    return MetaFile.from_data(payload.version, content, ["sha256"])


def past(repository: SignedRepository) -> datetime:
    """A time at which what is signed now has ended already."""
    return (repository.now - timedelta(minutes=1)).astimezone(UTC)
