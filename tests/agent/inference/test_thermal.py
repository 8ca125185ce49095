"""Whether a processor is slowed down, on boards that are trees of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.inference.boards import EVENTS, FIRMWARE, board
from edgectl_agent.thermal import Look, look, throttled

ZONE = "class/thermal/thermal_zone{}/temp"
POLICY = "devices/system/cpu/cpufreq/policy0/scaling_{}_freq"
FAN = "class/thermal/cooling_device0/{}"

CASES: dict[str, tuple[dict[str, str], bool]] = {
    "nothing is told": ({}, False),
    "a Pi that is well": ({FIRMWARE: "0\n"}, False),
    "a Pi that was throttled once": ({FIRMWARE: "50000\n"}, False),
    "a Pi with low voltage": ({FIRMWARE: "1\n"}, False),
    "a Pi that is capped": ({FIRMWARE: "2\n"}, True),
    "a Pi that is throttled": ({FIRMWARE: "50005\n"}, True),
    "a Pi at its soft limit": ({FIRMWARE: "8\n"}, True),
    "firmware that says nonsense": ({FIRMWARE: "throttled=yes\n"}, False),
    "a fan turns": ({FAN.format("type"): "pwm-fan\n", FAN.format("cur_state"): "3\n"}, False),
    "the processor cools": (
        {FAN.format("type"): "cpufreq-cpu0\n", FAN.format("cur_state"): "2\n"}, True
    ),
    "it could cool": (
        {FAN.format("type"): "Processor\n", FAN.format("cur_state"): "0\n"}, False
    ),
    "slow and cool: its governor saves": (
        {ZONE.format(0): "45000", POLICY.format("cur"): "600", POLICY.format("max"): "1500"}, False
    ),
    "slow and hot": (
        {ZONE.format(0): "80000", POLICY.format("cur"): "600", POLICY.format("max"): "1500"}, True
    ),
    "fast and hot": (
        {ZONE.format(0): "80000", POLICY.format("cur"): "1500", POLICY.format("max"): "1500"},
        False,
    ),
    "a speed out of nothing": (
        {ZONE.format(0): "80000", POLICY.format("cur"): "600", POLICY.format("max"): "0"}, False
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_boards(tmp_path: Path, name: str) -> None:
    files, slowed = CASES[name]
    seen = look(board(tmp_path, files))
    assert throttled(Look(), seen) is slowed


def test_events_between_two_looks(tmp_path: Path) -> None:
    before = look(board(tmp_path, {EVENTS: "7\n"}))
    assert not throttled(before, look(tmp_path))
    assert throttled(before, look(board(tmp_path, {EVENTS: "8\n"})))


def test_the_hottest_sensor_that_is_plausible(tmp_path: Path) -> None:
    files = {"61000": 0, "-273200": 1, "70500": 2, "999999999": 3, "": 4, "0x9": 5, "²": 6}
    board(tmp_path, {ZONE.format(number): text for text, number in files.items()})
    assert look(tmp_path).temperature_c == 70.5
    (tmp_path / ZONE.format(7)).mkdir(parents=True)
    assert look(tmp_path).temperature_c == 70.5


def test_the_real_machine() -> None:
    throttled(look(), look())
