"""Brings a delta onto the device while the process that applies it starts; shared by what is made.

The delta comes as every blob does: chunk by chunk, from whatever source has it, and what has come
survives a power loss. It stays beside the blob that it leads to, and is named by it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from edgectl_agent.core import steps
from edgectl_agent.deltas import DeltaTask
from edgectl_agent.downloader import Downloader, Progress
from edgectl_agent.errors import StepCancelled, StepFailed, StepRejected, make_reason
from edgectl_agent.store import Store
from edgectl_protocol.chunks import INDEX_ANNOTATION
from edgectl_protocol.manifest import Descriptor
from edgectl_protocol.messages import Reason
from edgectl_protocol.transfers import DeltaBlob

__all__ = ["EARLY_BYTES", "Applies", "NotUsed", "Wish", "apply_task", "fetch_delta"]

EARLY_BYTES = 512 * 1024
"""The process starts when no more than this is to come: 0.4 s of a link of 10 Mbit/s."""


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
    """What a delta leads to is to be fetched whole."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.reason = make_reason(code, detail)


class Wish(NamedTuple):
    """What is asked for, and by whom it is watched."""

    step: steps.Download
    progress: Callable[[Progress], None]
    cancelled: Callable[[], bool]


def fetch_delta(
    offer: DeltaBlob,
    beside: str,
    wish: Wish,
    *,
    downloader: Downloader,
    store: Store,
    process: Applies,
) -> str:
    """Bring a delta and return where it is; the process is on its way by then.

    Args:
        offer: which.
        beside: digest of the blob that it leads to.
        wish: the step that it is for.
        downloader: of all blobs.
        store: where it is kept.
        process: is started while the end is coming.

    Raises:
        NotUsed: it does not come as it should.
        StepFailed: ``transfer.stalled`` at the first attempt.
        StepCancelled, OSError: as of `Downloader.fetch`.
    """

    def came(count: int) -> None:
        if offer.size - count <= EARLY_BYTES:
            process.start()
        wish.progress(Progress(bytes_done=count, bytes_total=offer.size))

    came(0)
    partial = store.delta(beside, offer.delta, offer.size)
    annotations = {} if offer.chunk_index is None else {INDEX_ANNOTATION: offer.chunk_index}
    described = Descriptor(
        media_type="", digest=offer.delta, size=offer.size, annotations=annotations
    )
    update = wish.step.update
    try:
        downloader.fetch_blob(described, update.wanted.model, came, wish.cancelled, partial)
    except StepRejected as error:  # the index is not one of so many chunks
        raise NotUsed("delta.malformed", error.detail) from error
    except StepFailed as error:
        if error.code == "transfer.stalled" and update.attempt == 1:
            raise
        raise NotUsed(error.code, error.detail) from error
    return partial.path


def apply_task(process: Applies, task: DeltaTask, cancelled: Callable[[], bool]) -> None:
    """Have a delta applied.

    Raises:
        NotUsed: it cannot be.
        StepCancelled: `cancelled` has said so.
    """
    reason = process.apply(task, cancelled=cancelled)
    if cancelled():
        raise StepCancelled
    if reason is not None:
        raise NotUsed(reason.code, reason.detail)
