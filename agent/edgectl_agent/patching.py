"""Fetches a bundle by deltas, where an order names some for what the device has.

One makes the rest of the bundle (`edgectl_agent.rest_patching`), one its model. What they make is
synchronized and hashed as what was fetched is, and only then a blob of the bundle. So an update
never fails, and nothing else is ever installed, for a delta's sake: in whatever is wrong with it
what it leads to is fetched whole, and why is told by code.

===============================  ==============================================================
not used, because                code
===============================  ==============================================================
the base is not on the device    ``delta.base_missing``
it leads to no layer of the      ``delta.target``
signed manifest, or to another
manifest
it is not smaller, or no blob    ``delta.limit``
no room for delta and target     ``delta.space``
the whole file was begun before  ``delta.whole_begun``
it does not come as it should    ``transfer.…`` or ``store.damaged`` of its download
it cannot be applied             ``delta.…`` of `edgectl_agent.deltas`
what it has made is not right    ``delta.target``
===============================  ==============================================================

Rules:

1. A delta that was refused is removed, and the download of the whole file begun. Where that was
   begun, no delta is tried any more: so a power loss in between costs no second try. Of the rest
   that file is the manifest.
2. A delta that does not come at all (``transfer.stalled``) fails the step, as a layer does; at the
   next attempt it is not waited for again.
3. When a step is cancelled or the power goes, all that was fetched or made stays.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from edgectl_agent.core import steps
from edgectl_agent.delta_fetching import Applies, NotUsed, Wish, apply_task, fetch_delta
from edgectl_agent.deltas import DeltaProcess, DeltaTask
from edgectl_agent.downloader import Downloader, Progress
from edgectl_agent.errors import StepFailed
from edgectl_agent.rest_patching import make_rest
from edgectl_agent.store import Store
from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.manifest import Descriptor, Manifest, device_layers, model_layer
from edgectl_protocol.messages import Reason
from edgectl_protocol.names import hex_of
from edgectl_protocol.rests import rest_layers
from edgectl_protocol.transfers import DeltaOffer, RestOffer, TransferReport

__all__ = ["APPLIED", "REST_APPLIED", "Applies", "Patcher"]

APPLIED, REST_APPLIED = "delta.applied", "delta.rest_applied"
"""Count what was made by deltas, beside the codes of what was not."""
_CODES_MAX = 64
_log = logging.getLogger(__name__)


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
        wish = Wish(step, progress, cancelled)
        model = update.wanted.model
        rest, refusal = step.rest, None
        if rest is not None:
            made, refusal = self._tried(REST_APPLIED, functools.partial(self._rest, rest, wish))
            rest = rest if made else None
        self._downloader.fetch_manifest(update.manifest, model=model, cancelled=cancelled)
        manifest = self._store.manifest(update.manifest)
        delta = step.delta
        if delta is not None:
            made, why = self._tried(APPLIED, functools.partial(self._make, delta, manifest, wish))
            delta, refusal = delta if made else None, why or refusal
        self._downloader.fetch(update.manifest, model=model, progress=progress, cancelled=cancelled)
        return self._report(step, manifest, _Used(delta, rest, refusal))

    def _tried(self, counted: str, make: Callable[[], bool]) -> tuple[bool, Reason | None]:
        """Return whether something was made by a delta, or why it is fetched whole."""
        try:
            made = make()
        except NotUsed as why:
            self._counts[why.reason.code] += 1
            _log.warning("what a delta leads to is fetched whole: %s", why)
            return False, why.reason
        self._counts[counted] += made
        return made, None

    def _rest(self, offer: RestOffer, wish: Wish) -> bool:
        return make_rest(
            offer,
            wish,
            downloader=self._downloader,
            store=self._store,
            process=self._process(),
        )

    def _make(self, offer: DeltaOffer, manifest: Manifest, wish: Wish) -> bool:
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
                path = fetch_delta(
                    offer,
                    offer.target,
                    wish,
                    downloader=self._downloader,
                    store=self._store,
                    process=process,
                )
                self._apply(offer, target, path, process, wish.cancelled)
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
            base=(self._store.locate(offer.base),),
            target=self._store.locate_made(target.digest),
            target_sha256=hex_of(target.digest),
            target_bytes=target.size,
        )
        apply_task(process, task, cancelled)
        if not self._store.adopt(target.digest, target.size):
            raise NotUsed("delta.target", "what was made of it is not what was signed")

    def _report(self, step: steps.Download, manifest: Manifest, used: _Used) -> TransferReport:
        """Say what it took; what other bundles on the device have did not need to come."""
        own = step.update.manifest
        sizes = {one.digest: one.size for one in device_layers(manifest)}
        sizes[own] = self._store.size(own)
        whole = sum(sizes.values())
        free = sizes.keys() & self._store.layers_of(one for one in step.keep if one != own)
        fetched = 0
        if used.delta is not None:
            free |= {used.delta.target}
            fetched += used.delta.size
        if used.rest is not None:
            free |= {own, *(one.digest for one in rest_layers(manifest))}
            fetched += used.rest.size
        return TransferReport(
            whole_bytes=whole,
            fetched_bytes=fetched + whole - sum(sizes[one] for one in free),
            delta=None if used.delta is None else used.delta.delta,
            rest=None if used.rest is None else used.rest.delta,
            refusal=used.refusal,
        )


class _Used(NamedTuple):
    """The deltas that something was made by."""

    delta: DeltaOffer | None
    rest: RestOffer | None
    refusal: Reason | None


def _target(offer: DeltaOffer, manifest: Manifest) -> Descriptor:
    """Return the layer that the delta leads to."""
    try:
        layer = model_layer(manifest)
    except MalformedMessage as error:
        raise NotUsed("delta.target", str(error)) from error
    if layer.digest != offer.target:
        raise NotUsed("delta.target", f"it leads to {offer.target}, signed is {layer.digest}")
    return layer
