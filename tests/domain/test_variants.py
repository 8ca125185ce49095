"""Which variants a device is offered, and in which order."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from edgectl_protocol.messages import Capabilities
from edgectl_server.domain.targets import Limits, Objective, Target
from edgectl_server.domain.variants import (
    CANDIDATES_MAX,
    Measured,
    VariantFacts,
    class_figures,
    rank_variants,
)

PI = Capabilities(machine="aarch64", runtimes={"onnxruntime": "1.32.0"}, memory_bytes=1024**3)
MIB = 1024**2


def facts(
    variant: str, size: int, latency: float | None = None, *, rank: int = 0, runtime: str = ""
) -> VariantFacts:
    return VariantFacts(
        variant=variant,
        precision=variant.partition("-")[0],
        target=f"models/m/1/{variant}",
        manifest=f"sha256:{variant}",
        model_bytes=size,
        latency_p50_us=latency,
        rank=rank,
        runtime=runtime or "onnxruntime",
    )


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        pytest.param([], [], id="nothing published"),
        pytest.param(
            [facts("fp32", 4 * MIB, 100), facts("int8", MIB, 60)], ["int8", "fp32"], id="faster"
        ),
        pytest.param(
            [facts("fp32", 4 * MIB, 100), facts("int8", MIB, 109)], ["int8", "fp32"], id="noise"
        ),
        pytest.param(
            [
                facts("int8-portable", MIB, 90, rank=1),
                facts("fp32", 4 * MIB, 100, rank=2),
                facts("int8", 2 * MIB, 30, rank=0),
            ],
            ["int8", "int8-portable", "fp32"],
            id="the fast one that the pipeline prefers before a smaller one",
        ),
        pytest.param(
            [facts("fp32", 4 * MIB, 100), facts("int8-dynamic", MIB, 400)],
            ["fp32", "int8-dynamic"],
            id="smaller but slower comes last",
        ),
        pytest.param(
            [
                facts("int8-a", MIB, 900),
                facts("int8-b", 2 * MIB, 300),
                facts("fp32", 4 * MIB, 100),
            ],
            ["fp32", "int8-b", "int8-a"],
            id="of the slower ones the fastest",
        ),
        pytest.param(
            [facts("fp32", 4 * MIB), facts("int8", MIB)], ["int8", "fp32"], id="not measured"
        ),
        pytest.param([facts("int8", MIB, 50)], ["int8"], id="no reference"),
        pytest.param(
            [facts("int8-b", MIB, 50, rank=1), facts("int8-a", MIB, 50, rank=0)],
            ["int8-a", "int8-b"],
            id="the pipeline decides between equals",
        ),
        pytest.param(
            [facts("int8", MIB, 50, runtime="tflite"), facts("fp32", 4 * MIB, 100)],
            ["fp32"],
            id="runtime that the device lacks",
        ),
        pytest.param(
            [facts("fp32", 600 * MIB, 100), facts("int8", 150 * MIB, 300)],
            ["int8"],
            id="does not fit into memory",
        ),
    ],
)
def test_order_of_candidates(variants: list[VariantFacts], expected: list[str]) -> None:
    assert [one.variant for one in rank_variants(PI, variants)] == expected


@pytest.mark.parametrize(
    ("machine", "features", "offered"),
    [
        ("x86_64", ("avx2",), ["int8-portable", "fp32"]),
        ("x86_64", ("avx2", "avx512_vnni"), ["int8", "int8-portable", "fp32"]),
        ("x86_64", (), ["int8-portable", "fp32"]),
        ("aarch64", (), ["int8", "int8-portable", "fp32"]),
    ],
)
def test_a_variant_that_saturates_is_for_processors_that_do_not(
    machine: str, features: tuple[str, ...], offered: list[str]
) -> None:
    device = structs.replace(PI, machine=machine, cpu_features=features)
    variants = [
        replace(facts("int8", MIB, 50), portable=False),
        facts("int8-portable", MIB + 1, 60),
        facts("fp32", 4 * MIB, 100),
    ]
    assert [one.variant for one in rank_variants(device, variants)] == offered


def test_unknown_memory_refuses_nothing() -> None:
    unknown = Capabilities(machine="armv7l", runtimes={"onnxruntime": "1"})
    assert len(rank_variants(unknown, [facts("fp32", 10**12)])) == 1


@given(
    st.lists(
        st.builds(
            facts,
            st.sampled_from(["fp32", "fp16", *(f"int8-{letter}" for letter in "abcdefghij")]),
            st.integers(1, 1024 * MIB),
            st.none() | st.floats(1, 1e6),
            rank=st.integers(0, 3),
            runtime=st.sampled_from(["onnxruntime", "tflite"]),
        ),
        max_size=12,
        unique_by=lambda one: one.variant,  # as in a version
    )
)
def test_whatever_is_published(variants: list[VariantFacts]) -> None:
    ranked = rank_variants(PI, variants)
    assert len(ranked) <= CANDIDATES_MAX
    assert all(one in variants and one.runtime in PI.runtimes for one in ranked)
    assert rank_variants(PI, reversed(variants)) == ranked  # the order of rows means nothing


# ---------------------------------------------------------------- what was measured on the class

VARIANTS = [
    facts("fp32", 4 * MIB, 100),
    facts("int8-a", MIB, 50),
    facts("int8-b", 2 * MIB, 90),
    facts("int8-dynamic", MIB - 1, 400),
]


def profile(objective: Objective = "latency", **limits: float) -> Target:
    return Target(
        name="pi",
        machine=("aarch64",),
        runtimes=("onnxruntime",),
        memory_bytes=MIB,
        opset=17,
        objective=objective,
        limits=Limits(**limits),  # type: ignore[arg-type]
    )


def seen(variant: str, p50: float | None, device: str = "d", **more: object) -> Measured:
    fields = {"device_class": "pi", "device": device, "manifest": f"sha256:{variant}"}
    return Measured(**(fields | {"latency_p50_us": p50} | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "measurements", "expected"),
    [
        pytest.param(
            profile(),
            [seen("fp32", 300), seen("int8-a", 900)],
            # The class needs 3 to 18 times as long, 10.5 in the middle: int8-b is taken for 945.
            ["fp32", "int8-a", "int8-b", "int8-dynamic"],
            id="the class says otherwise than the server",
        ),
        pytest.param(
            profile(),
            [seen("fp32", 1000), seen("int8-dynamic", 200), seen("int8-b", 215),
             seen("int8-a", 900)],
            ["int8-dynamic", "int8-b", "int8-a", "fp32"],
            id="of those within the noise the smallest file",
        ),
        pytest.param(
            profile(),
            [seen("int8-a", 1e6)],
            ["int8-a", "int8-b", "fp32", "int8-dynamic"],
            id="one alone compares with nothing",
        ),
        pytest.param(
            profile(),
            [seen("fp32", 10, device_class="other"), seen("int8-a", 9e9, device_class="other")],
            ["int8-a", "int8-b", "fp32", "int8-dynamic"],
            id="another class",
        ),
        pytest.param(
            None,
            [seen("fp32", 10), seen("int8-a", 9e9)],
            ["int8-a", "int8-b", "fp32", "int8-dynamic"],
            id="no class",
        ),
        pytest.param(
            profile("size"),
            [seen("fp32", 500), seen("int8-dynamic", 500), seen("int8-a", 100)],
            ["int8-dynamic", "int8-a", "int8-b", "fp32"],
            id="size: the smallest that is not slower there",
        ),
        pytest.param(
            profile("energy"),
            [seen("fp32", 100, threads=4), seen("int8-a", 200, threads=1), seen("int8-b", 900)],
            ["int8-a", "fp32", "int8-b", "int8-dynamic"],
            id="energy: fewer cores for longer",
        ),
        pytest.param(
            profile(rss_bytes=50 * MIB),
            [seen("int8-a", 10, rss_bytes=51 * MIB), seen("fp32", 100, rss_bytes=50 * MIB)],
            ["int8-b", "fp32", "int8-dynamic"],
            id="more memory than the class allows is not offered",
        ),
        pytest.param(
            profile(),
            [seen("int8-a", 10, rss_bytes=2 * 1024**3), seen("fp32", 100)],
            ["int8-b", "fp32", "int8-dynamic"],
            id="more memory than the device has neither",
        ),
        pytest.param(
            profile(latency_p95_us=50),
            [seen("int8-a", 10, latency_p95_us=51.0), seen("fp32", 40, latency_p95_us=50.0)],
            ["int8-b", "fp32", "int8-dynamic", "int8-a"],
            id="above the latency limit comes after the others",
        ),
        pytest.param(
            profile(),
            [seen("int8-a", None, "d1", refused=True), seen("int8-a", 1, "d2"),
             seen("int8-a", None, "d3", refused=True)],
            ["int8-b", "fp32", "int8-dynamic", "int8-a"],
            id="what most devices of the class refuse comes last",
        ),
        pytest.param(
            profile(),
            [seen("fp32", 100), seen("int8-a", 90, "d1"), seen("int8-a", 1000, "d2"),
             seen("int8-a", 1000, "d2"), seen("int8-a", 1000, "d2"), seen("int8-a", 80, "d3")],
            ["int8-a", "fp32", "int8-b", "int8-dynamic"],
            id="each device counts once",
        ),
    ],
)  # fmt: skip
def test_measurements_of_the_class_decide(
    target: Target | None, measurements: list[Measured], expected: list[str]
) -> None:
    ranked = rank_variants(PI, VARIANTS, target=target, figures=class_figures(measurements, "pi"))
    assert [one.variant for one in ranked] == expected


def test_the_figures_are_medians_of_devices() -> None:
    rows = [seen("a", p50, device, rss_bytes=10, load_ms=2.0, latency_p95_us=p50)
            for device, p50 in [("d1", 1.0), ("d1", 3.0), ("d2", 10.0), ("d3", 50.0)]]  # fmt: skip
    found = class_figures([*rows, seen("a", 7, device_class="x")], "pi")["sha256:a"]
    assert (found.devices, found.latency_p50_us, found.latency_p95_us) == (3, 10.0, 10.0)
    assert (found.rss_bytes, found.load_ms, found.threads, found.refused) == (10, 2.0, 1, False)


measured = st.lists(
    st.builds(
        Measured,
        device_class=st.sampled_from(["pi", "other"]),
        device=st.sampled_from(["d1", "d2", "d3"]),
        manifest=st.sampled_from([one.manifest for one in VARIANTS] + ["sha256:unknown"]),
        latency_p50_us=st.none() | st.floats(1, 1e6),
        latency_p95_us=st.none() | st.floats(1, 1e6),
        rss_bytes=st.none() | st.integers(1, 4 * 1024**3),
        threads=st.integers(1, 8),
        refused=st.booleans(),
    ),
    max_size=12,
)
targets = st.builds(
    profile,
    st.sampled_from(["latency", "size", "energy"]),
    rss_bytes=st.none() | st.integers(1, 4 * 1024**3),
    latency_p95_us=st.none() | st.floats(1, 1e6),
)
encrypted = st.sampled_from(VARIANTS).map(lambda one: replace(one, encrypted=True, manifest="x"))


@given(measured, targets, st.lists(encrypted, max_size=2), st.randoms())
def test_whatever_was_measured(
    measurements: list[Measured], target: Target, more: list[VariantFacts], random: Random
) -> None:
    variants = [*VARIANTS, facts("other", 1, 1, runtime="tflite"), facts("big", 600 * MIB), *more]
    figures = class_figures(measurements, "pi")
    ranked = rank_variants(PI, variants, decrypts=False, target=target, figures=figures)
    limits = [PI.memory_bytes, target.limits.rss_bytes or PI.memory_bytes]
    for one in ranked:  # never one that does not fit
        assert one.runtime == "onnxruntime"
        assert not one.encrypted
        assert one.model_bytes * 2 <= PI.memory_bytes
        if one.manifest in figures:
            assert (figures[one.manifest].rss_bytes or 0) <= min(limits)
    shuffled = random.sample(measurements, len(measurements))
    others = [one for one in shuffled if one.device_class == "pi"]
    again = rank_variants(
        PI, reversed(variants), decrypts=False, target=target, figures=class_figures(others, "pi")
    )
    assert again == ranked  # deterministic, and other classes do not matter


@given(measured, targets)
def test_a_faster_one_is_never_behind_a_slower_larger_one(
    measurements: list[Measured], target: Target
) -> None:
    """Where everything was measured and nothing stands against either."""
    figures = class_figures(measurements, "pi")
    ranked = rank_variants(PI, VARIANTS, target=target, figures=figures)
    if target.objective != "latency" or any(
        one.manifest not in figures
        or figures[one.manifest].refused
        or figures[one.manifest].latency_p50_us is None
        for one in VARIANTS
    ):
        return
    limit = target.limits.latency_p95_us
    if limit is not None and any(
        (figure.latency_p95_us or 0) > limit for figure in figures.values()
    ):
        return
    for earlier, later in pairwise(ranked):
        first, second = figures[earlier.manifest], figures[later.manifest]
        assert first.latency_p50_us is not None
        assert second.latency_p50_us is not None
        better = second.latency_p50_us < first.latency_p50_us
        assert not (better and later.model_bytes <= earlier.model_bytes)
