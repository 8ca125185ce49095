"""The loop's table: every state, what it waits for, and what follows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from edgectl_server.domain.learning_loop import (
    ENDS,
    Action,
    LoopPolicy,
    LoopState,
    Observed,
    Trigger,
    decide,
)

NOW = datetime(2026, 11, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICY = LoopPolicy(
    cool_down=HOUR, runs_max=2, runs_within=24 * HOUR, labels_min=100, collect_max=10 * HOUR
)
CAREFUL = replace(POLICY, approvals=frozenset({"training", "rollout"}))
DRIFT, HAND = Trigger("drift", "fleet"), Trigger("hand", "anna")
S, A = LoopState, Action


def seen(state: LoopState = S.WATCHING, **more: object) -> Observed:
    return replace(Observed(state=state, since=NOW - HOUR), **more)  # type: ignore[arg-type]


CASES = [
    ("nothing", POLICY, seen(), S.WATCHING, A.NOTHING),
    ("drift", POLICY, seen(triggers=[DRIFT]), S.COLLECTING, A.BEGIN),
    ("paused", POLICY, seen(triggers=[DRIFT], paused=True), S.WATCHING, A.NOTHING),
    ("cools down", POLICY, seen(triggers=[DRIFT], last_ended=NOW - HOUR / 2),
     S.WATCHING, A.NOTHING),
    ("has cooled", POLICY, seen(triggers=[DRIFT], last_ended=NOW - HOUR), S.COLLECTING, A.BEGIN),
    ("spent", POLICY, seen(triggers=[DRIFT], runs_lately=2), S.WATCHING, A.NOTHING),
    ("by hand", POLICY, seen(triggers=[DRIFT, HAND], runs_lately=9, last_ended=NOW),
     S.COLLECTING, A.BEGIN),
    ("asks for samples", POLICY, seen(S.COLLECTING), S.COLLECTING, A.COLLECT),
    ("waits for labels", POLICY, seen(S.COLLECTING, collecting=True, labels=99),
     S.COLLECTING, A.NOTHING),
    ("enough labels", POLICY, seen(S.COLLECTING, collecting=True, labels=100),
     S.DATASET, A.MAKE_DATASET),
    ("no labels ever", POLICY, seen(S.COLLECTING, since=NOW - 10 * HOUR, labels=99),
     S.REJECTED, A.STOP_COLLECTING),
    ("a dataset refused", POLICY, seen(S.COLLECTING, labels=100, refused="dataset.empty"),
     S.DATASET, A.MAKE_DATASET),
    ("no dataset ever", POLICY,
     seen(S.COLLECTING, since=NOW - 10 * HOUR, labels=100, refused="dataset.empty"),
     S.REJECTED, A.STOP_COLLECTING),
    ("labels in the last moment", POLICY, seen(S.COLLECTING, since=NOW - 10 * HOUR, labels=100),
     S.DATASET, A.MAKE_DATASET),
    ("trains", POLICY, seen(S.DATASET), S.TRAINING, A.TRAIN),
    ("asks before training", CAREFUL, seen(S.DATASET), S.DATASET, A.NOTHING),
    ("may train", CAREFUL, seen(S.DATASET, approved=True), S.TRAINING, A.TRAIN),
    ("is training", POLICY, seen(S.TRAINING, training="running"), S.TRAINING, A.NOTHING),
    ("is worse", POLICY, seen(S.TRAINING, training="failed"), S.REJECTED, A.NOTHING),
    ("was cancelled", POLICY, seen(S.TRAINING, training="cancelled"), S.REJECTED, A.NOTHING),
    ("is better", POLICY, seen(S.TRAINING, training="succeeded"), S.GATED, A.NOTHING),
    ("is pushed", POLICY, seen(S.GATED, version="processing"), S.GATED, A.NOTHING),
    ("waits for signatures", POLICY, seen(S.GATED, version="unsigned"), S.GATED, A.NOTHING),
    ("push refused", POLICY, seen(S.GATED, version="refused"), S.REJECTED, A.NOTHING),
    ("is ready", POLICY, seen(S.GATED, version="ready"), S.CANARY, A.START_ROLLOUT),
    ("asks before rollout", CAREFUL, seen(S.GATED, version="ready"), S.GATED, A.NOTHING),
    ("first phase", POLICY, seen(S.CANARY, rollout="running"), S.CANARY, A.NOTHING),
    ("next phase", POLICY, seen(S.CANARY, rollout="running", first_phase=False),
     S.ROLLOUT, A.NOTHING),
    ("done", POLICY, seen(S.ROLLOUT, rollout="completed", committed=3), S.PROMOTED, A.NOTHING),
    ("done with nobody", POLICY, seen(S.ROLLOUT, rollout="completed"), S.ROLLED_BACK, A.NOTHING),
    ("devices failed", POLICY, seen(S.CANARY, rollout="paused", rollout_note="1 failed"),
     S.ROLLED_BACK, A.REVERT),
    ("a person paused it", POLICY, seen(S.CANARY, rollout="paused", rollout_note="paused by anna"),
     S.CANARY, A.NOTHING),
    ("was aborted", POLICY, seen(S.ROLLOUT, rollout="aborted"), S.ROLLED_BACK, A.NOTHING),
    ("a pause stops no rollout", POLICY, seen(S.ROLLOUT, rollout="aborted", paused=True),
     S.ROLLED_BACK, A.NOTHING),
]  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "observed", "state", "action"),
    [one[1:] for one in CASES],
    ids=[one[0] for one in CASES],
)
def test_what_follows(
    policy: LoopPolicy, observed: Observed, state: LoopState, action: Action
) -> None:
    found = decide(policy, observed, NOW)
    assert (found.state, found.action) == (state, action)
    assert found.why, "a decision says why"


def test_every_state_has_cases_and_ends_have_none() -> None:
    assert {one[2].state for one in CASES} == set(LoopState) - ENDS
    assert {one[3] for one in CASES} == set(LoopState)
    for state in ENDS:
        with pytest.raises(AssertionError):
            decide(POLICY, seen(state), NOW)
