"""Judgements about models from counts: cases as data, then properties."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl_agent.core.evidence import Copies, Evidence
from edgectl_agent.core.observation import judge, judge_shadow, report, report_shadow
from edgectl_agent.core.steps import HealthSeen
from edgectl_protocol.histograms import LATENCY_EDGES_US, bin_of
from edgectl_protocol.messages import UpdatePolicy

POLICY = UpdatePolicy(requests_min=20)
BINS = len(LATENCY_EDGES_US) + 1


def runs(*given: tuple[float, int]) -> tuple[int, ...]:
    """Return a histogram of (microseconds, count) pairs."""
    counts = [0] * BINS
    for latency_us, count in given:
        counts[bin_of(LATENCY_EDGES_US, latency_us)] += count
    return tuple(counts)


def seen(
    requests: int = 100,
    errors: int = 0,
    non_finite: int = 0,
    before: dict[str, Any] | None = None,
    copies: dict[str, Any] | None = None,
    **more: Any,
) -> HealthSeen:
    return HealthSeen(
        slot="activity",
        manifest="new",
        requests=requests,
        errors=errors,
        non_finite=non_finite,
        before=None if before is None else Evidence(manifest="old", **before),
        copies=None if copies is None else Copies(**copies),
        **{"comparable": True, **more},
    )


FAST, SLOW = runs((100, 100)), runs((1000, 100))
CASES = {
    # name: (what is seen, code of the reason, what its detail must say)
    "healthy": (seen(), None, ()),
    "nothing yet": (seen(0), None, ()),
    "one NaN is enough": (seen(1, non_finite=1), "observe.non_finite", ("1 of 1",)),
    "too few to judge errors": (seen(19, errors=19), None, ()),
    "too many errors": (seen(20, errors=2), "observe.error_rate", ("2 of 20", "5.0%")),
    "as many errors as may be": (seen(20, errors=1), None, ()),
    "slower": (seen(latency=SLOW, before={"latency": FAST}), "observe.latency", ("5 times",)),
    "slower, none before": (seen(latency=SLOW), None, ()),
    "slower, few before": (seen(latency=SLOW, before={"latency": runs((100, 19))}), None, ()),
    "slower, few now": (seen(latency=runs((9e6, 19)), before={"latency": FAST}), None, ()),
    "faster": (seen(latency=FAST, before={"latency": SLOW}), None, ()),
    "slow at times": (
        seen(latency=runs((100, 960), (1e6, 40)), before={"latency": FAST}), None, ()
    ),
    "slow often": (
        seen(latency=runs((100, 940), (1e6, 60)), before={"latency": FAST}),
        "observe.latency",
        ("1000 runs", "100 runs"),
    ),
    "one class alone": (
        seen(classes=(1000,), before={"classes": (100, 300, 600)}),
        "observe.class_shift",
        ("0.900", "1000 predictions", "0.5"),
    ),
    "one class alone, other labels": (
        seen(classes=(1000,), before={"classes": (100, 300, 600)}, comparable=False), None, ()
    ),
    "one class alone, few": (seen(classes=(25,), before={"classes": (1, 8, 16)}), None, ()),
    "another mixture, within": (
        seen(classes=(400, 300, 300), before={"classes": (100, 300, 600)}), None, ()
    ),
    "disagrees": (
        seen(copies={"runs": 30, "agreed": 10, "errors": 5}),
        "observe.disagreement",
        ("25 copied", "15 of them", "50.0%"),
    ),
    "disagrees, few": (seen(copies={"runs": 24, "agreed": 0, "errors": 5}), None, ()),
    "disagrees, other labels": (seen(copies={"runs": 30}, comparable=False), None, ()),
    "the one before fails on copies": (seen(copies={"runs": 30, "errors": 30}), None, ()),
    "the one before hangs on a copy": (seen(copies={"runs": 1, "hung": True}), None, ()),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_observed(name: str) -> None:
    health, code, said = CASES[name]
    reason = judge(health, POLICY)
    assert (reason.code if reason else None) == code
    for words in said:
        assert reason is not None
        assert words in reason.detail


SHADOWS = {
    "nothing mirrored": (seen(), None),
    "healthy": (seen(latency=FAST, copies={"runs": 40, "agreed": 40, "latency": FAST}), None),
    "few copies": (seen(copies={"runs": 19, "errors": 19}), None),
    "NaN": (seen(copies={"runs": 1, "non_finite": 1}), "shadow.non_finite"),
    "hung": (seen(copies={"runs": 3, "errors": 1, "hung": True}), "shadow.hung"),
    "fails": (seen(copies={"runs": 20, "errors": 2, "agreed": 18}), "shadow.error_rate"),
    "slow": (
        seen(latency=FAST, copies={"runs": 100, "agreed": 100, "latency": SLOW}), "shadow.latency"
    ),
    "disagrees": (seen(copies={"runs": 40, "agreed": 19}), "shadow.disagreement"),
    "disagrees, other labels": (seen(copies={"runs": 40}, comparable=False), None),
    "the one that serves is bad": (seen(errors=100, non_finite=9, copies={"runs": 0}), None),
}  # fmt: skip


@pytest.mark.parametrize("name", SHADOWS)
def test_shadow(name: str) -> None:
    health, code = SHADOWS[name]
    reason = judge_shadow(health, POLICY)
    assert (reason.code if reason else None) == code


def test_limits_may_be_off() -> None:
    policy = UpdatePolicy(latency_ratio_max=None, class_shift_max=None, disagreement_max=None)
    health = seen(
        latency=SLOW,
        classes=(1000,),
        before={"latency": FAST, "classes": (0, 1000)},
        copies={"runs": 100, "latency": SLOW},
    )
    assert judge(health, policy) is None
    assert judge_shadow(health, policy) is None


def test_requests_min_of_zero_divides_by_nothing() -> None:
    policy = UpdatePolicy(requests_min=0)
    empty = seen(0, before={}, copies={})
    assert judge(empty, policy) is None
    assert judge_shadow(empty, policy) is None
    assert report(empty, policy).class_shift is None
    assert report_shadow(empty, policy).latency_p95_us is None


def test_reports_say_what_was_seen() -> None:
    health = seen(
        latency=SLOW,
        classes=(50, 50),
        before={"latency": FAST, "classes": (100,)},
        copies={"runs": 30, "errors": 2, "agreed": 20, "skipped": 7, "latency": FAST},
    )
    told = report(health, POLICY)
    assert (told.requests, told.errors, told.mirrored) == (100, 0, 28)
    assert (told.agreed, told.skipped, told.class_shift) == (20, 7, 0.5)
    assert told.latency_p95_us == pytest.approx(1000, rel=0.42)
    assert told.reference_p95_us == pytest.approx(100, rel=0.42)
    shadow = report_shadow(health, POLICY)
    assert (shadow.requests, shadow.errors, shadow.mirrored) == (0, 2, 28)
    assert shadow.latency_p95_us == pytest.approx(100, rel=0.42)
    assert shadow.reference_p95_us == pytest.approx(1000, rel=0.42)
    unlike = seen(classes=(50, 50), before={"classes": (100,)}, comparable=False)
    assert report(unlike, POLICY).class_shift is None


# ---------------------------------------------------------------- properties

latencies = st.lists(st.floats(1, 1e8), min_size=1, max_size=300)


@given(own=latencies, other=latencies)
def test_nobody_is_refused_for_coarse_bins(own: list[float], other: list[float]) -> None:
    """Who is refused for latency is slower than allowed by the exact percentiles too."""

    def p95(values: list[float]) -> float:
        ordered = sorted(values)
        return ordered[max(0, -(-len(ordered) * 95 // 100) - 1)]

    health = seen(
        latency=runs(*((value, 1) for value in own)),
        before={"latency": runs(*((value, 1) for value in other))},
    )
    if judge(health, POLICY) is not None:
        assert p95(own) > 5 * min(p95(other), LATENCY_EDGES_US[-1])


def drawn(chooser: random.Random, shares: Sequence[float], count: int) -> tuple[int, ...]:
    counts = [0] * len(shares)
    for index in chooser.choices(range(len(shares)), shares, k=count):
        counts[index] += 1
    return tuple(counts)


@given(
    seed=st.integers(0, 2**32),
    shares=st.lists(st.floats(0.01, 1), min_size=2, max_size=40),
    own=st.integers(20, 300),
    other=st.integers(20, 2000),
)
def test_samples_of_one_mixture_are_no_shift(
    seed: int, shares: list[float], own: int, other: int
) -> None:
    """Even where no shift at all is allowed: 100 examples, each wrong once in 10,000."""
    chooser = random.Random(seed)
    policy = UpdatePolicy(requests_min=20, class_shift_max=0.0)
    health = seen(
        classes=drawn(chooser, shares, own), before={"classes": drawn(chooser, shares, other)}
    )
    assert judge(health, policy) is None


@given(classes=st.integers(2, 20), own=st.integers(400, 2000), other=st.integers(400, 2000))
def test_a_model_that_always_says_the_same_is_found(classes: int, own: int, other: int) -> None:
    chooser = random.Random(classes)
    policy = UpdatePolicy(requests_min=20, class_shift_max=0.2)
    before = drawn(chooser, [1.0] * classes, other)
    reason = judge(seen(classes=(own,), before={"classes": before}), policy)
    if classes > 2:  # of two, half of the answers are right by chance
        assert reason is not None
        assert reason.code == "observe.class_shift"


counts_ = st.integers(0, 10**6)


@given(
    requests=counts_, errors=counts_, non_finite=st.integers(0, 1),
    latency=st.lists(counts_, max_size=BINS), classes=st.lists(counts_, max_size=30),
    before_latency=st.lists(counts_, max_size=BINS), before_classes=st.lists(counts_, max_size=30),
    copied=st.tuples(counts_, counts_, counts_), comparable=st.booleans(),
    minimum=st.integers(0, 100),
)  # fmt: skip
def test_whatever_is_counted_is_judged(
    *,
    requests: int, errors: int, non_finite: int, latency: list[int], classes: list[int],
    before_latency: list[int], before_classes: list[int], copied: tuple[int, int, int],
    comparable: bool, minimum: int,
) -> None:  # fmt: skip
    """No counts at all make the judgement fail, and reports stay within the contract."""
    policy = UpdatePolicy(requests_min=minimum)
    total, failed, agreed = sorted(copied, reverse=True)
    health = seen(
        requests,
        errors,
        non_finite,
        latency=tuple(latency),
        classes=tuple(classes),
        before={"latency": tuple(before_latency), "classes": tuple(before_classes)},
        copies={"runs": total, "errors": failed, "agreed": min(agreed, total - failed)},
        comparable=comparable,
    )
    for reason in (judge(health, policy), judge_shadow(health, policy)):
        assert reason is None or len(reason.detail) <= 1024
    for told in (report(health, policy), report_shadow(health, policy)):
        assert told.class_shift is None or 0 <= told.class_shift <= 1
        assert 0 <= told.agreed <= told.mirrored
