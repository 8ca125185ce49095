"""Which messages have come, twice or not at all, against a model that remembers every number."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from edgectl_server.domain.receipts import GAPS_MAX, Gap, Receipt, note, state_of

NOON = datetime(2031, 1, 1, 12, tzinfo=UTC)


def after(*numbers: int) -> Receipt:
    receipt = Receipt()
    for seq in numbers:
        receipt = note(receipt, seq, NOON)
    return receipt


@pytest.mark.parametrize(
    ("numbers", "received", "duplicates", "gaps"),
    [
        ([1, 2, 3], 3, 0, []),
        ([1, 1, 2, 1], 2, 2, []),
        ([3], 1, 0, [(1, 2)]),
        ([1, 5], 2, 0, [(2, 4)]),
        ([1, 5, 3], 3, 0, [(2, 2), (4, 4)]),
        ([1, 5, 2], 3, 0, [(3, 4)]),
        ([1, 5, 4], 3, 0, [(2, 3)]),
        ([1, 5, 3, 2, 4, 3], 5, 1, []),
        ([0], 0, 1, []),
        ([2**63 - 1], 1, 0, [(1, 2**63 - 2)]),
    ],
)
def test_messages_in_any_order(
    numbers: list[int], received: int, duplicates: int, gaps: list[tuple[int, int]]
) -> None:
    found = after(*numbers)
    assert (found.received, found.duplicates) == (received, duplicates)
    assert [(one.first, one.last) for one in found.gaps] == gaps


@pytest.mark.parametrize("seed", range(20))
def test_any_loss_repetition_and_order(seed: int) -> None:
    chance = random.Random(seed)
    sent = list(range(1, 200))
    line = [seq for seq in sent if chance.random() > 0.1]
    line += chance.sample(line, 30)
    line.sort(key=lambda seq: seq + chance.uniform(0, 20))
    found = after(*line)
    missing = set(range(1, max(line) + 1)) - set(line)
    told = {seq for one in found.gaps for seq in range(one.first, one.last + 1)}
    assert told == missing
    assert found.received == len(set(line))
    assert found.duplicates == len(line) - len(set(line))
    assert found.forgotten == 0


def test_no_device_grows_its_row() -> None:
    found = after(*range(2, 4 * GAPS_MAX, 2))
    assert len(found.gaps) == GAPS_MAX
    assert found.forgotten + len(found.gaps) == found.received
    for seq in range(3, 4 * GAPS_MAX, 4):  # each splits nothing: they are single numbers
        found = note(found, seq, NOON)
    assert len(found.gaps) <= GAPS_MAX
    huge = Receipt(last=2**62, gaps=(Gap(1, 2**62 - 1, NOON),))
    for seq in range(2, 2 * GAPS_MAX, 2):
        huge = note(huge, seq, NOON + timedelta(seconds=1))
    assert len(huge.gaps) <= GAPS_MAX


@pytest.mark.parametrize(
    ("waits", "state"),
    [
        (None, "unknown"),
        ((1, 900), "awaited"),
        ((2, 10), "awaited"),
        ((2, 12), "partly lost"),
        ((2, 20), "partly lost"),
        ((2, 21), "lost"),
        ((3, 1), "lost"),
    ],
)
def test_the_device_says_what_is_lost(waits: tuple[int, int] | None, state: str) -> None:
    assert state_of(2, Gap(10, 20, NOON), waits) == state
