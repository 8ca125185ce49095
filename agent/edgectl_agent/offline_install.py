"""Brings a version from a file into the store, and hands it to the update machine.

Order: headers of the file → index → is the metadata believed, and does it sign for each variant →
does it fit on this device → package and blobs onto the disk. Nothing is written of a file that is
not believed. What is written of one that is refused in the end is removed with the next collection.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Collection
from datetime import datetime

import msgspec
from msgspec import Struct

from edgectl_agent.core.record import Floor
from edgectl_agent.errors import AgentError, Refused, StepFailed, StepRejected
from edgectl_agent.local_desk import Prepared
from edgectl_agent.local_messages import Install
from edgectl_agent.offline import MetadataFiles, Package, Packages
from edgectl_agent.offline_archive import open_archive, refusals
from edgectl_agent.store import Store
from edgectl_agent.trust.process import Trust
from edgectl_protocol.archives import Archive
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import (
    CONFIG_FILE,
    MANIFEST_BYTES_MAX,
    Descriptor,
    Manifest,
    decode_config,
    decode_manifest,
    device_layers,
    is_encrypted,
    layer_by_file,
)
from edgectl_protocol.messages import Candidate, SlotOrder
from edgectl_protocol.offline import candidates_of, decode_index

__all__ = ["OfflineInstaller"]

_CONFIG_BYTES_MAX = 1024 * 1024
_EXPORT_AGAIN = "write the file anew: edgectl export MODEL@VERSION -o bundle.oci"
_log = logging.getLogger(__name__)


class _Signed(Struct):
    expires: str = ""


class _Metadata(Struct):
    signed: _Signed


class _Unfit(Refused):
    """One variant cannot run here; another one may."""


class OfflineInstaller:
    """Prepares one file at a time; used from the threads of the control socket."""

    def __init__(
        self,
        *,
        store: Store,
        packages: Packages,
        trust: Trust,
        floor: Callable[[], Floor],
        runtimes: Callable[[], Collection[str]],
        now: Callable[[], datetime],
        stopping: Callable[[], bool],
    ) -> None:
        """Take where it goes.

        Args:
            store: of the blobs.
            packages: of what came as a file.
            trust: decides what is believed.
            floor: the newest metadata that was believed before.
            runtimes: names of the runtimes that are installed here.
            now: by the wall clock, for what is said to people.
            stopping: says that the agent is ending.
        """
        self._store = store
        self._packages = packages
        self._trust = trust
        self._floor = floor
        self._runtimes = runtimes
        self._now = now
        self._stopping = stopping
        self._lock = threading.Lock()

    def prepare(self, file: int, request: Install) -> Prepared:
        """Verify the file and bring it into the store.

        Raises:
            Refused: ``offline.…``, ``key.missing``, or what the verifying process says.
            StepFailed: ``trust.…``, ``disk.full``: it is not believed, or does not fit, now.
            StepRejected: ``trust.mismatch``, ``bundle.malformed``.
            OSError: the file, or the disk.
        """
        if not self._lock.acquire(blocking=False):
            raise Refused(
                "offline.busy",
                "another file is being installed",
                hint="try again when it is done: edgectl-agent status",
            )
        try:
            with refusals():
                return self._prepare(open_archive(file), request)
        finally:
            self._lock.release()

    def _prepare(self, archive: Archive, request: Install) -> Prepared:
        try:
            model, version, candidates = candidates_of(decode_index(archive.index()))
        except ProtocolError as error:
            raise Refused("offline.malformed", f"{error}", hint=_EXPORT_AGAIN) from error
        candidates = _chosen(candidates, request.variant)
        metadata = archive.metadata()
        self._believe(candidates, metadata)
        manifests = self._all_fitting(archive, candidates)
        candidates = tuple(one for one in candidates if one.manifest in manifests)
        slot = request.slot or model
        wanted = SlotOrder(model=model, version=version, candidates=candidates)
        layers = {layer.digest: layer for one in manifests.values() for layer in device_layers(one)}
        for layer in layers.values():
            archive.check_blob(layer.digest, layer.size)
        self._store.check_space((layer.digest, layer.size) for layer in layers.values())
        try:
            self._packages.put(slot, Package(wanted=wanted, metadata=metadata))
            for digest in manifests:
                self._store.add(digest, archive.small_blob(digest, MANIFEST_BYTES_MAX))
            for layer in layers.values():
                self._copy(archive, layer)
        except BaseException:
            self._packages.drop(slot)
            raise
        _log.info("%s %s came as a file for the slot %s", model, version, slot)
        return Prepared(slot=slot, wanted=wanted)

    def _believe(self, candidates: Collection[Candidate], metadata: dict[str, bytes]) -> None:
        """Have the metadata checked, as when it comes over the network."""
        try:
            files = MetadataFiles(metadata)
        except ProtocolError as error:
            raise Refused("offline.malformed", f"{error}", hint=_EXPORT_AGAIN) from error
        for one in candidates:
            try:
                self._trust.find(
                    one.target, one.manifest, self._floor(), self._stopping, files=files
                )
            except StepFailed as error:
                raise self._explained(error, metadata) from error

    def _explained(self, error: StepFailed, metadata: dict[str, bytes]) -> AgentError:
        match error.code:
            case "trust.expired":
                ends = min(filter(None, map(_end, metadata.values())), default="an unknown day")
                return Refused(
                    "offline.expired",
                    f"the signatures in the file ended at {ends}; this device's clock says "
                    f"{self._now():%Y-%m-%dT%H:%M:%SZ}",
                    hint=f"is the clock right? If it is, {_EXPORT_AGAIN}",
                )
            case "trust.rollback":
                return Refused(
                    "offline.old",
                    f"this device has believed newer metadata before: {error.detail}",
                    hint=_EXPORT_AGAIN,
                )
            case "trust.unreachable":
                return Refused(
                    "offline.incomplete",
                    f"metadata is missing in the file: {error.detail}",
                    hint=_EXPORT_AGAIN,
                )
        return error

    def _all_fitting(
        self, archive: Archive, candidates: Collection[Candidate]
    ) -> dict[str, Manifest]:
        """Return the manifests of the variants that can run here, by digest, at least one."""
        fitting: dict[str, Manifest] = {}
        unfit: list[Refused] = []
        for one in candidates:
            try:
                fitting[one.manifest] = self._fitting(archive, one)
            except _Unfit as error:
                unfit.append(error)
        if not fitting:
            raise unfit[0]
        return fitting

    def _fitting(self, archive: Archive, candidate: Candidate) -> Manifest:
        """Return the manifest of a variant that can run here; raise `Refused` otherwise."""
        content = archive.small_blob(candidate.manifest, MANIFEST_BYTES_MAX)
        try:
            manifest = decode_manifest(content)
            layer = layer_by_file(manifest, CONFIG_FILE)
            config = decode_config(archive.small_blob(layer.digest, _CONFIG_BYTES_MAX))
        except ProtocolError as error:
            raise StepRejected("bundle.malformed", f"{error}") from error
        if config.runtime not in self._runtimes():
            there = ", ".join(sorted(self._runtimes())) or "none"
            raise _Unfit(
                "offline.runtime",
                f"variant {candidate.variant} needs {config.runtime}, installed here: {there}",
                hint="install the runtime, or choose another variant with --variant",
            )
        if is_encrypted(manifest) and not self._store.has_key(candidate.manifest):
            raise _Unfit(
                "key.missing",
                f"variant {candidate.variant} is encrypted, and no order has brought its key",
                hint="roll it out to this device once while it is connected: the order brings "
                "the key",
            )
        return manifest

    def _copy(self, archive: Archive, layer: Descriptor) -> None:
        """Write a blob that has just been hashed; it is hashed once more on the disk."""
        if self._store.has(layer.digest):
            return
        if layer.size == 0:
            self._store.add(layer.digest, b"")
            return
        with contextlib.closing(self._store.partial(layer.digest, layer.size)) as partial:
            for number, chunk in enumerate(archive.chunks(layer.digest)):
                partial.write(number, chunk)
            partial.finish()


def _chosen(candidates: tuple[Candidate, ...], variant: str | None) -> tuple[Candidate, ...]:
    if variant is None:
        return candidates
    chosen = tuple(one for one in candidates if one.variant == variant)
    if not chosen:
        there = ", ".join(one.variant for one in candidates)
        raise Refused(
            "offline.variant",
            f"variant {variant} is not in the file",
            hint=f"choose one of {there}; or export it: edgectl export MODEL@VERSION --variant …",
        )
    return chosen


def _end(content: bytes) -> str:
    """Return the end of a metadata file's life as it says itself; only for people."""
    try:
        return msgspec.json.decode(content, type=_Metadata).signed.expires[:40]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
