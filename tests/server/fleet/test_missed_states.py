"""A state that the broker has dropped is noticed, asked for, and not for ever."""

from datetime import UTC, datetime, timedelta

import pytest

from edgectl_server.missed_states import ASKED_AT_ONCE_MAX, WAIT_S, MissedStates

AT = datetime(2031, 1, 1, tzinfo=UTC)
LATER = AT + timedelta(seconds=1)


@pytest.fixture
def missed():
    return MissedStates()


def test_an_event_that_is_newer_than_the_state_has_it_asked_for_after_a_while(missed):
    missed.event("pi-1", LATER, AT, 100.0)
    assert missed.due(100.0 + WAIT_S - 1) == []
    assert missed.due(100.0 + WAIT_S) == ["pi-1"]
    assert missed.due(100.0 + WAIT_S + 1) == []


def test_a_state_that_comes_in_time_is_not_asked_for(missed):
    missed.event("pi-1", LATER, AT, 100.0)
    missed.state("pi-1", LATER)
    assert missed.due(1000.0) == []


def test_an_older_state_does_not_stand_for_it(missed):
    missed.event("pi-1", LATER, AT, 100.0)
    missed.state("pi-1", AT)
    assert missed.due(1000.0) == ["pi-1"]


def test_events_that_the_state_covers_are_nothing(missed):
    missed.event("pi-1", AT, AT, 100.0)
    missed.event("pi-2", AT, LATER, 100.0)
    missed.event("pi-3", AT, None, 100.0)
    assert missed.due(1000.0) == []


def test_a_device_that_lies_about_its_clock_is_given_up(missed):
    missed.event("pi-1", AT + timedelta(days=900), AT, 0.0)
    asked = sum(len(missed.due(elapsed)) for elapsed in range(0, 2000, int(WAIT_S)))
    assert asked == 5
    assert missed.due(1e6) == []


def test_no_more_are_asked_for_at_once_than_a_broker_likes(missed):
    for number in range(200):
        missed.event(f"pi-{number}", LATER, AT, 0.0)
    turns = [missed.due(WAIT_S + turn) for turn in range(4)]
    assert [len(turn) for turn in turns] == [ASKED_AT_ONCE_MAX] * 3 + [200 - 3 * ASKED_AT_ONCE_MAX]
    assert len({name for turn in turns for name in turn}) == 200
