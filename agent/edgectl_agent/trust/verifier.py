"""Decides what is believed: signed metadata, and signed orders. Knows no network.

Rules:

1. python-tuf's client decides about metadata, always from the root that came with the enrolment.
   It gets its files from the fetcher that the verifier is given.
2. python-tuf's cache is not written durably. What must survive a power loss is the floor: versions
   that were believed once, kept in the journal. Metadata below it is not believed, unless the keys
   of its role were replaced since: then nothing that the old keys have signed counts any more, and
   a thief who has driven the version up has won nothing (TUF 1.0.33 §5.3.11).
3. No file is longer than `METADATA_BYTES_MAX`, no version higher than `VERSION_MAX`.
4. Targets are never downloaded by python-tuf: a bundle is fetched by its manifest's digest.
5. An order is a DSSE envelope, signed by a key that the newest trusted root lists for orders. The
   roots are walked before each order, so that a key that was taken out is of no use any more.
   Expired metadata does not hold up an order: that nothing is installed is then its answer.
   A request is the same with another payload type: neither passes for the other.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signature
from tuf.api import exceptions as tuf_exceptions
from tuf.api.metadata import TargetFile
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edgectl_agent.core.record import Floor
from edgectl_agent.errors import Refused, StepFailed, StepRejected
from edgectl_protocol.envelopes import Envelope, decode_envelope, signed_bytes
from edgectl_protocol.errors import MalformedMessage, ProtocolError
from edgectl_protocol.manifest import MANIFEST_BYTES_MAX
from edgectl_protocol.messages import (
    MESSAGE_BYTES_MAX,
    ORDER_PAYLOAD_TYPE,
    REQUEST_PAYLOAD_TYPES,
    REQUEST_TYPE_END,
)
from edgectl_protocol.metadata import METADATA_BYTES_MAX, ORDER_KEYS_FIELD
from edgectl_protocol.names import hex_of

__all__ = ["VERSION_MAX", "Checked", "Verifier", "parse_envelope"]

VERSION_MAX = 2**63 - 1
"""What the journal can hold; a higher version can only be an attempt to break something."""
_ORDER_KEYS_MAX = 16
_KEYID_CHARACTERS_MAX = 256
_CONFIG = UpdaterConfig(
    root_max_length=METADATA_BYTES_MAX,
    timestamp_max_length=METADATA_BYTES_MAX,
    snapshot_max_length=METADATA_BYTES_MAX,
    targets_max_length=METADATA_BYTES_MAX,
)
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Checked(NamedTuple):
    """What an envelope with a good signature carries."""

    payload: bytes
    key: str
    """Id of the key that has signed it."""
    keys: tuple[str, ...]
    """Ids of all keys that the newest trusted root lists for orders."""
    payload_type: str
    """What the signature says that the payload is."""


class Verifier:
    """The trusted metadata of one device; used by one thread."""

    def __init__(
        self, directory: Path, bootstrap: bytes, fetcher: FetcherInterface, *, base_url: str
    ) -> None:
        """Begin; nothing is fetched.

        Args:
            directory: python-tuf's cache.
            bootstrap: the root that came with the enrolment, exactly as signed.
            fetcher: where metadata files come from, by the URL `base_url` + file name.
            base_url: ends with a slash.
        """
        self._directory = directory
        self._bootstrap = bootstrap
        self._fetcher = fetcher
        self._base_url = base_url
        self._updater: Updater | None = None
        self._order_keys: list[Key] = []
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def find(self, target: str, manifest: str, floor: Floor) -> Floor:
        """Refresh, and check that `target` is signed for as `manifest`; return what was believed.

        Raises:
            StepFailed: ``trust.unreachable``, ``trust.expired``, ``trust.refused``,
                ``trust.rollback`` or ``trust.target``: not believed now.
            StepRejected: ``trust.mismatch``: the order names another content than is signed for.
        """
        seen = self.refresh(floor)
        info = self.target(target)
        if info is None:
            raise StepFailed("trust.target", f"{target} is not in the signed metadata")
        if info.hashes.get("sha256") != hex_of(manifest):
            raise StepRejected(
                "trust.mismatch",
                f"{target} is signed for {info.hashes.get('sha256')}, ordered is {manifest}",
            )
        if info.length > MANIFEST_BYTES_MAX:
            raise StepRejected("bundle.malformed", f"a manifest of {info.length} bytes")
        return seen

    def refresh(self, floor: Floor) -> Floor:
        """Bring the top-level metadata up to date; return the versions, the next time's floor.

        Raises:
            StepFailed: as `find`, without ``trust.target``.
        """
        self._load()
        seen = self._versions()
        binding = self._binding(floor, seen)
        if seen.raised_to(binding) != seen:
            raise StepFailed(
                "trust.rollback", f"metadata {seen} is older than {binding}, believed before"
            )
        return seen

    def target(self, path: str) -> TargetFile | None:
        """Return what the metadata of the last `refresh` says of `path`; None if nothing.

        Raises:
            StepFailed: as `refresh`, of the delegated roles.
        """
        updater = self._updater
        assert updater is not None, "refresh comes first"
        return _tuf_call(lambda: updater.get_targetinfo(path))

    def check_order(self, payload: bytes) -> Checked:
        """Take the envelope `payload` apart, if its signature is good.

        Raises:
            Refused: ``order.malformed`` or ``order.signature``: it is none of ours.
            StepFailed: the keys could not be fetched now.
        """
        checked = self._checked(parse_envelope(payload))
        if checked is None:
            raise Refused("order.signature", "not signed by a key that the trusted root lists")
        return checked

    def check_request(self, payload: bytes) -> Checked:
        """Take the envelope `payload` of a request apart, if its signature is good.

        Raises:
            Refused: ``request.malformed`` or ``request.signature``: it is none of ours.
            StepFailed: the keys could not be fetched now; ``request.unknown``: it is ours, and of
                a server that is newer than this agent.
        """
        try:
            envelope = decode_envelope(payload, bytes_max=MESSAGE_BYTES_MAX)
            if not envelope.payload_type.endswith(REQUEST_TYPE_END):
                raise MalformedMessage(f"an envelope of {envelope.payload_type!r:.80}")
        except ProtocolError as error:
            raise Refused("request.malformed", str(error)) from error
        checked = self._checked(envelope)
        if checked is None:
            raise Refused("request.signature", "not signed by a key that the trusted root lists")
        if checked.payload_type not in REQUEST_PAYLOAD_TYPES.values():
            raise StepFailed(
                "request.unknown", f"the server is newer, and asks for {checked.payload_type!r:.80}"
            )
        return checked

    def _checked(self, envelope: Envelope) -> Checked | None:
        """Return what the envelope carries; None where no key that counts has signed it."""
        try:
            self._load()
        except StepFailed as error:
            if not self._order_keys or error.code == "trust.unreachable":
                raise
            _log.warning("metadata is not believed now: %s", error)
        key = _signing_key(envelope, self._order_keys)
        if key is None:
            return None
        keys = tuple(one.keyid for one in self._order_keys)
        return Checked(envelope.payload, key, keys, envelope.payload_type)

    def _load(self) -> None:
        """Walk the roots and load the top-level metadata."""
        self._updater = None
        self._order_keys = []
        updater = _tuf_call(
            lambda: Updater(
                str(self._directory),
                self._base_url,
                fetcher=self._fetcher,
                config=_CONFIG,
                bootstrap=self._bootstrap,
            )
        )
        try:
            _tuf_call(updater.refresh)
        finally:
            # Whatever became of the rest: this root was checked in this very call.
            self._order_keys = _order_keys(self._signed("root"))
        self._updater = updater

    def _versions(self) -> Floor:
        """Return the versions in the cache, which `_load` has just checked."""
        return Floor(
            root=self._version("root"),
            timestamp=self._version("timestamp"),
            snapshot=self._version("snapshot"),
        )

    def _version(self, role: str) -> int:
        version = self._signed(role)["version"]
        if type(version) is not int or version > VERSION_MAX:  # True is an int to python-tuf
            raise StepFailed("trust.refused", f"{role} has version {version!r:.40}")
        return version

    def _binding(self, floor: Floor, seen: Floor) -> Floor:
        """Return the part of `floor` that still counts under the newest root."""
        first = json.loads(self._bootstrap)["signed"]["version"]
        version = max(floor.root, first)
        if version > seen.root:
            return floor
        # Between the bootstrap and the newest, every root was checked by the walk.
        before = self._signed(f"root_history/{version}.root")
        after = self._signed("root")
        kept = {role for role in ("timestamp", "snapshot") if _still_counts(role, before, after)}
        return Floor(
            root=floor.root,
            timestamp=floor.timestamp if "timestamp" in kept else 0,
            snapshot=floor.snapshot if "snapshot" in kept else 0,
        )

    def _signed(self, role: str) -> dict[str, Any]:
        content = (self._directory / f"{role}.json").read_bytes()
        signed: dict[str, Any] = json.loads(content)["signed"]
        return signed


def parse_envelope(payload: bytes) -> Envelope:
    """Take an order's envelope apart; raise `Refused` ``order.malformed`` for anything else."""
    try:
        envelope = decode_envelope(payload, bytes_max=MESSAGE_BYTES_MAX)
        if envelope.payload_type != ORDER_PAYLOAD_TYPE:
            raise MalformedMessage(f"an envelope of {envelope.payload_type!r:.80}")
    except ProtocolError as error:
        raise Refused("order.malformed", str(error)) from error
    return envelope


def _signing_key(envelope: Envelope, keys: list[Key]) -> str | None:
    """Return the id of the first of `keys` that has signed it; None: none has."""
    signed = signed_bytes(envelope.payload_type, envelope.payload)
    by_id = {key.keyid: key for key in keys}
    for signature in envelope.signatures:
        key = by_id.get(signature.keyid)
        if key is not None:
            with suppress(UnverifiedSignatureError):
                key.verify_signature(Signature(signature.keyid, signature.sig.hex()), signed)
                return key.keyid
    return None


def _order_keys(root: dict[str, Any]) -> list[Key]:
    """Return the keys that the trusted root lists for orders."""
    listed = root.get(ORDER_KEYS_FIELD)
    keys: list[Key] = []
    if not isinstance(listed, dict):
        return keys
    for keyid, key in list(listed.items())[:_ORDER_KEYS_MAX]:
        if len(keyid) > _KEYID_CHARACTERS_MAX:
            continue
        try:
            keys.append(Key.from_dict(keyid, dict(key)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            _log.warning("the order key %.16s is of a kind that is not known: %s", keyid, error)
    return keys


def _still_counts(role: str, before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Say whether the keys that `role` had in the root `before` could sign for it in `after`."""

    def values(root: dict[str, Any]) -> set[str]:
        keyids = root["roles"][role]["keyids"]
        return {json.dumps(root["keys"][keyid]["keyval"], sort_keys=True) for keyid in keyids}

    common = values(before) & values(after)
    return len(common) >= int(after["roles"][role]["threshold"])


def _tuf_call(call: Callable[[], T]) -> T:
    """Call into python-tuf and sort what it raises by who must act."""
    try:
        return call()
    except tuf_exceptions.ExpiredMetadataError as error:
        raise StepFailed(
            "trust.expired",
            f"{error}",
            hint="check the device's clock, and that the server is running",
        ) from error
    except tuf_exceptions.BadVersionNumberError as error:
        raise StepFailed("trust.rollback", f"{error}") from error
    except tuf_exceptions.DownloadLengthMismatchError as error:
        raise StepFailed("trust.refused", f"{error}") from error
    except tuf_exceptions.DownloadError as error:
        if isinstance(error.__cause__, ProtocolError):  # a role that cannot be one of ours
            raise StepFailed("trust.refused", f"{error.__cause__}") from error
        raise StepFailed("trust.unreachable", f"{error.__cause__ or error}") from error
    except tuf_exceptions.RepositoryError as error:
        raise StepFailed("trust.refused", f"{error}") from error
    except ValueError as error:  # of a file in the cache, or a field that no parser foresaw
        raise StepFailed("trust.refused", f"{error}") from error
