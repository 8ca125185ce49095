"""Which row of an interval is its sample, and why.

Rules:

1. Whether an interval's sample is random control is drawn as it begins, by `random_share`. If so,
   it is the first request after a moment that is drawn too, whatever was answered; the interval
   lasts until that has come.
2. If not, the policy's other reasons take turns in being the first of an interval. Its sample is
   the best row of the first reason, in the order of that turn, that has found any:

   * ``out-of-reference``: the row furthest outside (`edgectl_statistics.places`);
   * ``disagreeing``: the row in which a shadow candidate differs most (`differences`);
   * ``uncertain``: the row with the least confidence, below `UNCERTAIN_BELOW`;
   * ``diverse``: the row furthest from those taken lately, from `DIVERSE_FROM` on.

   One row is held, and only a better one is copied. Where no reason finds any, nothing is taken.
3. What an application asks for goes before all that: the first such row of an interval, but of no
   two in a row where there are other reasons, so that asking for everything leaves them their turn.
4. What is asked for, and what a candidate has answered otherwise, cannot be looked for. Where the
   interval is random control they wait for the next one, which is not random control then.

No clock, no lock: whoever calls has both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

from edgectl_agent.inference.differences import Difference
from edgectl_agent.inference.measures import Measured, Measures, confidence_of
from edgectl_agent.runtime import Tensor
from edgectl_protocol.manifest import BundleConfig
from edgectl_protocol.samples import SamplePolicy, SampleReason
from edgectl_protocol.watching import Watched

__all__ = ["DIVERSE_FROM", "UNCERTAIN_BELOW", "Asked", "Chooser", "Chosen", "Row"]

UNCERTAIN_BELOW = 0.8
"""Confidence of an answer that is worth a look."""
DIVERSE_FROM = 0.05
"""Distance to what was taken lately, 0 to 1, from which on a row is another one."""
_TURNS: tuple[SampleReason, ...] = ("out-of-reference", "disagreeing", "uncertain", "diverse")
_MEASURED: frozenset[SampleReason] = frozenset({"out-of-reference", "diverse"})
"""Reasons that need the bundle's reference."""
_ASKED_RANK = -1
_log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """A request that was answered."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    name: str = ""
    """As the application has named it; empty: it has not."""


class Row(NamedTuple):
    """One row of a request, copied."""

    taken_at: datetime
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    request: str


class Chosen(NamedTuple):
    """A row that is a sample."""

    reason: SampleReason
    row: Row


class _Candidate(NamedTuple):
    rank: int
    """Of its reason in this interval's order; less goes before."""
    score: float
    """More is better, of the same reason."""
    chosen: Chosen


class Chooser:
    """Chooses rows of one model."""

    def __init__(
        self,
        config: BundleConfig,
        reference: Watched | None,
        *,
        copy: Callable[[Asked, int], Row],
        draw: Callable[[], float],
    ) -> None:
        """Begin without a policy: nothing is chosen.

        Args:
            config: of the model.
            reference: of its bundle; None where it has none, and nothing can be outside of it.
            copy: returns one row of a request, by its number.
            draw: a number from 0 to below 1.
        """
        self._scores = config.scores
        first = config.inputs[0]
        self._rows_of = first.name if first.shape[:1] == (-1,) else None
        self._measures = None if reference is None else Measures(config, reference)
        self._copy, self._draw = copy, draw
        self._policy = SamplePolicy()
        self._order: tuple[SampleReason, ...] = ()
        """Reasons other than control that may find something, the first of this interval first."""
        self._best: _Candidate | None = None
        self._asked_last = False
        """Whether the interval before this one has given what was asked for."""
        self._turn = 0
        self._end_s = 0.0
        """Of the interval."""
        self._control = False
        """Whether its sample is random control, which may have been taken."""
        self._random_s: float | None = None
        """From then on the next request is taken, also where none comes within the interval."""

    def change(self, policy: SamplePolicy, now_s: float, interval_s: float) -> bool:
        """Go by another policy, with nothing held; say whether anything can be chosen."""
        self._policy = policy
        impossible = set[SampleReason]()
        if self._scores is None:
            impossible.add("uncertain")
        if self._measures is None:
            impossible |= _MEASURED
        else:
            self._measures.forget()
        self._order = tuple(one for one in _TURNS if one in {*policy.reasons} - impossible)
        self._best = None
        self._begin(now_s, interval_s)
        return bool(self._order) or bool({"random", "asked"} & {*policy.reasons})

    def heeds_asking(self) -> bool:
        """Say whether a row that an application asks for would be held now."""
        best = self._best
        rests = self._asked_last and bool(self._order)
        held = best is not None and best.rank == _ASKED_RANK
        return "asked" in self._policy.reasons and not rests and not held

    def look(self, asked: Asked, now_s: float, interval_s: float, *, wanted: bool) -> list[Chosen]:
        """Look at one row of a request; return what is a sample now.

        Args:
            asked: the request.
            now_s: seconds of a clock that nobody sets.
            interval_s: length of an interval that begins now.
            wanted: whether the application asks for it to be kept.
        """
        if self._random_s is not None and now_s >= self._random_s:
            self._random_s = None
            control = Chosen("random", self._copy(asked, self._choose(asked)))
            self._remember(control.row)
            return [control, *self.go_on(now_s, interval_s)]
        chosen = self.go_on(now_s, interval_s)
        if wanted and self.heeds_asking():
            self._put(_ASKED_RANK, 0.0, asked, self._choose(asked))
        elif not self._control:
            self._seek(asked)
        return chosen

    def disagreed(
        self, difference: Difference, asked: Asked, now_s: float, interval_s: float
    ) -> list[Chosen]:
        """Be told that a candidate answers a request otherwise; return what is a sample now."""
        chosen = self.go_on(now_s, interval_s)
        if "disagreeing" in self._order:
            self._put(self._order.index("disagreeing"), difference.far, asked, difference.row)
        return chosen

    def go_on(self, now_s: float, interval_s: float) -> list[Chosen]:
        """End the interval, if its time has come and its control was taken; return its sample."""
        if now_s < self._end_s or self._random_s is not None:
            return []
        found: list[Chosen] = []
        best = self._best
        if best is not None and not self._control:
            self._best = None
            self._remember(best.chosen.row)
            found.append(best.chosen)
        self._asked_last = bool(found) and found[0].reason == "asked"
        self._begin(now_s, interval_s)
        return found

    def _begin(self, now_s: float, interval_s: float) -> None:
        """Begin an interval; what is still held waits for its end."""
        policy = self._policy
        self._order = (*self._order[1:], *self._order[:1])
        self._end_s = now_s + interval_s
        looked_for = set(self._order) - {"disagreeing"}
        self._control = (
            self._best is None
            and "random" in policy.reasons
            and (not looked_for or self._draw() < policy.random_share)
        )
        self._random_s = now_s + self._draw() * interval_s if self._control else None
        best = self._best
        if best is not None and best.rank != _ASKED_RANK:
            self._best = best._replace(rank=self._order.index(best.chosen.reason))

    def _choose(self, asked: Asked) -> int:
        """Return the number of the row to look at: in turn another one."""
        count = 1 if self._rows_of is None else len(asked.inputs[self._rows_of])
        self._turn += 1
        return self._turn % count if count > 1 else 0

    def _seek(self, asked: Asked) -> None:
        """Hold a row if it is better than what is held, for the first reason that finds it good."""
        number = self._choose(asked)
        measured: Measured | None = None
        for rank, reason in enumerate(self._order):
            if self._best is not None and self._best.rank < rank:
                return
            if reason in _MEASURED and measured is None:
                measured = self._measure(_row(asked.inputs, number), _row(asked.outputs, number))
            score = self._score(reason, asked, number, measured)
            if score > 0:
                self._put(rank, score, asked, number)
                return

    def _put(self, rank: int, score: float, asked: Asked, number: int) -> None:
        best = self._best
        if best is not None and (best.rank, -best.score) <= (rank, -score):
            return
        reason = "asked" if rank == _ASKED_RANK else self._order[rank]
        self._best = _Candidate(rank, score, Chosen(reason, self._copy(asked, number)))

    def _score(
        self, reason: SampleReason, asked: Asked, number: int, measured: Measured | None
    ) -> float:
        """Return how good a row is for a reason; 0: it is not."""
        if reason == "uncertain":
            outputs = asked.outputs if self._rows_of is None else _row(asked.outputs, number)
            confidence = confidence_of(outputs, self._scores)
            return 1.0 - confidence if confidence < UNCERTAIN_BELOW else 0.0
        if measured is None or self._measures is None or reason not in _MEASURED:
            return 0.0
        if reason == "out-of-reference":
            return measured.beyond
        distance = self._measures.distance(measured)
        return distance if distance >= DIVERSE_FROM else 0.0

    def _measure(
        self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> Measured | None:
        """Measure one row; None, now and from now on, where the reference is of other rows."""
        if self._measures is None:
            return None
        try:
            return self._measures.measure(inputs, outputs)
        except (KeyError, ValueError, IndexError):
            _log.exception("rows cannot be compared with the reference: they are not chosen by it")
            self._measures = None
            return None

    def _remember(self, row: Row) -> None:
        """Note what was taken, where that counts for what is taken next."""
        if "diverse" not in self._order:
            return
        measured = self._measure(row.inputs, row.outputs)
        if measured is not None and self._measures is not None:
            self._measures.taken(measured)


def _row(arrays: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """Return one row of each, [1, ...]."""
    return {name: array[number : number + 1] for name, array in arrays.items()}
