"""What must hold at the end of a phase: each gate says passed, failed or not enough data.

Not enough data is no pass. A shift of what the model answers fails where it is too large and no
chance; where it is too large and may be chance, that is not enough data too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgectl_server.domain.mixtures import DEVICES_MIN, Shift, compare_bins, compare_classes
from edgectl_server.domain.rollout_facts import GateName, Gates, Samples, Signals, Verdict

__all__ = ["PhaseFacts", "judge"]

CHANCE = 0.001
"""Probability, at each look, of taking for a shift what is none."""
_NO_SIGNALS = Signals()


@dataclass(frozen=True)
class PhaseFacts:
    """The devices of a rollout, counted."""

    total: int
    admitted: int
    in_progress: int
    committed: int
    bad: int
    reachable: int
    """Waiting or overdue, and could be ordered now; or will be, as it is only just gone."""
    targets: tuple[int, ...] = ()
    """Devices that may have had their turn at the end of each phase."""
    waiting: int = 0
    """Pending, and this phase is for them."""
    signals: Signals = _NO_SIGNALS


def judge(gates: Gates, facts: PhaseFacts) -> tuple[Verdict, ...]:
    """Return what each gate says."""
    signals = facts.signals
    found = [_judge_committed(gates, facts)]
    if gates.success_min is not None:
        found.append(_judge_success(gates, gates.success_min, facts))
    if gates.error_rate_max is not None:
        found.append(_judge_errors(gates, gates.error_rate_max, signals))
    if gates.latency_p95_us_max is not None:
        found.append(_judge_latency(gates, gates.latency_p95_us_max, signals))
    if gates.latency_ratio_max is not None:
        found.append(_judge_ratio(gates, gates.latency_ratio_max, signals))
    if gates.class_mix_max is not None:
        limit = gates.class_mix_max
        found.append(_judge_shift("class_mix", gates, limit, signals.classes, compare_classes))
    if gates.confidence_max is not None:
        limit = gates.confidence_max
        found.append(_judge_shift("confidence", gates, limit, signals.confidence, compare_bins))
    if gates.disagreement_max is not None:
        found.append(_judge_disagreement(gates, gates.disagreement_max, signals))
    return tuple(found)


def _judge_committed(gates: Gates, facts: PhaseFacts) -> Verdict:
    wanted = min(gates.committed_min, facts.total)
    return Verdict(
        "committed",
        "passed" if facts.committed >= wanted else "not_enough_data",
        f"{facts.committed} of at least {wanted}",
        value=facts.committed,
        limit=wanted,
        devices=facts.committed,
    )


def _judge_success(gates: Gates, wanted: float, facts: PhaseFacts) -> Verdict:
    ended = facts.committed + facts.bad
    detail = f"{facts.committed} of {ended} ended devices, at least {wanted:g}"
    said = Verdict("success", "not_enough_data", detail, limit=wanted, devices=ended)
    if ended < max(1, min(gates.committed_min, facts.total)):
        return said
    said = replace(said, value=facts.committed / ended)
    return _says(said, passed=facts.committed >= wanted * ended)


def _judge_errors(gates: Gates, limit: float, signals: Signals) -> Verdict:
    said = _few("error_rate", gates, limit, signals.requests)
    if signals.requests < max(1, gates.requests_min):
        return said
    detail = f"{signals.errors} of {signals.requests} requests, at most {limit:g}"
    said = replace(said, detail=detail, value=signals.errors / signals.requests)
    return _says(said, passed=signals.errors <= limit * signals.requests)


def _judge_latency(gates: Gates, limit: float, signals: Signals) -> Verdict:
    p95 = signals.latency_p95_us
    said = _few("latency_p95", gates, limit, signals.requests)
    if p95 is None or signals.requests < max(1, gates.requests_min):
        return said
    said = replace(said, detail=f"{p95:.0f} µs, at most {limit:.0f} µs", value=p95)
    return _says(said, passed=p95 <= limit)


def _judge_ratio(gates: Gates, limit: float, signals: Signals) -> Verdict:
    p95, reference = signals.latency_p95_us, signals.reference_p95_us
    few = min(signals.requests, signals.reference_requests) < max(1, gates.requests_min)
    said = Verdict(
        "latency_ratio",
        "not_enough_data",
        f"{signals.requests} requests, and {signals.reference_requests} of other versions,"
        f" of at least {gates.requests_min}",
        limit=limit,
        requests=signals.requests,
        reference_requests=signals.reference_requests,
    )
    if few or p95 is None or not reference:
        return said
    detail = f"{p95 / reference:.2f} ({p95:.0f} µs against {reference:.0f} µs), at most {limit:g}"
    return _says(
        replace(said, detail=detail, value=p95 / reference), passed=p95 <= limit * reference
    )


_Compare = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], Shift | None]


def _judge_shift(
    gate: GateName, gates: Gates, limit: float, samples: Samples, compare: _Compare
) -> Verdict:
    new, reference = (_heard(one) for one in (samples.new, samples.reference))
    said = Verdict(
        gate,
        "not_enough_data",
        f"{sum(new)} answers of {len(new)} devices, and {sum(reference)} of {len(reference)}"
        f" with other versions, of at least {gates.requests_min} each and {DEVICES_MIN} devices"
        " together",
        limit=limit,
        devices=len(new),
        requests=sum(new),
        reference_devices=len(reference),
        reference_requests=sum(reference),
    )
    if min(sum(new), sum(reference)) < max(1, gates.requests_min):
        return said
    shift = compare(samples.new, samples.reference)
    if shift is None:
        return said
    detail = (
        f"{shift.distance:.3f} away, at most {limit:g} ({sum(new)} answers of {len(new)} devices"
        f" against {sum(reference)} of {len(reference)}; by chance with p = {shift.p_value:.2g})"
    )
    said = replace(said, detail=detail, value=shift.distance)
    if shift.distance <= limit:
        return replace(said, verdict="passed")
    return replace(said, verdict="failed") if shift.p_value < CHANCE else said


def _heard(rows: Sequence[Sequence[int]]) -> list[int]:
    return [total for total in map(sum, rows) if total > 0]


def _judge_disagreement(gates: Gates, limit: float, signals: Signals) -> Verdict:
    differing = signals.copies - signals.agreed
    said = Verdict(
        "disagreement",
        "not_enough_data",
        f"{signals.copies} of at least {gates.requests_min} copied requests",
        limit=limit,
        requests=signals.copies,
    )
    if signals.copies < max(1, gates.requests_min):
        return said
    detail = f"{differing} of {signals.copies} copied requests, at most {limit:g}"
    said = replace(said, detail=detail, value=differing / signals.copies)
    return _says(said, passed=differing <= limit * signals.copies)


def _few(gate: GateName, gates: Gates, limit: float, requests: int) -> Verdict:
    detail = f"{requests} of at least {gates.requests_min} requests"
    return Verdict(gate, "not_enough_data", detail, limit=limit, requests=requests)


def _says(said: Verdict, *, passed: bool) -> Verdict:
    return replace(said, verdict="passed" if passed else "failed")
