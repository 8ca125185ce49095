"""The course of simulated updates: what the contract's table has, and nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl_protocol.update import ENDED, UpdateEvent, UpdateState, next_state
from edgectl_simulator.profiles import Failing, Slow
from simulator.worlds import AT, digest, make_course, make_order, wanted

S, E = UpdateState, UpdateEvent
STEPS_MAX = 200


def settle(memory, course):
    """Let time pass until nothing is due; return the transitions."""
    seen = []
    for _ in range(STEPS_MAX):
        due = [
            update
            for update in memory.updates.values()
            if course.lasts_s(update, memory.order.policy) is not None
        ]
        if not due:
            return seen
        seen.append(course.advance(due[0], memory.order.policy, AT))
        if seen[-1].after in ENDED:
            seen.extend(course.consider())
    raise AssertionError(f"it does not end: {seen[-5:]}")


def states(transitions):
    return [one.after for one in transitions]


def test_an_update_goes_through_every_state_and_is_committed():
    memory, course = make_course()
    seen = [*course.obey(make_order(1, {"har": wanted(1)})), *settle(memory, course)]
    assert states(seen) == [
        S.REFRESHING, S.DOWNLOADING, S.VERIFYING, S.TRIAL, S.ACTIVATING, S.OBSERVING, S.COMMITTED,
    ]  # fmt: skip
    assert memory.running["har"].manifest == digest(10)
    assert memory.updates["har"].trial.golden_passed == memory.updates["har"].trial.golden_total


def test_a_shadow_is_one_where_the_policy_wants_it():
    memory, course = make_course()
    seen = [
        *course.obey(make_order(1, {"har": wanted(1)}, shadow_s=5.0)),
        *settle(memory, course),
    ]
    assert S.SHADOWING in states(seen)
    assert memory.updates["har"].state is S.COMMITTED


@pytest.mark.parametrize(
    ("at", "end", "remembered"),
    [("downloading", S.FAILED, 0), ("trial", S.REJECTED, 2), ("observing", S.ROLLED_BACK, 1)],
)
def test_a_failing_device_fails_where_its_profile_says(at, end, remembered):
    memory, course = make_course(failing=Failing(share=1, at=at))
    list(course.obey(make_order(1, {"har": wanted(1, candidates=2)})))
    settle(memory, course)
    assert memory.updates["har"].state is end
    assert memory.updates["har"].reason is not None
    assert len(memory.rejected) == remembered
    assert "har" not in memory.running


def test_what_fails_is_tried_again_as_often_as_the_order_says():
    memory, course = make_course(failing=Failing(share=1, at="downloading"))
    list(course.obey(make_order(1, {"har": wanted(1)}, attempts_max=4)))
    seen = settle(memory, course)
    assert [one.event for one in seen].count(E.RETRY) == 3
    assert memory.updates["har"].attempt == 4


def test_a_breach_returns_to_what_ran_before():
    memory, course = make_course()
    list(course.obey(make_order(1, {"har": wanted(1)})))
    settle(memory, course)
    _, failing = make_course(memory, failing=Failing(share=1, at="observing"))
    list(failing.obey(make_order(2, {"har": wanted(2)})))
    settle(memory, failing)
    assert memory.running["har"].version == "1"
    assert memory.rejected == (digest(20),)


def test_what_is_withdrawn_is_taken_back():
    memory, course = make_course()
    list(course.obey(make_order(1, {"har": wanted(1)})))
    settle(memory, course)
    seen = [*course.obey(make_order(2, {}, withdrawn=("har",))), *settle(memory, course)]
    assert states(seen) == [S.ROLLING_BACK, S.ROLLED_BACK]
    assert memory.rejected == ()
    assert memory.running == {}


def test_a_newer_order_takes_back_what_is_under_way_and_begins_what_it_wants():
    memory, course = make_course()
    list(course.obey(make_order(1, {"har": wanted(1)})))
    course.advance(memory.updates["har"], memory.order.policy, AT)
    seen = list(course.obey(make_order(2, {"har": wanted(2)})))
    assert [one.event for one in seen] == [E.ABORTED, E.ORDERED]
    settle(memory, course)
    assert memory.running["har"].version == "2"


def test_an_order_of_the_same_again_changes_nothing_but_its_number():
    memory, course = make_course()
    list(course.obey(make_order(1, {"har": wanted(1)})))
    settle(memory, course)
    assert list(course.obey(make_order(2, {"har": wanted(1)}))) == []
    assert (memory.updates["har"].order, memory.floor) == (2, 2)


def test_what_was_rejected_is_tried_again_only_when_it_is_forgiven():
    memory, course = make_course(failing=Failing(share=1, at="trial"))
    list(course.obey(make_order(1, {"har": wanted(1)})))
    settle(memory, course)
    assert list(course.obey(make_order(2, {"har": wanted(1)}))) == []
    _, better = make_course(memory)
    list(better.obey(make_order(3, {"har": wanted(1)}, forgive=(digest(10),))))
    settle(memory, better)
    assert memory.updates["har"].state is S.COMMITTED


def test_a_slow_device_takes_longer():
    _, slow = make_course(slow=Slow(share=1, factor=10.0))
    memory, usual = make_course()
    list(usual.obey(make_order(1, {"har": wanted(1)})))
    update, policy = memory.updates["har"], memory.order.policy
    assert slow.lasts_s(update, policy) == pytest.approx(10 * usual.lasts_s(update, policy))


ORDERS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(["a", "b"]), st.integers(1, 3), max_size=2),
        st.sets(st.sampled_from(["a", "b"])),
        st.integers(0, 12),
        st.sampled_from([0.0, 1.0]),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200)
@given(
    orders=ORDERS,
    at=st.sampled_from([None, "downloading", "trial", "observing"]),
    seed=st.integers(0, 1000),
)
def test_whatever_is_ordered_only_the_contract_s_transitions_happen_and_it_ends(orders, at, seed):
    failing = None if at is None else Failing(share=1, at=at)
    memory, course = make_course(seed=seed, failing=failing)
    seen = []
    for counter, (slots, withdrawn, steps, shadow_s) in enumerate(orders, 1):
        order = make_order(
            counter,
            {slot: wanted(version, candidates=2) for slot, version in slots.items()},
            withdrawn=tuple(sorted(withdrawn)),
            shadow_s=shadow_s,
        )
        seen.extend(course.obey(order))
        for _ in range(steps):
            under_way = [one for one in memory.updates.values() if one.state not in ENDED]
            if under_way:
                seen.append(course.advance(under_way[0], order.policy, AT))
                seen.extend(course.consider() if seen[-1].after in ENDED else ())
    seen.extend(settle(memory, course))
    for one in seen:
        assert next_state(one.before, one.event) is one.after
    if failing is None:
        for slot, one in memory.order.slots.items():
            assert memory.running[slot].version == one.version
