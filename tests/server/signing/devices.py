"""A device that reads the repository with python-tuf's own client, and people with keys."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, TargetFile
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from edgectl_protocol.metadata import METADATA_BYTES_MAX, parse_metadata_file
from edgectl_protocol.names import digest_of
from edgectl_server.signing.publication import Outcome
from edgectl_server.signing.repository import MetadataFile, Repository, Target
from edgectl_server.signing.signers import named_key

NOW = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


class Published(FetcherInterface):
    """What a broker holds: retained metadata by role and version."""

    def __init__(self, files: list[MetadataFile]) -> None:
        self.files = {(role, version): content for role, version, content in files}
        self.fetched = 0

    def _fetch(self, url: str) -> Iterator[bytes]:
        content = self.files.get(parse_metadata_file(url.rsplit("/", 1)[1]))
        if content is None:
            raise DownloadHTTPError("not retained", 404)
        self.fetched += len(content)
        return iter([content])


class ClientDevice:
    """A device's metadata folder, kept between refreshes."""

    def __init__(self, folder: Path, first_root: bytes) -> None:
        self.folder = folder
        self.first_root = first_root

    def look_up(self, published: Published, path: str, now: datetime) -> TargetFile | None:
        config = UpdaterConfig(
            prefix_targets_with_hash=False,
            root_max_length=METADATA_BYTES_MAX,
            timestamp_max_length=METADATA_BYTES_MAX,
            snapshot_max_length=METADATA_BYTES_MAX,
            targets_max_length=METADATA_BYTES_MAX,
        )
        updater = Updater(
            str(self.folder),
            "mqtt://meta/",
            str(self.folder),
            "mqtt://targets/",
            fetcher=published,
            config=config,
            bootstrap=self.first_root,
        )
        updater._trusted_set.reference_time = now
        updater.refresh()
        return updater.get_targetinfo(path)


def target(name: str, content: bytes = b"manifest") -> Target:
    return Target(path=name, digest=digest_of(content), length=len(content))


class Person:
    """Somebody with a key of their own, on a machine of their own."""

    def __init__(self, name: str) -> None:
        self.signer = CryptoSigner.generate_ed25519()
        self.key: Key = named_key(self.signer.public_key, name)

    def sign(self, document: bytes) -> bytes:
        metadata = Metadata.from_bytes(document)
        metadata.sign(self.signer, append=True)
        return metadata.to_bytes()


def sign_and_submit(
    repository: Repository, role: str, *people: Person, now: datetime = NOW
) -> Outcome:
    """The round trip of a staged document: out, signed by each, back in."""
    document = repository.staged(role)
    for person in people:
        document = person.sign(document)
    return repository.submit(role, document, now)
