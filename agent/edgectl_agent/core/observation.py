"""Judgements about a model from counts: while it is observed, and while it is a shadow. Pure.

Each question is a small function of its own. It answers with a reason to refuse the model, or None:
that is either a good answer or *not enough data*, which is neither good nor bad, and which time
decides. `observe.*` is about a model that serves, compared with the one before it; `shadow.*` about
a candidate that answers copies, compared with the one that serves.

What is compared, and how sure one must be:

* Latency by the 95th percentile. Counts know only the bin of a percentile, so that the lower edge
  of one model is compared with the upper edge of the other: nobody is refused for coarse bins.
* Classes by the total variation distance of their shares, half the sum of |p - q|. Two samples of
  the same mixture differ too. Their distance is expected to be at most half the sum of
  sqrt(p (1 - p) / n) over the classes of both samples (Jensen's inequality on each share's
  standard deviation), and exceeds what is expected by sqrt(ln(1 / a) (1/n + 1/m) / 2) with a
  probability of at most a (McDiarmid, "On the method of bounded differences", 1989: one request
  more or less of a class changes the distance by at most 1/n or 1/m). Only what is beyond both
  counts.
* Agreement of copies, which both models answer, needs no such correction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest

from edgectl_agent.core.steps import HealthSeen
from edgectl_protocol.histograms import LATENCY_EDGES_US, quantile
from edgectl_protocol.messages import ObservationReport, Reason, UpdatePolicy

__all__ = ["judge", "judge_shadow", "report", "report_shadow"]

FALSE_ALARM = 1e-4
"""Probability with which classes of one and the same mixture may look shifted, at each look."""
_PERCENTILE = 0.95


def judge(health: HealthSeen, policy: UpdatePolicy) -> Reason | None:
    """Say why the model that is observed in a slot must go, or None."""
    own, before = health, health.before
    if own.non_finite > 0:
        return Reason(
            code="observe.non_finite",
            detail=f"{own.non_finite} of {own.requests} requests gave NaN or infinity",
        )
    reason = _error_rate("observe.error_rate", own.errors, own.requests, policy)
    if reason is None and before is not None:
        reason = _latency("observe.latency", own.latency, before.latency, policy)
    if reason is None and before is not None and health.comparable:
        reason = _class_shift(own.classes, before.classes, policy)
    return reason or _disagreement("observe.disagreement", health, policy)


def judge_shadow(health: HealthSeen, policy: UpdatePolicy) -> Reason | None:
    """Say why the candidate that answers copies in a slot must not serve, or None."""
    copies = health.copies
    if copies is None:
        return None
    if copies.hung:
        return Reason(
            code="shadow.hung",
            detail=f"it hung on a copied request and could not be stopped, after {copies.runs}",
        )
    if copies.non_finite > 0:
        return Reason(
            code="shadow.non_finite",
            detail=f"{copies.non_finite} of {copies.runs} copied requests gave NaN or infinity "
            f"where the model that serves gave none",
        )
    return (
        _error_rate("shadow.error_rate", copies.errors, copies.runs, policy)
        or _latency("shadow.latency", copies.latency, health.latency, policy)
        or _disagreement("shadow.disagreement", health, policy)
    )


def report(health: HealthSeen, policy: UpdatePolicy) -> ObservationReport:
    """Return what has been seen of a model that is observed."""
    before, copies = health.before, health.copies
    old = () if before is None or not health.comparable else before.classes
    enough = _enough(policy)
    return ObservationReport(
        requests=health.requests,
        errors=health.errors,
        non_finite=health.non_finite,
        latency_p95_us=_p95_us(health.latency, enough),
        reference_p95_us=None if before is None else _p95_us(before.latency, enough),
        class_shift=_distance(health.classes, old, enough),
        mirrored=0 if copies is None else copies.runs - copies.errors,
        agreed=0 if copies is None else copies.agreed,
        skipped=0 if copies is None else copies.skipped,
    )


def report_shadow(health: HealthSeen, policy: UpdatePolicy) -> ObservationReport:
    """Return what has been seen of a candidate that answers copies."""
    copies = health.copies
    if copies is None:
        return ObservationReport()
    live = health.classes if health.comparable else ()
    enough = _enough(policy)
    return ObservationReport(
        errors=copies.errors,
        non_finite=copies.non_finite,
        latency_p95_us=_p95_us(copies.latency, enough),
        reference_p95_us=_p95_us(health.latency, enough),
        class_shift=_distance(copies.classes, live, enough),
        mirrored=copies.runs - copies.errors,
        agreed=copies.agreed,
        skipped=copies.skipped,
    )


# ---------------------------------------------------------------- questions


def _error_rate(code: str, errors: int, requests: int, policy: UpdatePolicy) -> Reason | None:
    if requests < _enough(policy) or errors / requests <= policy.error_rate_max:
        return None
    return Reason(
        code=code,
        detail=f"{errors} of {requests} requests failed, at most {policy.error_rate_max:.1%} may",
    )


def _latency(
    code: str, own: Sequence[int], other: Sequence[int], policy: UpdatePolicy
) -> Reason | None:
    ratio, enough = policy.latency_ratio_max, _enough(policy)
    if ratio is None or sum(own) < enough or sum(other) < enough:
        return None
    own_us, other_us = _lower_edge_us(own), quantile(LATENCY_EDGES_US, other, _PERCENTILE)
    if other_us is None or own_us <= ratio * other_us:
        return None
    return Reason(
        code=code,
        detail=f"95 % of {sum(own)} runs take up to {own_us:.6g} µs or more, those of the model "
        f"beside it ({sum(other)} runs) at most {other_us:.6g} µs; "
        f"at most {ratio:g} times that is allowed",
    )


def _class_shift(own: Sequence[int], other: Sequence[int], policy: UpdatePolicy) -> Reason | None:
    limit, enough = policy.class_shift_max, _enough(policy)
    distance = _distance(own, other, enough)
    if limit is None or distance is None:
        return None
    by_chance = _by_chance(own) + _by_chance(other) + _deviation(sum(own), sum(other))
    if distance - by_chance <= limit:
        return None
    return Reason(
        code="observe.class_shift",
        detail=f"the classes of {sum(own)} predictions are {distance:.3f} away from those of the "
        f"model before ({sum(other)} predictions), of which {by_chance:.3f} may be chance; "
        f"at most {limit:g} is allowed",
    )


def _disagreement(code: str, health: HealthSeen, policy: UpdatePolicy) -> Reason | None:
    copies, limit = health.copies, policy.disagreement_max
    if copies is None or limit is None or not health.comparable:
        return None
    mirrored = copies.runs - copies.errors
    differing = mirrored - copies.agreed
    if mirrored < _enough(policy) or differing / mirrored <= limit:
        return None
    return Reason(
        code=code,
        detail=f"both models answered {mirrored} copied requests, {differing} of them differently; "
        f"at most {limit:.1%} may",
    )


# ---------------------------------------------------------------- arithmetic


def _enough(policy: UpdatePolicy) -> int:
    return max(1, policy.requests_min)


def _p95_us(counts: Sequence[int], enough: int) -> float | None:
    return quantile(LATENCY_EDGES_US, counts, _PERCENTILE) if sum(counts) >= enough else None


def _lower_edge_us(counts: Sequence[int]) -> float:
    """Return the lower edge of the bin in which the percentile falls."""
    seen, wanted = 0, _PERCENTILE * sum(counts)
    for number, count in enumerate(counts):
        seen += count
        if seen >= wanted:
            return LATENCY_EDGES_US[number - 1] if number else 0.0
    return 0.0


def _distance(own: Sequence[int], other: Sequence[int], enough: int) -> float | None:
    """Return the total variation distance of two mixtures of classes; None without enough data."""
    mine, theirs = sum(own), sum(other)
    if mine < enough or theirs < enough:
        return None
    pairs = zip_longest(own, other, fillvalue=0)
    return sum(abs(left / mine - right / theirs) for left, right in pairs) / 2


def _by_chance(counts: Sequence[int]) -> float:
    """Return how far a sample is expected to be from its mixture, at most."""
    total = sum(counts)
    shares = (count / total for count in counts)
    return sum(math.sqrt(share * (1 - share) / total) for share in shares) / 2


def _deviation(own: int, other: int) -> float:
    """Return how far beyond what is expected two samples are with probability `FALSE_ALARM`."""
    return math.sqrt(math.log(1 / FALSE_ALARM) * (1 / own + 1 / other) / 2)
