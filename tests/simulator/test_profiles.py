"""Profiles: what may be declared, and who gets which fault."""

import json

import pytest

from edgectl_simulator.draws import Draws
from edgectl_simulator.errors import Misused
from edgectl_simulator.plan import Plan, read_plan
from edgectl_simulator.profiles import (
    PROFILES_BYTES_MAX,
    Offline,
    Profile,
    Slow,
    Traits,
    load_profiles,
    pick_profile,
    read_profiles,
)

SHIPPED = {"steady", "flaky", "slow", "failing", "flapping", "wrong-clock"}
PLAN = {"server": "http://127.0.0.1:8080", "folder": "/tmp/fleet", "devices": 3}


def test_the_shipped_profiles_can_be_read_and_say_what_they_are():
    found = load_profiles()
    assert set(found) == SHIPPED
    assert all(one.about for one in found.values())


def test_a_share_of_the_devices_has_a_fault_and_always_the_same_ones():
    profile = Profile(offline=Offline(share=0.3), slow=Slow(share=0.3))

    def with_fault(seed, fault):
        drawn = {f"sim-{n:05}": Traits.of(profile, Draws(seed, f"sim-{n:05}")) for n in range(2000)}
        return {name for name, one in drawn.items() if fault in one.names()}

    offline = with_fault(1, "offline")
    assert 500 < len(offline) < 700
    assert offline == with_fault(1, "offline")
    assert offline != with_fault(2, "offline")
    assert 120 < len(offline & with_fault(1, "slow")) < 240  # each is drawn for itself


def test_nobody_and_everybody():
    for share, expected in ((0.0, ()), (1.0, ("slow",))):
        profile = Profile(slow=Slow(share=share))
        for number in range(50):
            assert Traits.of(profile, Draws(7, f"x-{number}")).names() == expected


@pytest.mark.parametrize(
    "text",
    [
        "[mine]\nslow = { share = 1.5 }",
        "[mine]\nslow = { share = -0.1 }",
        "[mine]\nslow = { share = nan }",
        "[mine]\nslow = { share = 'all' }",
        "[mine]\nslow = { factor = 2 }",
        "[mine]\nsloow = { share = 0.5 }",
        "[mine]\nfailing = { share = 0.5, at = 'lunch' }",
        "[mine]\ntelemetry_s = 0",
        "[mine]\ntelemetry_s = inf",
        "[mine]\nwrong_clock = { share = 1, offset_s = 1e12 }",
        "[mine]\noffline = { share = 1, every_s = 0 }",
        "['no such name']\nabout = ''",
        "mine = 3",
        "[mine",
        "\udcff",
        "[mine]\nabout = '" + "x" * 600 + "'",
        "# " + "x" * PROFILES_BYTES_MAX,
        "\n".join(f"[p{number}]" for number in range(300)),
    ],
)
def test_what_is_no_profile_is_refused_and_the_file_is_named(text):
    with pytest.raises(Misused) as caught:
        read_profiles(text.encode(errors="surrogateescape"), "mine.toml")
    assert caught.value.code == "simulate.profile"
    assert "mine.toml" in caught.value.detail


def test_a_file_adds_profiles_and_replaces_shipped_ones(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[mine]\nabout = 'ours'\n[steady]\ntelemetry_s = 5\n")
    assert pick_profile("mine", str(file)).about == "ours"
    assert pick_profile("steady", str(file)).telemetry_s == 5
    assert pick_profile("flaky", str(file)) == load_profiles()["flaky"]


def test_an_unknown_profile_names_those_that_there_are():
    with pytest.raises(Misused) as caught:
        pick_profile("broken")
    assert "wrong-clock" in caught.value.hint


def test_a_missing_file_is_said():
    with pytest.raises(Misused, match="cannot be read"):
        load_profiles("/nowhere/profiles.toml")


@pytest.mark.parametrize(
    "change",
    [
        {"devices": 0},
        {"devices": 10_001},
        {"devices": "ten"},
        {"server": "ftp://x"},
        {"prefix": "../x"},
        {"prefix": ""},
        {"download": 1.1},
        {"connect_rate": 0},
        {"seed": -1},
        {"unknown": 1},
        {"profile": ""},
    ],
)
def test_a_plan_out_of_bounds_is_refused(change):
    with pytest.raises(Misused) as caught:
        read_plan(json.dumps(PLAN | change).encode())
    assert caught.value.code == "simulate.plan"


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b" " * 70_000])
def test_what_is_no_plan_is_refused(content):
    with pytest.raises(Misused):
        read_plan(content)


def test_a_plan_comes_with_its_defaults():
    assert read_plan(json.dumps(PLAN).encode()) == Plan(**PLAN)
