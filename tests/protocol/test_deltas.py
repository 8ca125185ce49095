"""The delta format: its vectors, its bounds, and what hostile deltas come to."""

import hashlib
import json
import os
import random
from pathlib import Path

import pytest

from edgectl_delta.decoder import apply_bytes
from edgectl_delta.frames import pack, unpack
from edgectl_protocol.delta_programs import parse_header, parse_program, write_header, write_program
from edgectl_protocol.deltas import (
    FRAME_BYTES_MAX,
    KEYS,
    Block,
    Codec,
    Copy,
    Destination,
    Elements,
    Frame,
    Header,
    Held,
    Kind,
    LowRank,
    Predictor,
    Tables,
)
from edgectl_protocol.errors import DeltaRefused
from protocol import scalar_deltas

VECTORS = json.loads((Path(__file__).parent.parent / "vectors/deltas.json").read_text())
MUTATIONS = int(os.environ.get("EDGECTL_MUTATIONS", "800"))
"""Ten thousand and more were run; a suite has less time."""
BASE = bytes(range(256)) * 8
NO_TABLES = Tables({}, (), ())
ONE_TABLE = Tables({Kind.U8: (0,) * KEYS}, (Kind.U8,), ((4096,) + (0,) * 255,))
STEPS = Tables({Kind.I8: (0,) * KEYS}, (Kind.I8,), ((4096,) + (0,) * 255,))
TARGET, HELD = Destination.TARGET, Destination.HELD


def block(*instructions, to=TARGET, lanes=0, words=0, raw=0, parameters=0):
    return Block(to, lanes, words, raw, parameters, instructions)


def delta(blocks, target_bytes, tables=NO_TABLES, payload=b"", sha256=bytes(32)):
    program = write_program(tables, blocks)
    packed = pack(program)
    header = Header(
        Codec.TENSOR, hashlib.sha256(BASE).digest(), sha256, len(BASE), target_bytes,
        len(program), len(packed),
    )  # fmt: skip
    return write_header(header) + packed + payload


def refusal(content, base=BASE, sha256=bytes(32)):
    with pytest.raises(DeltaRefused) as caught:
        apply_bytes(content, base, sha256)
    return caught.value.code


def elements(size=8, **changes):
    return Elements(Kind.U8, Predictor.SAME, size, inner=size)._replace(**changes)


RANK = LowRank(0, 0, 2, 0, (0,))
HOLD = block(Copy(0, 64), to=HELD)
BIG = block(*[Copy(0, 2048)] * 3000, to=HELD)
SPAN = {"lanes": 1, "parameters": 2}
HOSTILE = [
    ("delta.range", [block(Copy(1000, 1049))], 1049, NO_TABLES),
    ("delta.range", [block(Copy(-1, 4))], 4, NO_TABLES),
    ("delta.range", [HOLD, block(Held(60, 5))], 5, NO_TABLES),
    ("delta.range", [block(Held(0, 1))], 1, NO_TABLES),
    ("delta.range", [block(Copy(0, 9), Held(0, 9), to=HELD)], 0, NO_TABLES),
    ("delta.range", [block(Frame(2000, 49, False, 9, 9))], 9, NO_TABLES),
    ("delta.range", [block(elements(offset=2041), **SPAN)], 8, ONE_TABLE),
    ("delta.malformed", [block(elements(), **SPAN)], 8, NO_TABLES),
    ("delta.malformed", [block(Copy(0, 0))], 0, NO_TABLES),
    ("delta.malformed", [block(Copy(0, 9))], 10, NO_TABLES),
    ("delta.malformed", [block(Copy(0, 9))], 8, NO_TABLES),
    ("delta.limit", [BIG] * 2, 0, NO_TABLES),
    ("delta.limit", [block(Frame(0, 8, False, 9, FRAME_BYTES_MAX + 1))], 9, NO_TABLES),
    ("delta.limit", [block(elements(2000), **SPAN)] * 60, 120_000, ONE_TABLE),
    ("delta.limit", [block(elements(), parameters=2)], 8, ONE_TABLE),
    ("delta.limit", [block(*[Frame(0, 2048, False, 9, 1)] * 3000)] * 11, 33_000, NO_TABLES),
    ("delta.range", [HOLD, block(
        elements(predictor=Predictor.RATIO, inner=4, rows=2, scale=2045), **SPAN)], 8, ONE_TABLE),
    ("delta.range", [HOLD, block(
        elements(predictor=Predictor.RATIO, inner=4, rows=2, held=60), **SPAN)], 8, ONE_TABLE),
    ("delta.malformed", [HOLD, block(
        elements(predictor=Predictor.PRODUCT), **SPAN)], 8, ONE_TABLE),
    ("delta.range", [block(elements(
        predictor=Predictor.ROWS, inner=4, rows=2, low_rank=RANK), **SPAN)], 8, ONE_TABLE),
    ("delta.malformed", [HOLD, block(elements(
        predictor=Predictor.ROWS, inner=3, rows=2, low_rank=RANK), **SPAN)], 8, ONE_TABLE),
    ("delta.malformed", [HOLD, block(elements(
        predictor=Predictor.ROWS, inner=4, rows=2, low_rank=RANK._replace(first=1)), **SPAN)],
        8, ONE_TABLE),
    ("delta.limit", [HOLD, block(elements(
        predictor=Predictor.ROWS, inner=4, rows=2, low_rank=RANK._replace(exponent=999)),
        **SPAN)], 8, ONE_TABLE),
    ("delta.limit", [HOLD, block(elements(
        predictor=Predictor.ROWS, inner=4, rows=2, low_rank=RANK._replace(shifts=(16,))),
        **SPAN)], 8, ONE_TABLE),
    ("delta.range", [block(elements(predictor=Predictor.STEPS, offset=2041), **SPAN)], 8, STEPS),
    ("delta.malformed", [block(elements(predictor=Predictor.STEPS), **SPAN)], 8, ONE_TABLE),
    ("delta.range", [block(elements(
        predictor=Predictor.STEPS, inner=4, rows=2, low_rank=RANK), **SPAN)], 8, STEPS),
    ("delta.malformed", [block(Copy(0, 8))], 8, ONE_TABLE._replace(
        frequencies=((4095,) + (0,) * 255,))),
    ("delta.malformed", [block(Copy(0, 8))], 8, ONE_TABLE._replace(
        maps={Kind.U8: (1,) * KEYS})),
    ("delta.malformed", [block(Copy(0, 8))], 8, ONE_TABLE._replace(
        maps={Kind.F32: (0,) * KEYS})),
]  # fmt: skip


@pytest.mark.parametrize(("code", "blocks", "length", "tables"), HOSTILE)
def test_programs_that_lie_are_refused_before_anything_is_made(code, blocks, length, tables):
    lying = delta(blocks, length, tables)
    header, _ = parse_header(lying)
    with pytest.raises(DeltaRefused) as caught:
        parse_program(write_program(tables, blocks), header)
    assert caught.value.code == code
    assert refusal(lying) == code


def test_a_bomb_is_stopped_at_the_length_that_was_announced():
    bomb = pack(bytes(FRAME_BYTES_MAX))
    made = delta([block(Frame(0, 0, False, len(bomb), 100))], 100, payload=bomb)
    assert refusal(made) == "delta.limit"
    program = pack(bytes(10_000_000))
    header = parse_header(delta([], 0))[0]._replace(program_bytes=9, packed_bytes=len(program))
    assert refusal(write_header(header) + program) == "delta.limit"


def test_frames_that_are_none():
    for payload in (b"", b"x" * 30, pack(b"y" * 99)[:-1], pack(b"y" * 99) + b"z", pack(b"y")):
        made = delta([block(Frame(0, 0, False, len(payload), 99))], 99, payload=payload)
        assert refusal(made) in {"delta.malformed", "delta.truncated"}


def test_other_versions_and_files():
    right = delta([block(Copy(0, 8))], 8, sha256=hashlib.sha256(BASE[:8]).digest())
    sha256 = hashlib.sha256(BASE[:8]).digest()
    assert apply_bytes(right, BASE, sha256) == BASE[:8]
    assert refusal(b"EDLT\x02" + right[5:]) == "delta.version"
    assert refusal(b"PK\x03\x04" + right[4:]) == "delta.malformed"
    assert refusal(right, BASE[:-1], sha256) == "delta.base"
    assert refusal(right, bytes(len(BASE)), sha256) == "delta.base"
    assert refusal(right, BASE, bytes(32)) == "delta.target"
    # The header's digest is a name: what decides is the signed one.
    alike = sha256[:8] + bytes(24)
    assert refusal(right, BASE, alike) == "delta.target"
    assert refusal(right + b"x", BASE, sha256) == "delta.malformed"


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_vectors(case):
    base, content = bytes.fromhex(case["base_hex"]), bytes.fromhex(case["delta_hex"])
    target = bytes.fromhex(case["target_hex"])
    assert apply_bytes(content, base, hashlib.sha256(target).digest()) == target
    assert scalar_deltas.apply(content, base) == target  # written from the page alone


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_every_truncation_is_refused_by_name(case):
    base, content = bytes.fromhex(case["base_hex"]), bytes.fromhex(case["delta_hex"])
    sha256 = hashlib.sha256(bytes.fromhex(case["target_hex"])).digest()
    for length in range(0, len(content), 1 + len(content) // 60):
        assert refusal(content[:length], base, sha256).startswith("delta.")


def test_mutations_are_refused_or_harmless():
    chance = random.Random(31)
    outcomes: dict[str, int] = {}
    cases = [
        (bytes.fromhex(case["base_hex"]), bytes.fromhex(case["delta_hex"]),
         bytes.fromhex(case["target_hex"]))
        for case in VECTORS["cases"]
    ]  # fmt: skip
    for number in range(MUTATIONS):
        base, content, target = cases[number % len(cases)]
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 1, 2, 5))):
            place = chance.randrange(len(damaged))
            match chance.randrange(4):
                case 0:
                    damaged[place] = chance.randrange(256)
                case 1:
                    damaged[place] ^= 1 << chance.randrange(8)
                case 2:
                    del damaged[place : place + chance.randrange(1, 5)]
                case 3:
                    damaged[place:place] = chance.randbytes(chance.randrange(1, 5))
            damaged = damaged or bytearray(b"E")
        outcome = _outcome(bytes(damaged), base, target)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert sum(outcomes.values()) == MUTATIONS
    assert {"delta.malformed", "delta.truncated", "delta.target"} <= outcomes.keys()


def test_mutated_programs_behind_a_right_frame():
    """The frame of the program would catch most: here the program itself is damaged."""
    chance = random.Random(32)
    outcomes = set()
    for number in range(MUTATIONS // 4):
        case = VECTORS["cases"][number % len(VECTORS["cases"])]
        base, content = bytes.fromhex(case["base_hex"]), bytes.fromhex(case["delta_hex"])
        target = bytes.fromhex(case["target_hex"])
        header, start = parse_header(content)
        program = bytearray(unpack(content[start : start + header.packed_bytes],
                                   header.program_bytes))  # fmt: skip
        for _ in range(chance.choice((1, 2))):
            program[chance.randrange(len(program))] = chance.choice(
                (0, 1, 127, 128, 255, chance.randrange(256))
            )
        packed = pack(bytes(program))
        damaged = write_header(header._replace(packed_bytes=len(packed)))
        damaged += packed + content[start + header.packed_bytes :]
        outcomes.add(_outcome(damaged, base, target))
    assert {"delta.malformed", "delta.range", "delta.limit"} <= outcomes


def _outcome(damaged, base, target):
    try:
        made = apply_bytes(damaged, base, hashlib.sha256(target).digest())
    except DeltaRefused as error:
        return error.code
    assert made == target  # a field that decides nothing, such as the codec
    return "made"
