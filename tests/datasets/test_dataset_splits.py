"""Splits: no device in two of them, the same device always in the same one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl_datasets.splits import Ratios, split_rows

START = datetime(2026, 1, 1, tzinfo=UTC)


def rows_of(devices: list[str]) -> list[tuple[str, datetime, str]]:
    return [
        (device, START + timedelta(seconds=at), f"{at:016x}") for at, device in enumerate(devices)
    ]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=80))
def test_no_device_is_in_two_splits(numbers: list[int]) -> None:
    rows = rows_of([f"pi-{number}" for number in numbers])
    split = split_rows(rows)
    assert len(split.of) == len(rows)
    if len(set(numbers)) < 3:
        assert split.by == "time"
        return
    assert split.by in {"device", "rank"}
    where = {}
    for (device, _, _), of in zip(rows, split.of, strict=True):
        assert where.setdefault(device, of) == of
    assert set(split.of) == {"train", "validation", "test"}


def test_a_device_stays_where_it_is_when_others_come() -> None:
    few = rows_of([f"pi-{number}" for number in range(60)])
    many = rows_of([f"pi-{number}" for number in range(600)])
    one, other = split_rows(few), split_rows(many)
    assert one.by == other.by == "device"
    assert other.of[:60] == one.of
    assert other.of.count("train") == pytest.approx(420, abs=40)
    assert split_rows(many, seed="other").of != other.of


def test_few_devices_are_dealt_out_and_known_ones_stay() -> None:
    rows = rows_of(["a", "b", "c"] * 10)
    first = split_rows(rows)
    assert sorted(first.of.count(name) for name in ("train", "validation", "test")) == [10] * 3
    known = {device: of for (device, _, _), of in zip(rows, first.of, strict=True)}
    for others in (["d"], ["d", "e", "f", "g"]):
        again = split_rows(rows_of(["a", "b", "c", *others] * 10), known=known)
        for (device, _, _), of in zip(
            rows_of(["a", "b", "c", *others] * 10), again.of, strict=True
        ):
            assert known.get(device, of) == of


def test_one_device_is_split_by_time_and_says_so() -> None:
    rows = rows_of(["pi-1"] * 20)
    split = split_rows(rows, (0.5, 0.25, 0.25))
    assert split.by == "time"
    assert split.of == ("train",) * 10 + ("validation",) * 5 + ("test",) * 5
    assert split_rows(list(reversed(rows)), (0.5, 0.25, 0.25)).of == tuple(reversed(split.of))
    assert split_rows(rows, (1.0, 0.0, 0.0)) == (("train",) * 20, "device")


@pytest.mark.parametrize("ratios", [(0.5, 0.5, 0.5), (-0.5, 1.0, 0.5), (0.0, 0.0, 0.0)])
def test_ratios_are_shares_of_a_whole(ratios: Ratios) -> None:
    with pytest.raises(ValueError, match="no shares"):
        split_rows(rows_of(["a"]), ratios)
