"""Which variants a device is offered, and in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl_protocol.messages import Capabilities
from edgectl_server.domain.variants import CANDIDATES_MAX, VariantFacts, rank_variants

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


def test_unknown_memory_refuses_nothing() -> None:
    unknown = Capabilities(machine="armv7l", runtimes={"onnxruntime": "1"})
    assert len(rank_variants(unknown, [facts("fp32", 10**12)])) == 1


@given(
    st.lists(
        st.builds(
            facts,
            st.sampled_from(["fp32", "int8-a", "int8-b", "fp16"]),
            st.integers(1, 1024 * MIB),
            st.none() | st.floats(1, 1e6),
            rank=st.integers(0, 3),
            runtime=st.sampled_from(["onnxruntime", "tflite"]),
        ),
        max_size=12,
    )
)
def test_whatever_is_published(variants: list[VariantFacts]) -> None:
    ranked = rank_variants(PI, variants)
    assert len(ranked) <= CANDIDATES_MAX
    assert all(one in variants and one.runtime in PI.runtimes for one in ranked)
    assert rank_variants(PI, reversed(variants)) == ranked  # the order of rows means nothing
