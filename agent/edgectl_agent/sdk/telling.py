"""What one model in an application's process has to tell the agent: counts, and samples if wanted.

Rules:

1. The hub's `Look` says what is looked at: without one, nothing but requests is counted. A
   prediction pays for copies of rows; they are described in the background.
2. Everything is taken out to be told, and put back when it could not be: counts are told once.
   What was described longer ago than a window lasts, because the agent was away, is told as
   skipped.
3. A sample goes in parts, few a second, so that a picture does not hold up counts; one that could
   not be told to its end is forgotten.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from msgspec import Struct

from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.describing import Describing
from edgectl_agent.inference.hub_messages import PART_BYTES_MAX, Described, Look, SamplePart
from edgectl_agent.inference.sampling import Sampler
from edgectl_agent.sdk.counting import Counting
from edgectl_agent.session import Tensor
from edgectl_protocol.samples import SamplePolicy
from edgectl_protocol.watching import FeatureCounts, Watched

__all__ = ["Telling"]

DESCRIBED_S = 10.0
"""Counts of features are told so often, or four times in a window that is shorter."""
_PARTS_S = 1.0
_PARTS_AT_ONCE = 2


class Telling:
    """What is told of one loaded model; safe to use from several threads.

    Attributes:
        counting: requests.
        looking: whether answers are to be given to `look`.
    """

    def __init__(
        self,
        bundle: Bundle,
        reference: Watched | None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to count requests.

        Args:
            bundle: of the model.
            reference: of that bundle; None where it has none, and nothing is described.
            monotonic: seconds of a clock that nobody sets.
        """
        self.manifest = bundle.manifest
        self.counting = Counting(bundle.manifest, bundle.config)
        self.looking = False
        self._monotonic = monotonic
        self._describing = None if reference is None else Describing(bundle.config, reference)
        self._sampler = Sampler(bundle, reference, monotonic=monotonic)
        self._policy = Look()
        self._lock = threading.Lock()
        """Of what is described; predictions do not take it."""
        self._since_s = monotonic()
        """What is described was described since then."""
        self._parts: list[SamplePart] = []
        self._parts_s = float("-inf")

    def heed(self, policy: Look) -> None:
        """Look at rows as the hub says."""
        self._policy = policy
        if self._describing is not None:
            self._describing.rows_per_s = policy.watch.rows_per_s
        taken = self._sampler.take(policy.samples)
        if not policy.samples.on:
            self._parts = []
        elif taken and not self._parts:
            self._parts = _parts_of(self.manifest, taken[0].content)
        describes = self._describing is not None and policy.watch.rows_per_s > 0
        self.looking = describes or self._sampler.on

    def look(
        self,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        request: str = "",
        *,
        wanted: bool,
    ) -> bool:
        """Look at what was asked and answered, where it is due.

        Args:
            inputs: by name.
            outputs: by name.
            request: as the application has named it; empty: it has not.
            wanted: whether the application asks for a sample of it.

        Returns:
            Whether there is something to `settle` soon.
        """
        describing = self._describing
        full = False
        if describing is not None:
            full = describing.offer(self._monotonic(), inputs, outputs) and describing.full()
        if self._sampler.on:
            self._sampler.offer(inputs, outputs, request, wanted=wanted)
        return full

    def settle(self) -> None:
        """Describe the rows that wait."""
        if self._describing is not None:
            with self._lock:
                self._describing.settle()

    def tell(self, send: Callable[[Struct], None], *, last: bool) -> None:
        """Tell what is due; raise what `send` raises after that was put back.

        Args:
            send: sends one line.
            last: everything is due: nothing may come any more.
        """
        counted = self.counting.take()
        if counted is not None:
            try:
                send(counted)
            except OSError:
                self.counting.put_back(counted)
                raise
        self._tell_described(send, last=last)
        self._tell_samples(send)

    def _tell_described(self, send: Callable[[Struct], None], *, last: bool) -> None:
        window_s, now_s = self._policy.watch.window_s, self._monotonic()
        due_s = self._since_s + min(DESCRIBED_S, window_s / 4)
        if self._describing is None or not (last or now_s >= due_s):
            return
        counts = self._taken(late=now_s - self._since_s > max(window_s, 2 * DESCRIBED_S))
        if counts is None:
            self._since_s = now_s
            return
        try:
            send(Described(manifest=self.manifest, counts=counts))
        except OSError:
            with self._lock:
                self._describing.add(counts)
            raise
        self._since_s = now_s

    def _taken(self, *, late: bool) -> FeatureCounts | None:
        """Return what is described and begin anew; None where there is nothing."""
        describing = self._describing
        assert describing is not None, "else nothing is told"
        with self._lock:
            describing.settle()
            if late:
                skipped = describing.skipped + describing.described
                describing.clear()
                describing.skipped = skipped
            counts = describing.counts()
            describing.clear()
        return counts if counts.rows or counts.skipped else None

    def _tell_samples(self, send: Callable[[Struct], None]) -> None:
        now_s = self._monotonic()
        if not self._parts and self._policy.samples.on:
            for taken in self._sampler.take(self._policy.samples)[:1]:
                self._parts = _parts_of(self.manifest, taken.content)
        if not self._parts or now_s - self._parts_s < _PARTS_S:
            return
        self._parts_s = now_s
        parts, self._parts = self._parts, []  # forgotten, unless all could be sent
        for part in parts[:_PARTS_AT_ONCE]:
            send(part)
        self._parts = parts[_PARTS_AT_ONCE:]

    def stop(self) -> None:
        """Look at nothing more: what is still to tell are counts."""
        self.looking = False
        self._sampler.take(SamplePolicy())


def _parts_of(manifest: str, content: bytes) -> list[SamplePart]:
    return [
        SamplePart(
            manifest=manifest,
            at=at,
            content=content[at : at + PART_BYTES_MAX],
            last=at + PART_BYTES_MAX >= len(content),
        )
        for at in range(0, len(content), PART_BYTES_MAX)
    ]
