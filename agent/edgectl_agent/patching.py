"""Fetches a bundle, its model by a delta where an order names one for what the device has.

The delta comes as every blob does: chunk by chunk, from whatever source has it, and what has come
survives a power loss. While its end is coming the process that applies it starts. What that makes
is synchronized and hashed as what was fetched is, and only then a blob of the bundle. So an update
never fails, and nothing else is ever installed, for a delta's sake: in whatever is wrong with it
the model is fetched whole, and why is told by code.

===============================  ==============================================================
not used, because                code
===============================  ==============================================================
the base is not on the device    ``delta.base_missing``
it leads to no layer of the      ``delta.target``
signed manifest
it is not smaller, or no blob    ``delta.limit``
no room for delta and target     ``delta.space``
the whole file was begun before  ``delta.whole_begun``
it does not come as it should    ``transfer.…`` or ``store.damaged`` of its download
it cannot be applied             ``delta.…`` of `edgectl_agent.deltas`
what it has made is not right    ``delta.target``
===============================  ==============================================================

Rules:

1. A delta that was refused is removed, and the download of the whole file begun. Where that was
   begun, no delta is tried any more: so a power loss in between costs no second try.
2. A delta that does not come at all (``transfer.stalled``) fails the step, as a layer does; at the
   next attempt it is not waited for again.
3. When a step is cancelled or the power goes, all that was fetched or made stays.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from edgectl_agent.core import steps
from edgectl_agent.deltas import DeltaProcess, DeltaTask
from edgectl_agent.downloader import Downloader, Progress
from edgectl_agent.errors import StepCancelled, StepFailed, StepRejected, make_reason
from edgectl_agent.store import Store
from edgectl_protocol.chunks import INDEX_ANNOTATION
from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.manifest import Descriptor, Manifest, device_layers, model_layer
from edgectl_protocol.messages import Reason
from edgectl_protocol.names import hex_of
from edgectl_protocol.transfers import DeltaOffer, TransferReport

__all__ = ["APPLIED", "Applies", "Patcher"]

APPLIED = "delta.applied"
"""Counts what was made by deltas, beside the codes of what was not."""
EARLY_BYTES = 512 * 1024
"""The process starts when no more than this is to come: 0.4 s of a link of 10 Mbit/s."""
_CODES_MAX = 64
_log = logging.getLogger(__name__)


class Applies(Protocol):
    """A process that applies one delta."""

    def __enter__(self) -> Self:
        """Return it."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""

    def start(self) -> None:
        """Have it begun, if it is not."""

    def apply(
        self, task: DeltaTask, *, cancelled: Callable[[], bool] = lambda: False
    ) -> Reason | None:
        """Make the target; return why it is not there, or None."""


class NotUsed(Exception):
    """The model is to be fetched whole."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.reason = make_reason(code, detail)


class Patcher:
    """Fetches one bundle at a time; used by one thread."""

    def __init__(
        self,
        downloader: Downloader,
        store: Store,
        *,
        process: Callable[[], Applies] = DeltaProcess,
    ) -> None:
        """Take what it needs; `process` makes one that is not started yet."""
        self._downloader = downloader
        self._store = store
        self._process = process
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, int]:
        """Return how often deltas were applied and refused, by code, since the start."""
        return dict(self._counts.most_common(_CODES_MAX))

    def fetch(
        self,
        step: steps.Download,
        *,
        progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> TransferReport:
        """Bring the manifest and every layer that a device needs into the store.

        Args:
            step: what, and the delta that the order names.
            progress: told how far it has come.
            cancelled: whether to give up.

        Raises:
            StepFailed, StepRejected, StepCancelled, OSError: as of `Downloader.fetch`.
        """
        update = step.update
        model = update.wanted.model
        self._downloader.fetch_manifest(update.manifest, model=model, cancelled=cancelled)
        manifest = self._store.manifest(update.manifest)
        applied, refusal = None, None
        if step.delta is not None:
            try:
                if self._make(step.delta, manifest, step, progress, cancelled):
                    applied = step.delta
                    self._counts[APPLIED] += 1
            except NotUsed as why:
                refusal = why.reason
                self._counts[refusal.code] += 1
                _log.warning("the model is fetched whole: %s", why)
        self._downloader.fetch(update.manifest, model=model, progress=progress, cancelled=cancelled)
        return self._report(step, manifest, applied, refusal)

    def _make(
        self,
        offer: DeltaOffer,
        manifest: Manifest,
        step: steps.Download,
        progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> bool:
        """Make the model by the delta; return whether there was anything to make.

        Raises:
            NotUsed: it cannot be, and nothing of it is left.
        """
        target = _target(offer, manifest)
        if self._store.has(target.digest):
            return False
        self._check(offer, target)
        try:
            with self._process() as process:
                delta = self._fetch_delta(offer, step, process, progress, cancelled)
                self._apply(offer, target, delta, process, cancelled)
        except NotUsed:
            self._store.discard_deltas(target.digest)
            raise
        return True

    def _check(self, offer: DeltaOffer, target: Descriptor) -> None:
        if not offer.consistent or offer.size >= target.size:
            raise NotUsed("delta.limit", f"{offer.size} bytes for a file of {target.size}")
        if not self._store.has(offer.base):
            raise NotUsed("delta.base_missing", f"it is for {offer.base}, which is not here")
        if self._store.is_begun(target.digest):
            raise NotUsed("delta.whole_begun", "the download of the whole file was begun before")
        try:
            self._store.check_space([(offer.delta, offer.size), (target.digest, target.size)])
        except StepFailed as error:
            raise NotUsed("delta.space", error.detail) from error

    def _fetch_delta(
        self,
        offer: DeltaOffer,
        step: steps.Download,
        process: Applies,
        progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> str:
        """Bring the delta and return where it is; the process is on its way by then."""

        def came(count: int) -> None:
            if offer.size - count <= EARLY_BYTES:
                process.start()
            progress(Progress(bytes_done=count, bytes_total=offer.size))

        came(0)
        partial = self._store.delta(offer.target, offer.delta, offer.size)
        annotations = {} if offer.chunk_index is None else {INDEX_ANNOTATION: offer.chunk_index}
        described = Descriptor(
            media_type="", digest=offer.delta, size=offer.size, annotations=annotations
        )
        try:
            self._downloader.fetch_blob(
                described, step.update.wanted.model, came, cancelled, partial
            )
        except StepRejected as error:  # the index is not one of so many chunks
            raise NotUsed("delta.malformed", error.detail) from error
        except StepFailed as error:
            if error.code == "transfer.stalled" and step.update.attempt == 1:
                raise
            raise NotUsed(error.code, error.detail) from error
        return partial.path

    def _apply(
        self,
        offer: DeltaOffer,
        target: Descriptor,
        delta: str,
        process: Applies,
        cancelled: Callable[[], bool],
    ) -> None:
        """Make the target and give it its name, unless that was done before a power loss."""
        if self._store.adopt(target.digest, target.size):
            return
        task = DeltaTask(
            delta=delta,
            base=self._store.locate(offer.base),
            target=self._store.locate_made(target.digest),
            target_sha256=hex_of(target.digest),
            target_bytes=target.size,
        )
        reason = process.apply(task, cancelled=cancelled)
        if cancelled():
            raise StepCancelled
        if reason is not None:
            raise NotUsed(reason.code, reason.detail)
        if not self._store.adopt(target.digest, target.size):
            raise NotUsed("delta.target", "what was made of it is not what was signed")

    def _report(
        self,
        step: steps.Download,
        manifest: Manifest,
        applied: DeltaOffer | None,
        refusal: Reason | None,
    ) -> TransferReport:
        """Say what it took; what other bundles on the device have did not need to come."""
        sizes = {one.digest: one.size for one in device_layers(manifest)}
        whole = self._store.size(step.update.manifest) + sum(sizes.values())
        there = self._store.layers_of(one for one in step.keep if one != step.update.manifest)
        saved = sum(size for digest, size in sizes.items() if digest in there)
        if applied is not None:
            saved += sizes[applied.target] - applied.size
        return TransferReport(
            whole_bytes=whole,
            fetched_bytes=whole - saved,
            delta=None if applied is None else applied.delta,
            refusal=refusal,
        )


def _target(offer: DeltaOffer, manifest: Manifest) -> Descriptor:
    """Return the layer that the delta leads to."""
    try:
        layer = model_layer(manifest)
    except MalformedMessage as error:
        raise NotUsed("delta.target", str(error)) from error
    if layer.digest != offer.target:
        raise NotUsed("delta.target", f"it leads to {offer.target}, signed is {layer.digest}")
    return layer
