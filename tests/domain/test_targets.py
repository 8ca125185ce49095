"""Profiles of device classes: what is read, what is refused, and which class a device gets."""

from __future__ import annotations

import contextlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl_protocol.messages import Capabilities
from edgectl_server import domain
from edgectl_server.domain.targets import (
    TEXT_BYTES_MAX,
    Target,
    TargetsInvalid,
    class_of,
    energy_uj,
    parse_targets,
    saturates,
)

REFERENCE = (Path(domain.__file__).parent.parent / "targets.toml").read_text()
TARGETS = parse_targets(REFERENCE)
GIB = 1024**3
MINIMAL = """
[mine]
machine = ["riscv64"]
runtimes = ["onnxruntime"]
memory_bytes = 1000
opset = 17
"""


def device(machine: str, board: str = "", *features: str, memory: int = 0) -> Capabilities:
    return Capabilities(
        machine=machine, cpu_model=board, cpu_features=features, memory_bytes=memory
    )


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (device("x86_64", "AMD EPYC", "avx2", memory=8 * GIB), "x86-64"),
        (device("x86_64", "Xeon", "avx2", "avx512_vnni", memory=8 * GIB), "x86-64-vnni"),
        (device("x86_64", "N100", "avx_vnni", memory=8 * GIB), "x86-64-vnni"),
        (device("x86_64", "", "avx_vnni", memory=GIB // 2), "x86-64"),
        (device("aarch64", "Raspberry Pi 3 Model B Plus Rev 1.3", "asimd"), "rpi3-arm64"),
        (device("aarch64", "Raspberry Pi Zero 2 W Rev 1.0", "asimd"), "rpi3-arm64"),
        (device("aarch64", "Raspberry Pi 4 Model B Rev 1.4", "asimd"), "rpi4-arm64"),
        (device("aarch64", "Raspberry Pi 400 Rev 1.0", "asimd"), "rpi4-arm64"),
        (device("aarch64", "Raspberry Pi 5 Model B Rev 1.0", "asimddp", "asimdhp"), "rpi5-arm64"),
        (device("aarch64", "Orange Pi 5", "asimddp", "asimdhp"), "arm64-dotprod"),
        (device("aarch64", "Banana Pi M64", "asimd"), "arm64"),
        (device("aarch64", "Raspberry Pi 4", "asimd", memory=GIB // 2), "arm64"),
        (device("armv7l", "ARMv7 Processor rev 4 (v7l)", "neon", "vfpv4"), "rpi3-armv7"),
        (device("armv8-m.main"), "cortex-m"),
        (device("armv6l"), ""),
        (device("aarch64", memory=64 * 1024**2), ""),
    ],
)
def test_classes_of_real_devices(capabilities: Capabilities, expected: str) -> None:
    found = class_of(capabilities, TARGETS)
    assert found.name == expected
    assert found.why


def test_the_reason_names_what_decided_and_what_was_missing() -> None:
    chosen = class_of(device("aarch64", "Raspberry Pi 5", "asimddp", "asimdhp"), TARGETS)
    assert "asimddp" in chosen.why
    assert "more specific than arm64-dotprod, arm64" in chosen.why
    assert "lacks neon" in class_of(device("armv7l"), TARGETS).why
    assert "'sparc'" in class_of(device("sparc"), TARGETS).why


@given(
    st.builds(
        device,
        st.sampled_from(["x86_64", "aarch64", "armv7l", "armv8-m.main", "mips"]),
        st.sampled_from(["", "Raspberry Pi 3", "Raspberry Pi 4", "Raspberry Pi 5", "AMD EPYC"]),
        *[st.sampled_from(["asimd", "asimddp", "asimdhp", "neon", "avx2", "avx_vnni"])] * 3,
        memory=st.sampled_from([0, 2**20, 2**28, 2**29, 2**30, 2**40]),
    ),
    st.permutations(TARGETS),
)
def test_the_order_of_profiles_means_nothing(
    capabilities: Capabilities, targets: list[Target]
) -> None:
    found = class_of(capabilities, targets)
    assert found == class_of(capabilities, TARGETS)
    if found.target is not None:
        assert capabilities.machine in found.target.machine
        assert not 0 < capabilities.memory_bytes < found.target.memory_bytes


def test_x86_without_vnni_saturates_and_nothing_else_does() -> None:
    assert saturates("x86_64", ("avx2", "avx512f"))
    assert not saturates("x86_64", ("avx2", "avx_vnni"))
    assert not saturates("aarch64", ())
    assert [one.name for one in TARGETS if one.saturates] == ["x86-64"]


def test_the_energy_proxy_is_time_times_cores_times_watts() -> None:
    assert energy_uj(100.0, cores=4, watts_per_core=1.5) == 600.0


def test_an_own_file_adds_a_class_and_changes_single_keys() -> None:
    own = MINIMAL + '[rpi4-arm64]\nobjective = "energy"\n[rpi3-arm64.limits]\nlatency_p95_us = 9e4'
    found = {one.name: one for one in parse_targets(REFERENCE, own)}
    before = {one.name: one for one in TARGETS}
    assert set(found) == {*before, "mine"}
    assert found["rpi4-arm64"].objective == "energy"
    assert found["rpi4-arm64"].cpu_model == before["rpi4-arm64"].cpu_model
    assert found["rpi3-arm64"].limits.latency_p95_us == 9e4
    assert found["rpi3-arm64"].limits.rss_bytes == before["rpi3-arm64"].limits.rss_bytes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("[a", "not TOML", id="no TOML"),
        pytest.param("#" * (TEXT_BYTES_MAX + 1), "more than", id="too long"),
        pytest.param('"A b" = {}', "no name of a class", id="a name with a space"),
        pytest.param("mine = 1", "expected a table", id="no table"),
        pytest.param(MINIMAL + "speed = 1", "mine: .*speed", id="unknown key"),
        pytest.param(MINIMAL + 'name = "x"', "not a key", id="a name inside"),
        pytest.param(MINIMAL + "limits = { watts = 1 }", "mine: .*watts", id="unknown limit"),
        pytest.param("[mine]\nopset = 17", "mine: .*missing", id="what every class needs"),
        pytest.param(MINIMAL.replace('"riscv64"', ""), "mine: .*machine", id="no machine"),
        pytest.param(MINIMAL.replace("onnxruntime", "torch"), "mine: .*torch", id="runtime"),
        pytest.param(MINIMAL.replace("17", "6"), "mine: .*opset", id="opset"),
        pytest.param(MINIMAL.replace("1000", "0"), "mine: .*memory_bytes", id="no memory"),
        pytest.param(MINIMAL.replace("1000", '"1 GB"'), "mine: .*memory_bytes", id="a unit"),
        pytest.param(MINIMAL + 'objective = "fun"', "mine: .*fun", id="objective"),
        pytest.param(MINIMAL + 'cpu_features = ["a b"]', "mine: .*cpu_features", id="feature"),
        pytest.param(MINIMAL + 'cpu_features = ["a", "a"]', "twice", id="a feature twice"),
        pytest.param(MINIMAL + "watts_per_core = nan", "mine: .*watts", id="not a number"),
        pytest.param(MINIMAL + "watts_per_core = inf", "mine: .*watts", id="infinite"),
        pytest.param(MINIMAL + "limits = { rss_bytes = 1001 }", "more than memory", id="rss"),
        pytest.param("".join(MINIMAL.replace("mine", f"a{n}") for n in range(65)), "65", id="many"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(TargetsInvalid, match=words):
        parse_targets(text)


@given(st.text(max_size=200) | st.sampled_from([MINIMAL, REFERENCE]).flatmap(
    lambda text: st.tuples(st.integers(0, len(text)), st.text(max_size=8)).map(
        lambda cut: text[: cut[0]] + cut[1] + text[cut[0] :])))  # fmt: skip
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(TargetsInvalid):
        assert [one.name for one in parse_targets(text)] == sorted(tomllib.loads(text))
