"""What the device believes: signed metadata over MQTT, and signed orders.

Rules:

1. python-tuf's client decides about metadata, always from the root that came with the enrolment. It
   gets its files from retained topics; a topic that holds nothing stays silent, so that the walk
   over root versions ends at the version that the unsigned ``meta/head`` names.
2. python-tuf's cache is not written durably. What must survive a power loss is the floor: versions
   that were believed once, kept in the journal. Metadata below it is not believed.
3. Targets are never downloaded by python-tuf: a bundle is fetched by its manifest's digest.
4. An order is a DSSE envelope, signed by a key that the newest trusted root lists for orders.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError
from securesystemslib.signer import Key
from tuf.api import exceptions as tuf_exceptions
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edgectl_agent.core.record import Floor
from edgectl_agent.downloader import Transport
from edgectl_agent.errors import AgentError, Refused, StepCancelled, StepFailed, StepRejected
from edgectl_protocol import topics
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import MANIFEST_BYTES_MAX
from edgectl_protocol.messages import (
    MESSAGE_BYTES_MAX,
    ORDER_PAYLOAD_TYPE,
    MetadataHead,
    Order,
    decode,
)
from edgectl_protocol.metadata import METADATA_BYTES_MAX, ORDER_KEYS_FIELD, parse_metadata_file
from edgectl_protocol.names import hex_of

__all__ = ["MetadataFetcher", "Trust"]

_BASE_URL = "mqtt:///"
_WAIT_S = 0.5
_ORDER_KEYS_MAX = 16
_SIGNATURES_MAX = 16
T = TypeVar("T")
_log = logging.getLogger(__name__)


class MetadataFetcher(FetcherInterface):
    """python-tuf's fetcher, on retained topics. One per refresh."""

    def __init__(
        self, transport: Transport, cancelled: Callable[[], bool], *, timeout_s: float
    ) -> None:
        self._transport = transport
        self._cancelled = cancelled
        self._timeout_s = timeout_s
        self._newest_root: int | None = None

    def _fetch(self, url: str) -> Iterator[bytes]:
        role, version = parse_metadata_file(url.removeprefix(_BASE_URL))
        if role == "root":
            assert version is not None, url
            if version > self._head():
                raise tuf_exceptions.DownloadHTTPError(f"no root {version}", 404)
        return iter((self._receive(topics.metadata(role, version)),))

    def _head(self) -> int:
        if self._newest_root is None:
            self._newest_root = decode(MetadataHead, self._receive(topics.head())).root
        return self._newest_root

    def _receive(self, topic: str) -> bytes:
        """Return the retained message of `topic`; raise `DownloadError` when none comes."""
        transport = self._transport
        transport.subscribe([topic])
        waited_s = 0.0
        try:
            while waited_s < self._timeout_s:
                if self._cancelled():
                    raise tuf_exceptions.DownloadError("cancelled")
                if transport.connected():
                    waited_s += _WAIT_S
                message = transport.receive(_WAIT_S)
                if message is not None and message[0] == topic and message[1]:
                    if len(message[1]) > METADATA_BYTES_MAX:
                        raise tuf_exceptions.DownloadLengthMismatchError(
                            f"{topic}: {len(message[1])} bytes, at most {METADATA_BYTES_MAX}"
                        )
                    return message[1]
        finally:
            transport.unsubscribe([topic])
        raise tuf_exceptions.DownloadError(f"{topic} holds nothing")


class Trust:
    """The trusted metadata of one device; never used from the thread that delivers messages."""

    def __init__(
        self, directory: Path, bootstrap: bytes, transport: Transport, *, timeout_s: float = 10.0
    ) -> None:
        """Begin.

        Args:
            directory: python-tuf's cache.
            bootstrap: the root that came with the enrolment, exactly as signed.
            transport: retained topics.
            timeout_s: how long to wait for one of them while there is a connection.
        """
        self._directory = directory
        self._bootstrap = bootstrap
        self._transport = transport
        self._timeout_s = timeout_s
        self._order_keys: list[Key] = []
        self._lock = threading.Lock()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def find(
        self, target: str, manifest: str, floor: Floor, cancelled: Callable[[], bool]
    ) -> Floor:
        """Refresh, and check that `target` is signed for as `manifest`; return what was believed.

        Raises:
            StepFailed: ``trust.unreachable``, ``trust.expired``, ``trust.refused``,
                ``trust.rollback`` or ``trust.target``: not believed now.
            StepRejected: ``trust.mismatch``: the order names another content than is signed for.
            StepCancelled: `cancelled` said so.
        """
        with self._lock:
            updater = self._refresh(cancelled)
            seen = self._versions()
            if seen.raised_to(floor) != seen:
                raise StepFailed(
                    "trust.rollback", f"metadata {seen} is older than {floor}, believed before"
                )
            info = _tuf_call(lambda: updater.get_targetinfo(target), cancelled)
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

    def check_order(self, payload: bytes, cancelled: Callable[[], bool]) -> Order:
        """Return the order in `payload` if its signature is good.

        Raises:
            Refused: ``order.malformed`` or ``order.signature``: it is none of ours.
            StepFailed: the keys could not be fetched now.
            StepCancelled: `cancelled` said so.
        """
        envelope = parse_envelope(payload)
        with self._lock:
            good = _verified(envelope, self._order_keys)
            if not good:  # signed with a newer key, perhaps: walk the roots
                try:
                    self._refresh(cancelled)
                except StepFailed as error:
                    if not self._order_keys or error.code == "trust.unreachable":
                        raise
                    _log.warning("metadata is not believed now: %s", error)
                good = _verified(envelope, self._order_keys)
        if not good:
            raise Refused("order.signature", "not signed by a key that the trusted root lists")
        try:
            return decode(Order, envelope.payload)
        except ProtocolError as error:
            raise Refused("order.malformed", str(error)) from error

    def _refresh(self, cancelled: Callable[[], bool]) -> Updater:
        """Walk the roots and load the top-level metadata."""
        fetcher = MetadataFetcher(self._transport, cancelled, timeout_s=self._timeout_s)
        updater = _tuf_call(
            lambda: Updater(
                str(self._directory),
                _BASE_URL,
                fetcher=fetcher,
                config=UpdaterConfig(
                    root_max_length=METADATA_BYTES_MAX,
                    timestamp_max_length=METADATA_BYTES_MAX,
                    snapshot_max_length=METADATA_BYTES_MAX,
                    targets_max_length=METADATA_BYTES_MAX,
                    prefix_targets_with_hash=False,
                ),
                bootstrap=self._bootstrap,
            ),
            cancelled,
        )
        try:
            _tuf_call(updater.refresh, cancelled)
        finally:
            # Whatever became of the rest: this root was checked in this very call.
            self._order_keys = _order_keys(self._signed("root"))
        return updater

    def _versions(self) -> Floor:
        """Return the versions in the cache, which `_refresh` has just checked."""
        return Floor(
            root=self._signed("root")["version"],
            timestamp=self._signed("timestamp")["version"],
            snapshot=self._signed("snapshot")["version"],
        )

    def _signed(self, role: str) -> dict[str, Any]:
        content = (self._directory / f"{role}.json").read_bytes()
        signed: dict[str, Any] = json.loads(content)["signed"]
        return signed


def parse_envelope(payload: bytes) -> Envelope:
    """Take a DSSE envelope apart; raise `Refused` ``order.malformed`` for anything else."""
    if len(payload) > MESSAGE_BYTES_MAX:
        raise Refused("order.malformed", f"an order of {len(payload)} bytes")
    try:
        content = msgspec.json.decode(payload)
        if len(content["signatures"]) > _SIGNATURES_MAX:
            raise Refused("order.malformed", "too many signatures")
        envelope = Envelope.from_dict(content)
    except (
        msgspec.MsgspecError,
        FormatError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise Refused("order.malformed", "not a signed envelope") from error
    if envelope.payload_type != ORDER_PAYLOAD_TYPE:
        raise Refused("order.malformed", f"an envelope of {envelope.payload_type!r:.80}")
    return envelope


def _verified(envelope: Envelope, keys: list[Key]) -> bool:
    try:
        return bool(keys) and bool(envelope.verify(keys, 1))
    except VerificationError:
        return False


def _order_keys(root: dict[str, Any]) -> list[Key]:
    """Return the keys that the trusted root lists for orders."""
    listed = root.get(ORDER_KEYS_FIELD, {})
    keys = []
    for keyid, key in list(listed.items())[:_ORDER_KEYS_MAX]:
        try:
            keys.append(Key.from_dict(keyid, dict(key)))
        except (KeyError, TypeError, ValueError) as error:
            _log.warning("the order key %.16s is of a kind that is not known: %s", keyid, error)
    return keys


def _tuf_call(call: Callable[[], T], cancelled: Callable[[], bool]) -> T:
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
    except tuf_exceptions.DownloadError as error:
        if cancelled():
            raise StepCancelled from error
        raise StepFailed("trust.unreachable", f"{error.__cause__ or error}") from error
    except tuf_exceptions.RepositoryError as error:
        raise StepFailed("trust.refused", f"{error}") from error
    except AgentError:
        raise
    except ValueError as error:  # of a file in the cache, or a field that no parser foresaw
        raise StepFailed("trust.refused", f"{error}") from error
