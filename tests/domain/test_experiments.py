"""What an experiment says, when it ends, and that nothing is asked after the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from edgectl_server.domain.experiments import REQUESTS_MIN, UNITS_MIN, judge_experiment
from edgectl_server.domain.rollouts import Arm, Experiment, Signals

HOUR = timedelta(hours=1)
TEST = Experiment(margin=0.01, limit_s=7200)


def arm(wrong: int, requests: int = 10_000, units: int = 9) -> Arm:
    return Arm(((wrong, requests),) * units)


@pytest.mark.parametrize(
    ("challenger", "champion", "verdict", "said"),
    [
        (Arm(), Arm(), "not_enough_data", "0 devices against 0, of at least 5 each with 20"),
        (arm(50, units=UNITS_MIN - 1), arm(50), "not_enough_data", "4 devices against 9"),
        (arm(50), arm(1, REQUESTS_MIN - 1), "not_enough_data", "9 devices against 0"),
        (arm(50), arm(50), "passed", "error_rate +0.0000, surely between"),
        (arm(500), arm(50), "failed", "9 devices and 90000 requests against 9 and 90000"),
        (arm(1, 100), arm(1, 100), "not_enough_data", "at most +0.01"),
    ],
)
def test_what_it_says(challenger: Arm, champion: Arm, verdict: str, said: str) -> None:
    found = judge_experiment(TEST, Signals(challenger=challenger, champion=champion), HOUR, None)
    assert (found.gate, found.verdict) == ("experiment", verdict)
    assert said in found.detail
    assert found.final == (verdict != "not_enough_data")
    if found.value is not None:
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.value <= found.high
        assert (found.limit, found.devices, found.reference_devices) == (0.01, 9, 9)


@pytest.mark.parametrize(
    ("experiment", "lasted", "said"),
    [
        (TEST, 2 * HOUR, "no answer after 7200 s: error_rate"),
        (replace(TEST, requests_max=1800), HOUR, "no answer after 1800 requests: error_rate"),
    ],
)
def test_at_its_limit_it_ends_without_an_answer_and_stays_so(
    experiment: Experiment, lasted: timedelta, said: str
) -> None:
    unsure = Signals(challenger=arm(1, 100), champion=arm(1, 100))
    ended = judge_experiment(experiment, unsure, lasted, None)
    assert (ended.verdict, ended.final) == ("not_enough_data", True)
    assert said in ended.detail
    sure = Signals(challenger=arm(50), champion=arm(50))
    assert judge_experiment(experiment, sure, lasted, ended) == ended, "the end is the end"


def test_the_first_answer_is_the_answer() -> None:
    passed = judge_experiment(TEST, Signals(challenger=arm(50), champion=arm(50)), HOUR, None)
    worse = Signals(challenger=arm(900), champion=arm(50))
    assert judge_experiment(TEST, worse, HOUR, passed) == passed
