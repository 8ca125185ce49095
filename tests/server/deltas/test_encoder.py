"""Deltas are exact, whatever the files are, and small where the files are versions of a model."""

import hashlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl_delta.decoder import Applier, apply_bytes
from edgectl_delta.elements import apply_steps
from edgectl_delta.frames import pack
from edgectl_protocol.delta_programs import parse_header
from edgectl_protocol.deltas import (
    DICTIONARY_BYTES_MAX,
    Codec,
    Destination,
    Elements,
    Kind,
    Predictor,
)
from edgectl_protocol.errors import DeltaRefused
from edgectl_server.deltas import encoder, tensor_codec
from edgectl_server.deltas.encoder import DeltaLimits, encode
from edgectl_server.deltas.onnx_tensors import onnx_tensors
from edgectl_server.deltas.steps import find_steps
from edgectl_server.deltas.tflite_tensors import tflite_tensors
from protocol import scalar_deltas
from server.deltas.pairs import TYPES, model, retrained, stepped, weights

ROOT = Path(__file__).parents[3]
ACTIVITY = ROOT / "server/edgectl/demo/activity"
TFLITE = ROOT / "tests/data/tflite"


def applied(delta, base, target):
    return apply_bytes(delta, base, hashlib.sha256(target).digest())


def blocks_of(delta):
    applier = Applier(
        lambda offset, length: delta[offset : offset + length],
        len(delta),
        lambda offset, length: bytes(length),
        parse_header(delta)[0].base_bytes,
    )
    return list(applier.program.blocks())


def predictors_of(delta):
    return {
        one.predictor
        for block in blocks_of(delta)
        for one in block.instructions
        if isinstance(one, Elements)
    }


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(64, 48), (40, 3, 3, 8), (300,), (5, 2)], ids=str)
def test_a_retrained_layer_is_smaller_than_compressed(kind, shape):
    rng = np.random.default_rng(1)
    before = weights(rng, kind, shape)
    base, target = model({"w": before}), model({"w": retrained(rng, before)})
    made = encode(base, target)
    assert applied(made.content, base, target) == target
    if before.size > 1000:
        assert made.codec is Codec.TENSOR
        assert len(made.content) < 0.9 * made.costs["patch"]


def test_the_real_versions_of_the_demo():
    base = (ACTIVITY / "har_v1.onnx").read_bytes()
    target = (ACTIVITY / "har_v2.onnx").read_bytes()
    made = encode(base, target)
    assert applied(made.content, base, target) == target
    assert len(made.content) <= 1.15 * len(pack(target, base))  # a head of three classes


def test_sums_of_products_pay_where_training_made_them():
    rng = np.random.default_rng(2)
    before = weights(rng, "f32", (128, 128))
    low = sum(np.outer(*rng.standard_normal((2, 128))) for _ in range(3))
    after = (before + 0.01 * low + 0.0001 * rng.standard_normal((128, 128))).astype(np.float32)
    base, target = model({"w": before}), model({"w": after})
    made = encode(base, target)
    assert any(
        isinstance(one, Elements) and one.low_rank is not None
        for block in blocks_of(made.content)
        for one in block.instructions
    )
    without = encode(base, model({"w": (after - 0.01 * low + 0.02 * rng.standard_normal((128, 128))
                                        ).astype(np.float32)}))  # fmt: skip
    assert len(made.content) < 0.75 * len(without.content)


def test_a_bias_scale_that_is_a_product_costs_nothing():
    rng = np.random.default_rng(3)
    old, new = ((0.01 + rng.random(500) / 50).astype(np.float32) for _ in range(2))

    def file(scale, step):
        return model({"w_scale": scale, "b_quantized_scale": scale * np.float32(step)})

    base, target = file(old, 0.5), file(new, 0.1234567)
    one = encode(base, model({"w_scale": new, "b_quantized_scale": old * np.float32(0.5)}))
    both = encode(base, target)
    assert Predictor.PRODUCT in predictors_of(both.content)
    assert len(both.content) < len(one.content) + 60


def test_codes_follow_their_scales():
    rng = np.random.default_rng(4)
    real = rng.standard_normal((200, 40))
    old = (np.abs(real).max(axis=1) / 127).astype(np.float32)
    new = (old * rng.uniform(0.7, 1.0, 200)).astype(np.float32)

    def file(scale):
        codes = np.clip(np.round(real / scale[:, None]), -127, 127).astype(np.int8)
        return model({"w_scale": scale, "w_quantized": codes})

    made = encode(file(old), file(new))
    assert Predictor.RATIO in predictors_of(made.content)
    assert len(made.content) < 0.5 * made.costs["patch"]


def test_renamed_and_reordered_tensors_and_a_changed_graph():
    rng = np.random.default_rng(5)
    layers = {f"layer{n}": weights(rng, "f32", (60, 50)) for n in range(6)}
    base = model(layers)
    renamed = {f"renamed{n}": layers[f"layer{n}"] for n in (3, 1, 5, 0, 4, 2)}
    target = model(renamed, name="another", nodes=20)
    made = encode(base, target)
    assert applied(made.content, base, target) == target
    assert len(made.content) < 1500
    moved = {name: retrained(rng, array) for name, array in renamed.items()}
    again = encode(base, model(moved, nodes=20))
    assert len(again.content) < 0.85 * again.costs["patch"]


def test_large_tensors_are_cut_into_blocks():
    rng = np.random.default_rng(6)
    before = {
        "wide": weights(rng, "i8", (3, 100_000)),
        "tall": weights(rng, "f16", (4500, 70)),
        "last": weights(rng, "u8", (800, 200)),
        "flat": weights(rng, "i32", (300_000,)),
    }
    after = {name: retrained(rng, array) for name, array in before.items()}
    base, target = model(before), model(after)
    made = tensor_codec.encode_tensors(base, target)
    assert made is not None
    delta = encoder.write_delta(Codec.TENSOR, base, target, *made)
    assert len(blocks_of(delta)) > 4
    assert applied(delta, base, target) == target


def test_a_small_change_costs_a_small_delta():
    rng = np.random.default_rng(7)
    layers = {f"layer{n}": weights(rng, "f32", (100, 100)) for n in range(4)}
    base = model(layers)
    same = encode(base, base)
    assert len(same.content) < 64
    layers["layer2"] = layers["layer2"].copy()
    layers["layer2"][7, 7] += 1
    assert len(encode(base, model(layers)).content) < 250


SPECIAL = [0x0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFFFFFFFF, 0x1, 0x80000001,
           0x7F7FFFFF, 0x3F800000, 0x00800000]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_bit_of_odd_floats_comes_back(dtype):
    rng = np.random.default_rng(8)
    width = np.dtype(dtype).itemsize * 8
    bits = np.array(SPECIAL, np.uint64) >> (32 - width)
    integers = {32: np.uint32, 16: np.uint16}[width]
    before = rng.choice(bits, 4096).astype(integers).view(dtype).reshape(64, 64)
    after = rng.choice(bits, 4096).astype(integers).view(dtype).reshape(64, 64)
    for target_bits in (after, rng.integers(0, 2**width, 4096, np.uint64).astype(integers)):
        base = model({"w": before})
        target = model({"w": target_bits.view(dtype).reshape(64, 64)})
        made = tensor_codec.encode_tensors(base, target)
        assert made is not None
        delta = encoder.write_delta(Codec.TENSOR, base, target, *made)
        assert applied(delta, base, target) == target


@settings(max_examples=15, deadline=None)
@given(st.binary(max_size=600), st.binary(max_size=600))
def test_any_two_files(base, target):
    made = encode(base, target)
    assert applied(made.content, base, target) == target
    assert set(made.costs) <= {"whole", "patch", "tensor"}


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(
        st.tuples(st.sampled_from(sorted(TYPES)), st.lists(st.integers(1, 12), max_size=3)),
        min_size=1,
        max_size=4,
    ),
)
def test_any_two_models(seed, layers):
    rng = np.random.default_rng(seed)
    before = {f"l{n}": weights(rng, kind, shape or (9,)) for n, (kind, shape) in enumerate(layers)}
    after = {
        name: retrained(rng, array, step=float(rng.choice([0.001, 0.1, 10])))
        for name, array in before.items()
        if rng.random() < 0.9
    }
    base, target = model(before), model(after | {"new": weights(rng, "f32", (20,))})
    made = tensor_codec.encode_tensors(base, target)
    assert made is not None
    delta = encoder.write_delta(Codec.TENSOR, base, target, *made)
    assert applied(delta, base, target) == target


def test_a_tflite_file_is_cut_into_its_tensors():
    content = (TFLITE / "mobilenet.tflite").read_bytes()
    found = tflite_tensors(content)
    assert sum(tensor.length for tensor in found) > 0.8 * len(content)
    rng = np.random.default_rng(9)
    target = bytearray(content)
    for tensor in found:
        if tensor.length > 500 and tensor.kind.name in {"I8", "U8"}:
            array = np.frombuffer(content, np.int8, tensor.size, tensor.offset)
            noise = rng.integers(-1, 2, tensor.size).astype(np.int8)
            end = tensor.offset + tensor.length
            target[tensor.offset : end] = (array + noise).tobytes()
    made = tensor_codec.encode_tensors(content, bytes(target))
    assert made is not None
    delta = encoder.write_delta(Codec.TENSOR, content, bytes(target), *made)
    assert applied(delta, content, bytes(target)) == bytes(target)
    assert len(delta) < 0.6 * len(pack(bytes(target), content, level=9))


@pytest.mark.parametrize("walk", [lambda c: onnx_tensors(memoryview(c)), tflite_tensors])
def test_walks_of_damaged_files_stay_inside(walk):
    rng = np.random.default_rng(10)
    for content in (
        model({"w": weights(rng, "f32", (20, 20))}),
        (TFLITE / "hello_world_int8.tflite").read_bytes(),
    ):
        for _ in range(400):
            damaged = bytearray(content)
            for place in rng.integers(0, min(len(damaged), 600), 3):
                damaged[place] = rng.integers(256)
            for tensor in walk(bytes(damaged)):
                assert 0 <= tensor.offset <= len(damaged) - tensor.length


def test_files_beyond_the_bounds():
    with pytest.raises(ValueError, match="at most 10"):
        encode(b"x" * 11, b"y", DeltaLimits(file_bytes_max=10))
    made = encode(b"x" * 11, b"y" * 11, DeltaLimits(patch_bytes_max=10))
    assert set(made.costs) == {"whole"}


def test_a_wrong_delta_is_never_returned(monkeypatch):
    monkeypatch.setattr(encoder, "pack", lambda content, *_, **__: pack(content[::-1]))
    with pytest.raises((AssertionError, DeltaRefused)):
        encode(b"abc" * 50, b"abcd" * 50)


def test_what_is_held_is_bounded(monkeypatch):
    monkeypatch.setattr(tensor_codec, "HELD_BYTES_MAX", 100)
    rng = np.random.default_rng(11)
    before = weights(rng, "f32", (60, 60))
    low = np.outer(*rng.standard_normal((2, 60)))
    base = model({"w": before})
    target = model({"w": (before + 0.01 * low).astype(np.float32)})
    assert tensor_codec.encode_tensors(base, target) is None
    made = encode(base, target)
    assert made.codec is Codec.TENSOR  # without sums of products
    assert not any(isinstance(one, Elements) and one.low_rank for block in blocks_of(made.content)
                   for one in block.instructions)  # fmt: skip
    assert applied(made.content, base, target) == target


STEP_SIZES = {"f32": 2.0**-9, "f16": 3 / 512, "i8": 3, "u8": 2, "i32": 48}


@pytest.mark.parametrize("shape", [(64, 48), (40, 3, 3, 8), (300,), (50, 9)], ids=str)
@pytest.mark.parametrize("kind", STEP_SIZES)
def test_steps_are_found_and_cost_what_their_numbers_say(kind, shape):
    rng = np.random.default_rng(12)
    before = weights(rng, kind, shape)
    after = stepped(rng, before, STEP_SIZES[kind])
    base, target = model({"w": before}), model({"w": after})
    made = encode(base, target)
    assert applied(made.content, base, target) == target
    if kind in {"f32", "f16", "i32"}:
        assert Predictor.STEPS in predictors_of(made.content)
    counts = np.unique((after.astype(float) - before) // STEP_SIZES[kind], return_counts=True)[1]
    entropy = (counts * np.log2(after.size / counts)).sum() / 8
    assert len(made.content) < 1.15 * entropy + 150


@pytest.mark.parametrize("axis", [0, 1])
def test_each_row_may_have_steps_of_its_own_size(axis):
    rng = np.random.default_rng(13)
    before = weights(rng, "f32", (60, 60))
    sizes = np.ldexp(2.0 + rng.integers(0, 2, 60), rng.integers(-16, -6, 60))
    after = stepped(rng, np.moveaxis(before, axis, 0), sizes)
    base, target = (
        model({"w": before}),
        model({"w": np.ascontiguousarray(np.moveaxis(after, 0, axis))}),
    )
    made = encode(base, target)
    assert applied(made.content, base, target) == target
    assert Predictor.STEPS in predictors_of(made.content)
    assert len(made.content) < 0.12 * before.nbytes + 200


def test_a_step_too_many_is_no_step():
    """With one element elsewhere the tensor is coded as any other, and exact all the same."""
    rng = np.random.default_rng(14)
    before = weights(rng, "f32", (200, 200))
    after = stepped(rng, before, 2.0**-9)
    after[199, 199] += np.float32(0.0001)
    base, target = model({"w": before}), model({"w": after})
    made = encode(base, target)
    assert applied(made.content, base, target) == target
    for other in (np.full_like(after, np.nan), before + np.float32(np.inf), before * 0 + 1e30):
        assert (
            find_steps(Kind.F32, before.tobytes(), other.astype("<f4").view("<u4").ravel(), [])
            is None
        )


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["f32", "f16", "bf16", "i32", "i8", "u8"]),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(-300, 70), min_size=1, max_size=6),
)
def test_what_steps_make_is_what_the_page_says(kind, seed, parameters):
    """The arithmetic, against the scalar decoder, at every size and for every element."""
    rng = np.random.default_rng(seed)
    number = ["f32", "f16", "bf16", "i8", "u8", "i32"].index(kind)
    width = scalar_deltas.BITS[number] // 8
    content = rng.bytes(width * 4 * len(parameters))
    steps = rng.integers(-128, 128, 4 * len(parameters)).astype(np.int8)
    one = Elements(Kind(number), Predictor.STEPS, len(steps), inner=4, rows=len(parameters))
    made = apply_steps(one, content, steps.view("u1"), np.array(parameters, np.int16))
    span = {"kind": number, "before": content, "inner": 4, "rows": len(parameters), "p": parameters}
    wanted = [scalar_deltas.walk(span, n, int(step) % 256) for n, step in enumerate(steps)]
    assert made.tolist() == wanted


def test_a_base_that_is_larger_than_a_dictionary():
    """Of a base of more than 8 MiB only what lies between its tensors is the dictionary."""
    rng = np.random.default_rng(15)
    large = rng.integers(-100, 100, (3000, 3100)).astype(np.int8)
    before = {"large": large, "w": weights(rng, "f32", (80, 80)), "b": weights(rng, "f32", (70,))}
    after = before | {"w": retrained(rng, before["w"]), "b": stepped(rng, before["b"], 2.0**-9)}
    base, target = model(before, nodes=300), model(after, name="another", nodes=340)
    assert len(base) > DICTIONARY_BYTES_MAX
    made = encode(base, target, DeltaLimits(level=3))
    assert made.codec is Codec.TENSOR
    assert any(block.destination is Destination.DICTIONARY for block in blocks_of(made.content))
    assert len(made.content) < 0.9 * before["w"].nbytes
    frames = encoder._frames(target, lambda start: encoder._near(base, len(target), start), 1)
    patch = encoder.write_delta(Codec.PATCH, base, target, *frames(base))
    assert len(blocks_of(patch)) == 2
    assert applied(patch, base, target) == target


@pytest.mark.parametrize("shape", [(64, 48), (40, 3, 3, 8), (3,), (9,)], ids=str)
def test_bfloat16(shape):
    rng = np.random.default_rng(16)
    before = weights(rng, "f32", shape)
    files = [
        model({"w": (array.view(np.uint32) >> 16).astype(np.uint16).view(ml_dtypes.bfloat16)})
        for array in (before, retrained(rng, before), stepped(rng, before, 2.0**-6))
    ]
    for target in files[1:]:
        made = encode(files[0], target)
        assert applied(made.content, files[0], target) == target
        if before.size > 1000:
            assert made.codec is Codec.TENSOR
            assert len(made.content) < 0.9 * made.costs["patch"]
