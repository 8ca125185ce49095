"""Whether an exported version of another server is believed: by its metadata, from a pinned root.

Rules:

1. The first version from an origin comes with the SHA-256 of one of the origin's roots, which
   somebody has brought by another way. From there on, what was believed last is kept: the newest
   root, timestamp and snapshot.
2. python-tuf decides, as on devices: roots are walked one by one, nothing older than what is kept
   is believed, and all files must be of one snapshot. It gets its files from the archive, and
   knows no network.
3. A file may be on its way for longer than its signatures last. Who imports it may say for how
   long (`grace`): then they are taken as at that time before now. What was revoked in the meantime
   is not known here then; a rollback is refused all the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from tuf.api import exceptions as tuf_exceptions
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.messages import Candidate
from edgectl_protocol.metadata import METADATA_BYTES_MAX, parse_metadata_file
from edgectl_protocol.names import hex_of
from edgectl_server.errors import Refused

__all__ = ["Believed", "believe", "find_root", "fingerprint_of"]

_BASE_URL = "archive:///"
_CONFIG = UpdaterConfig(
    root_max_length=METADATA_BYTES_MAX,
    timestamp_max_length=METADATA_BYTES_MAX,
    snapshot_max_length=METADATA_BYTES_MAX,
    targets_max_length=METADATA_BYTES_MAX,
)
_VERSION_MAX = 2**63 - 1
_EXPORT_AGAIN = "write the file anew on the other server: edgectl export MODEL@VERSION"


class Believed(NamedTuple):
    """What is kept of an origin: metadata files, exactly as signed."""

    root: bytes
    timestamp: bytes | None = None
    snapshot: bytes | None = None

    @property
    def root_version(self) -> int:
        """Version of the newest root."""
        version: int = json.loads(self.root)["signed"]["version"]
        return version


class _ArchiveFiles(FetcherInterface):
    """python-tuf's fetcher: files of the archive."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix(_BASE_URL)
        role, _ = parse_metadata_file(name)
        content = self._files.get(name)
        if content is not None:
            return iter((content,))
        if role == "root":  # the walk over the roots ends here
            raise tuf_exceptions.DownloadHTTPError(f"{name} is not in the file", 404)
        raise tuf_exceptions.DownloadError(f"{name} is not in the file")


def fingerprint_of(root: bytes) -> str:
    """Return by what people compare a root."""
    return f"sha256:{hashlib.sha256(root).hexdigest()}"


def find_root(files: Mapping[str, bytes], fingerprint: str) -> Believed:
    """Return the root of that fingerprint, to begin with.

    Raises:
        Refused: ``import.root``: it is not in the file.
    """
    for name, content in files.items():
        if name.endswith(".root.json") and fingerprint_of(content) == fingerprint:
            return Believed(content)
    raise Refused(
        "import.root",
        f"the file holds no root with the fingerprint {fingerprint}",
        hint="ask whoever runs the other server: edgectl export prints it; or the file is not its",
    )


def believe(
    files: Mapping[str, bytes],
    known: Believed,
    candidates: Iterable[Candidate],
    *,
    now: datetime,
    grace: timedelta,
    directory: Path,
) -> Believed:
    """Check that the origin has signed for each candidate; return what is to be kept of it.

    Args:
        files: metadata of the archive, by name.
        known: what is believed before.
        candidates: target paths, and the manifests that they must be signed for.
        now: the time.
        grace: so long ago the signatures may have ended.
        directory: empty; python-tuf works in it.

    Raises:
        Refused: ``import.expired``, ``import.rollback``, ``import.incomplete``,
            ``import.untrusted``, ``import.target``.
        OSError: `directory` cannot be written.
    """
    for name, content in (("timestamp", known.timestamp), ("snapshot", known.snapshot)):
        if content is not None:
            (directory / f"{name}.json").write_bytes(content)
    try:
        updater = Updater(
            str(directory),
            _BASE_URL,
            fetcher=_ArchiveFiles(files),
            config=_CONFIG,
            bootstrap=known.root,
        )
        # python-tuf takes the wall clock's time, and has no argument for another.
        updater._trusted_set.reference_time = now - grace  # noqa: SLF001
        updater.refresh()
        for one in candidates:
            _check_target(updater, one)
    except tuf_exceptions.ExpiredMetadataError as error:
        raise Refused(
            "import.expired",
            f"the signatures in the file have ended: {error}",
            hint=f"{_EXPORT_AGAIN}; or say how long it was on its way: --expired-for 7d",
        ) from error
    except tuf_exceptions.BadVersionNumberError as error:
        raise Refused(
            "import.rollback",
            f"newer metadata of this origin was believed before: {error}",
            hint=_EXPORT_AGAIN,
        ) from error
    except tuf_exceptions.DownloadLengthMismatchError as error:
        raise _untrusted(error) from error
    except tuf_exceptions.DownloadError as error:
        if isinstance(error.__cause__, ProtocolError):  # a role that cannot be one of ours
            raise _untrusted(error.__cause__) from error
        raise Refused(
            "import.incomplete", f"{error.__cause__ or error}", hint=_EXPORT_AGAIN
        ) from error
    except (tuf_exceptions.RepositoryError, ValueError) as error:
        raise _untrusted(error) from error
    return _kept(directory)


def _check_target(updater: Updater, candidate: Candidate) -> None:
    info = updater.get_targetinfo(candidate.target)
    if info is None or info.hashes.get("sha256") != hex_of(candidate.manifest):
        signed = "nothing" if info is None else f"{info.hashes.get('sha256')}"
        raise Refused(
            "import.target",
            f"{candidate.target} is signed for {signed}, the file holds {candidate.manifest}",
            hint=_EXPORT_AGAIN,
        )


def _kept(directory: Path) -> Believed:
    kept = Believed(
        *((directory / f"{role}.json").read_bytes() for role in ("root", "timestamp", "snapshot"))
    )
    for content in kept:
        signed: dict[str, Any] = json.loads(content or b"{}")["signed"]
        if type(signed["version"]) is not int or signed["version"] > _VERSION_MAX:
            raise _untrusted(f"a version of {signed['version']!r:.40}")
    return kept


def _untrusted(reason: object) -> Refused:
    return Refused(
        "import.untrusted",
        f"this is not signed as the origin signs: {str(reason)[:300]}",
        hint="does the file come from that server? Origins: edgectl origins list",
    )
