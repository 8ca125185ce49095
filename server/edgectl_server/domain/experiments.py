"""An experiment: devices that have the new version against those that do not yet.

Rules:

1. It begins when its phase has settled: from then on nobody changes sides. It is looked at in every
   plan; `domain.sequential` says why that costs nothing.
2. It has passed when the new version is surely not worse by the margin or more, and failed when it
   surely is. Whichever comes first is the end: nothing is asked again.
3. At its limit, of time or of requests, it ends without an answer: not enough data.
4. A device or site speaks when it has answered `REQUESTS_MIN` requests, and there is no answer
   before `UNITS_MIN` of each side speak.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from edgectl_server.domain.rollout_facts import Arm, Experiment, Signals, Verdict
from edgectl_server.domain.sequential import bound_difference

__all__ = ["REQUESTS_MIN", "UNITS_MIN", "judge_experiment"]

REQUESTS_MIN = 20
UNITS_MIN = 5


def judge_experiment(
    experiment: Experiment, signals: Signals, lasted: timedelta, before: Verdict | None
) -> Verdict:
    """Return what an experiment says now.

    Args:
        experiment: as it was asked for.
        signals: both arms, since it began.
        lasted: since when it is going on.
        before: what it has said last; None: nothing yet.
    """
    if before is not None and before.final:
        return before
    challenger, champion = _speaking(signals.challenger), _speaking(signals.champion)
    verdict = _compare(experiment, challenger, champion)
    asked = (verdict.requests or 0) + (verdict.reference_requests or 0)
    used_up = experiment.requests_max is not None and asked >= experiment.requests_max
    late = lasted >= timedelta(seconds=experiment.limit_s)
    if verdict.verdict == "not_enough_data" and (used_up or late):
        limit = f"{asked} requests" if used_up else f"{experiment.limit_s:g} s"
        return replace(verdict, final=True, detail=f"no answer after {limit}: {verdict.detail}")
    return replace(verdict, final=verdict.verdict != "not_enough_data")


def _compare(experiment: Experiment, challenger: Arm, champion: Arm) -> Verdict:
    figures = Verdict(
        "experiment",
        "not_enough_data",
        f"{len(challenger.units)} {experiment.unit}s against {len(champion.units)},"
        f" of at least {UNITS_MIN} each with {REQUESTS_MIN} requests",
        limit=experiment.margin,
        devices=len(challenger.units),
        requests=sum(total for _, total in challenger.units),
        reference_devices=len(champion.units),
        reference_requests=sum(total for _, total in champion.units),
    )
    if min(len(challenger.units), len(champion.units)) < UNITS_MIN:
        return figures
    bounds = bound_difference(
        _columns(challenger), _columns(champion), margin=experiment.margin, alpha=experiment.alpha
    )
    difference, low, high = (float(one) for one in (bounds.difference, bounds.low, bounds.high))
    said = replace(
        figures,
        value=difference,
        low=low,
        high=high,
        detail=f"{experiment.rate} {difference:+.4f}, surely between {low:+.4f} and {high:+.4f}"
        f" ({figures.devices} {experiment.unit}s and {figures.requests} requests against"
        f" {figures.reference_devices} and {figures.reference_requests}),"
        f" at most {experiment.margin:+g}",
    )
    if high < experiment.margin:
        return replace(said, verdict="passed")
    return replace(said, verdict="failed") if low > experiment.margin else said


def _speaking(arm: Arm) -> Arm:
    return Arm(tuple(one for one in arm.units if one[1] >= REQUESTS_MIN))


def _columns(arm: Arm) -> tuple[list[int], list[int]]:
    return [wrong for wrong, _ in arm.units], [total for _, total in arm.units]
