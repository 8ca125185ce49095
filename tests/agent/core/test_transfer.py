"""The window of a download against a transport that loses, repeats, swaps, alters and cuts."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl_agent.core.transfer import Outcome, Transfer, TransferFailure, TransferLimits

BLOB = "sha256:" + "0" * 64


def piece(number: int) -> bytes:
    return f"piece {number}".encode() * 10


def expected(number: int) -> bytes:
    return hashlib.sha256(piece(number)).digest()


def begin(count: int, limits: TransferLimits | None = None) -> Transfer:
    return Transfer(BLOB, range(count), expected, elapsed_s=0.0, limits=limits)


@settings(max_examples=200, deadline=None)
@given(count=st.integers(1, 60), seed=st.integers(0, 2**32), hostility=st.floats(0, 0.6))
def test_a_transfer_ends_whatever_the_transport_does(
    count: int, seed: int, hostility: float
) -> None:
    """Everything comes right, or it fails with a reason that names blob and chunk."""
    world = random.Random(seed)
    transfer = begin(count)
    got: dict[int, bytes] = {}
    failure: TransferFailure | None = None
    subscribed: set[int] = set()
    waiting: list[tuple[int, bytes]] = []
    now = 0.0
    try:
        for _ in range(5000):
            if transfer.done:
                break
            wishes = transfer.poll(now)
            subscribed.difference_update(wishes.unsubscribe)
            subscribed.update(wishes.subscribe)
            assert len(subscribed) <= 16 + 16 // 2 + 16  # window, and what is yet to be left
            assert set(wishes.refused) <= set(wishes.missing)
            assert len(wishes.missing) <= 64
            for number in wishes.subscribe:
                for _ in range(world.choice((0, 1, 1, 2)) if world.random() < hostility else 1):
                    content = piece(number)
                    if world.random() < hostility / 4:
                        content = world.choice(
                            (b"", content[:-1], b"?" + content[1:], piece(number + 1), content * 2)
                        )
                    waiting.append((number, content))
            if world.random() < hostility:
                world.shuffle(waiting)
            if not waiting:
                now = max(now + 0.01, transfer.next_s())
                continue
            number, content = waiting.pop(0)
            now += world.random()
            if transfer.receive(number, content, now) is Outcome.ACCEPTED:
                assert number not in got
                assert content == piece(number)
                got[number] = content
        else:
            raise AssertionError("it neither ends nor fails")
    except TransferFailure as error:
        failure = error
    if failure is not None:
        assert failure.reason.code in {"transfer.chunk_altered", "transfer.stalled"}
        assert BLOB in failure.reason.detail
        assert "chunk " in failure.reason.detail
        assert hostility > 0
    else:
        assert sorted(got) == list(range(count))


def drain(transfer: Transfer, *, piece_s: float) -> list[int]:
    windows, now = [], 0.0
    while not transfer.done:
        transfer.poll(now)
        now += piece_s
        transfer.receive(transfer.asked[0], piece(transfer.asked[0]), now)
        windows.append(transfer.window)
    return windows


def test_the_window_grows_while_it_drains_fast_and_shrinks_when_slow() -> None:
    assert drain(begin(64), piece_s=0.01)[-1] == 16
    assert drain(begin(64), piece_s=3.0)[-1] == 1


def test_a_piece_that_was_not_asked_for_is_ignored() -> None:
    transfer = begin(3)
    transfer.poll(0)
    assert transfer.receive(7, piece(7), 0) is Outcome.IGNORED
    assert transfer.receive(1, b"", 0) is Outcome.IGNORED
    assert transfer.receive(1, piece(1), 0) is Outcome.ACCEPTED
    assert transfer.receive(1, piece(1), 0) is Outcome.IGNORED


def test_three_refusals_of_a_piece_fail_and_each_is_named_at_once() -> None:
    transfer = begin(3)
    transfer.poll(0)
    for now in (0.0, 1.5):
        assert transfer.receive(2, b"altered", now) is Outcome.REFUSED
        assert transfer.poll(now).refused == (2,)
        assert 2 in transfer.poll(transfer.next_s()).subscribe
    with pytest.raises(TransferFailure, match="chunk 2 of sha256:0000"):
        transfer.receive(2, b"altered", 5.0)


def test_time_without_a_connection_does_not_count() -> None:
    transfer = begin(3)
    transfer.poll(0)
    for minute in range(1, 60):
        transfer.pause(minute * 60.0)
        assert transfer.poll(minute * 60.0).missing == ()


def test_silence_is_told_with_growing_pauses_and_then_fails() -> None:
    transfer = begin(3)
    transfer.poll(0)
    times, named = [], []
    for _ in range(6):
        times.append(transfer.next_s())
        wishes = transfer.poll(times[-1])
        assert sorted(wishes.subscribe) == sorted(wishes.missing)
        named.append(wishes.missing)
    # What may only be late is asked for again piece by piece, the one that waits longest first.
    assert named == [(0,), (1, 2), (0, 1, 2), (0, 1, 2), (0, 1, 2), (0, 1, 2)]
    with pytest.raises(TransferFailure, match=r"transfer\.stalled"):
        transfer.poll(transfer.next_s())
    assert times == [5, 15, 35, 65, 95, 125]


def test_bytes_on_their_way_are_no_silence_but_not_for_ever() -> None:
    transfer = begin(3)
    transfer.poll(0)
    for second in range(1, 120):
        transfer.heard(second)
        assert transfer.poll(second).subscribe == ()
    assert transfer.next_s() == 120
    assert transfer.poll(120).missing == (0,)


def test_after_a_long_silence_that_ended_by_itself_the_next_one_is_given_longer() -> None:
    transfer = begin(3)
    transfer.poll(0)
    transfer.receive(0, piece(0), 4.9)
    transfer.poll(4.9)
    assert transfer.next_s() == pytest.approx(4.9 + 2 * 4.9)


def test_what_others_have_overtaken_is_asked_for_again_alone() -> None:
    transfer = begin(40)
    subscribed = list(transfer.poll(0).subscribe)
    asked_again: list[int] = []
    came = 0
    while not transfer.done and came < 30:
        number = next(one for one in subscribed if one != 2)
        subscribed.remove(number)
        transfer.receive(number, piece(number), 0.0)
        came += 1
        wishes = transfer.poll(0.0)
        asked_again += wishes.missing
        subscribed += [one for one in wishes.subscribe if one not in subscribed]
        if wishes.missing:
            break
    assert asked_again == [2]
    assert came == 2 + 4 + 1  # two were before it, four may overtake it


def test_a_silence_asks_again_for_all_that_a_later_piece_has_overtaken_and_one_more() -> None:
    transfer = begin(20, TransferLimits(window_first=8))
    transfer.poll(0)
    for number in (1, 3):
        transfer.receive(number, piece(number), 0.0)
    assert transfer.poll(0.0).missing == ()
    assert transfer.poll(transfer.next_s()).missing == (0, 2, 4)
