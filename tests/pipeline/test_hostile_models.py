"""Damaged and twisted files through the real child: an outcome with a code, and nothing left."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import onnx
import psutil
import pytest
from benchmarks import hostile_models

from edgectl_server.pipeline import errors
from pipeline import crafted

COUNT, SEED = 40, 11
MIB = 1024**2


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return hostile_models.sources(tmp_path_factory.mktemp("sources"))


def give_all(files, folder):
    """Give the files, two at a time, as the benchmark does; return the outcomes in order."""

    def give(numbered):
        number, one = numbered
        here = folder / str(number)
        here.mkdir()
        return hostile_models.give(one, here)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(give, enumerate(files)))


def test_mutated_files_end_with_a_code_and_leave_nothing(sources, tmp_path):
    files = list(hostile_models.mutated(sources, COUNT, SEED))
    me = psutil.Process()
    others = set(me.children(recursive=True))  # a broker for the whole session, such as that
    give_all(files[:1], tmp_path)
    before = me.memory_info().rss
    (tmp_path / "all").mkdir()
    outcomes = give_all(files, tmp_path / "all")
    assert [one.mutation for one in outcomes] == [one.mutation for one in files]
    for one in outcomes:
        assert one.code == "accepted" or f"``{one.code}``" in errors.__doc__, one
    assert {one.code for one in outcomes} > {"model.damaged", "model.invalid"}, "they reach deep"
    limit_s = hostile_models.LIMITS.wall_s + hostile_models.GRACE_S
    assert max(one.seconds for one in outcomes) < limit_s
    assert set(me.children(recursive=True)) - others == set()
    assert me.memory_info().rss - before < 64 * MIB


def test_the_same_seed_makes_the_same_files(sources):
    first, again, other = (
        list(hostile_models.mutated(sources, 22, seed)) for seed in (SEED, SEED, SEED + 1)
    )
    assert first == again
    assert first != other
    assert {one.mutation for one in first} == set(hostile_models.MUTATIONS)
    sound = {source.content for source in sources}
    assert sum(one.content in sound for one in first) < len(first) / 4, "they do change something"


@pytest.mark.parametrize("code", sorted({code for _, code in crafted.HOSTILE}))
def test_crafted_models_end_with_their_code(sources, tmp_path, code):
    files = [
        dataclasses.replace(
            hostile_models.Mutated(make.__name__, b"", sources[0].samples),
            content=make().SerializeToString(),
        )
        for make, expected in crafted.HOSTILE
        if expected == code
    ]
    assert {one.code for one in give_all(files, tmp_path)} == {code}


def test_a_sound_model_is_accepted(sources, tmp_path):
    """What refuses everything would pass the tests above."""
    sound = hostile_models.Mutated("none", sources[0].content, sources[0].samples)
    assert onnx.ModelProto.FromString(sound.content).graph.node
    (outcome,) = give_all([sound], tmp_path)
    assert outcome.code == "accepted"
