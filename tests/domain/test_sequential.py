"""Bounds that hold however often they are looked at, on fleets whose devices differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from domain.fleet_trials import Trial
from edgectl_server.domain.sequential import _student, bound_difference

FLEETS = 1500
NOISE = 0.01
"""Two standard deviations of a share of 0.05 among so many fleets."""
TRIALS = [
    Trial(5, 5, rate=0.01, correlation=0.01),
    Trial(5, 20, rate=0.01, correlation=0.01),
    Trial(5, 20, rate=0.002, correlation=0.005),
    Trial(10, 90, rate=0.002, correlation=0.005),
    Trial(10, 40, rate=0.05, correlation=0.02, margin=0.025),
    Trial(20, 5, rate=0.2, correlation=0.1, margin=0.1),
    Trial(30, 30, rate=0.01),
]


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_neither_wrong_answer_is_more_likely_than_alpha(trial: Trial) -> None:
    """At the border each answer is as wrong as it can be; sixty looks at each fleet."""
    at_the_border = trial.play(np.random.default_rng(3), FLEETS, trial.margin)
    assert at_the_border.failed <= trial.alpha + NOISE
    assert at_the_border.passed <= trial.alpha + NOISE


@pytest.mark.parametrize(
    ("trial", "difference", "failed", "passed"),
    [
        (Trial(10, 90, rate=0.01), 0.0, 0.0, 0.99),
        (Trial(10, 90, rate=0.01), 0.03, 0.99, 0.0),
        (Trial(20, 80, rate=0.01, correlation=0.002), 0.0, 0.0, 0.95),
        (Trial(20, 80, rate=0.01, correlation=0.002), 0.03, 0.95, 0.0),
        (Trial(50, 50, rate=0.05, correlation=0.02, margin=0.025), 0.0, 0.0, 0.8),
        (Trial(50, 50, rate=0.05, correlation=0.02, margin=0.025), 0.075, 0.95, 0.0),
    ],
    ids=str,
)
def test_what_is_far_from_the_margin_is_found(
    trial: Trial, difference: float, failed: float, passed: float
) -> None:
    ends = trial.play(np.random.default_rng(3), 500, difference)
    assert ends.failed >= failed
    assert ends.passed >= passed


def test_devices_that_differ_need_more_than_requests() -> None:
    """The unit is the device: a hundred times the requests of ten devices do not make them more."""
    few = Trial(5, 5, rate=0.05, correlation=0.05, looks=5)
    many = replace(few, requests=5000)
    found = [trial.play(np.random.default_rng(3), 500, 0.0).passed for trial in (few, many)]
    assert max(found) < 0.1


def test_no_errors_at_all_prove_little_of_few_requests() -> None:
    none = bound_difference(([0] * 5, [20] * 5), ([0] * 5, [20] * 5), margin=0.01, alpha=0.05)
    assert none.high > 0.01
    many = bound_difference(
        ([0] * 5, [20_000] * 5), ([0] * 5, [20_000] * 5), margin=0.01, alpha=0.05
    )
    assert many.high < 0.01


def test_one_device_cannot_decide() -> None:
    """Whatever it claims, it is one of its arm, and makes the arm less sure."""
    honest = ([10] * 9, [1000] * 9)
    for claimed in ((0, 10**12), (10**12, 10**12)):
        liar = ([*honest[0], claimed[0]], [*honest[1], claimed[1]])
        told = bound_difference(liar, (honest[0] * 2, honest[1] * 2), margin=0.01, alpha=0.05)
        assert told.low <= 0.01
    claimed_good = bound_difference(
        ([100] * 9 + [0], [1000] * 9 + [10**12]), honest, margin=0.01, alpha=0.05
    )
    assert claimed_good.high > 0.01, "nine that are much worse are not drowned"


@pytest.mark.parametrize("degrees", [4, 9, 50])
def test_students_quantile_is_that_of_scipy(degrees: int) -> None:
    for deviations in (1.0, 2.0, 3.0, 4.0):
        exact = stats.t.isf(stats.norm.sf(deviations), degrees)
        found = float(_student(np.asarray(deviations), np.asarray(float(degrees))))
        assert exact * 0.99 <= found <= exact * 1.1, "rather a little too wide"
