"""Traces of versions, made from what has happened."""

from datetime import UTC, datetime, timedelta

from edgectl_server.domain.traces import (
    Happening,
    PushFacts,
    RolloutFacts,
    push_spans,
    rollout_spans,
)

NOON = datetime(2031, 1, 1, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def push(**more):
    facts = {
        "job": "j1",
        "model": "har",
        "version": "2",
        "created": at(0),
        "started": at(1),
        "finished": at(5),
        "attempts": 1,
        "failed": "",
    }
    return push_spans(PushFacts(**(facts | more)))


def rollout(*history, **more):
    facts = {
        "rollout": "r1",
        "model": "har",
        "version": "2",
        "state": "completed",
        "devices": {"committed": 3},
        "created": at(10),
        "finished": at(60),
    }
    return rollout_spans(RolloutFacts(**(facts | more)), [Happening(*one) for one in history])


def lengths(spans):
    return {one.name: (one.end - one.start) / timedelta(minutes=1) for one in spans}


def test_a_push_and_its_rollouts_are_one_trace():
    pushed, rolled = push(), rollout(first_phase="all")
    assert {one.trace for one in (*pushed, *rolled)} == {pushed[0].trace}
    assert push(version="3")[0].trace != pushed[0].trace
    assert rolled[0].parent == pushed[0].id
    assert {one.parent for one in pushed[1:]} == {pushed[0].id}
    assert {one.parent for one in rolled[1:]} == {rolled[0].id}
    assert lengths(pushed) == {"push har@2": 5, "queued": 1, "pipeline": 4}
    assert pushed == push()  # ids follow from names


def test_phases_and_pauses():
    spans = rollout(
        (at(10), "started"),
        (at(20), "phase_began", "half"),
        (at(25), "paused"),
        (at(35), "resumed"),
        (at(50), "paused"),
        state="aborted",
        first_phase="canary",
    )
    assert lengths(spans) == {
        "rollout har@2": 50,
        "phase canary": 10,
        "phase half": 40,
        "paused 1": 10,
        "paused 2": 10,
    }
    assert spans[0].failed == "aborted"
    assert spans[0].events[0] == (at(10), "started")
    assert len({one.id for one in spans}) == len(spans)


def test_what_never_began_and_what_has_failed():
    spans = push(started=None, failed="x" * 5000)
    assert lengths(spans) == {"push har@2": 5, "queued": 5}
    assert len(spans[0].failed) == 512
