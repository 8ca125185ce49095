"""Tasks: whatever one of them does, it alone ends, and the others go on."""

import ctypes
import faulthandler
import os
import time

import psutil
import pytest
from msgspec import Struct

from edgectl_server.pipeline.errors import PipelineFailed, PipelineRefused
from edgectl_server.pipeline.spec import OUTCOME_BYTES_MAX, PipelineLimits
from edgectl_server.pipeline.tasks import Task, run_all, run_one

LIMITS = PipelineLimits()


class Answer(Struct, frozen=True):
    text: str


def crash():
    faulthandler.disable()  # it would tell of this crash as of one of the tests' own
    ctypes.string_at(0)


def hang():
    while True:
        time.sleep(60)  # the task's own, not a test's


def refuse():
    raise PipelineRefused("model.shape", "crooked", "straighten it", {"a": 1})


def lose_memory():
    raise MemoryError


def lose_the_disk():
    raise OSError(28, "No space left on device")


def fail():
    raise ValueError("x" * 10_000)


def flood():
    return Answer("x" * (OUTCOME_BYTES_MAX + 1))


def nonsense():
    return [1, 2, 3]


ENDS = [
    (crash, PipelineFailed, "pipeline.crashed", "SIGSEGV"),
    (hang, PipelineFailed, "pipeline.time", "0.5 s"),
    (refuse, PipelineRefused, "model.shape", "crooked"),
    (lose_memory, PipelineFailed, "pipeline.memory", "MiB"),
    (lose_the_disk, PipelineFailed, "pipeline.disk", "No space left"),
    (fail, PipelineFailed, "pipeline.step", "ValueError: xxx"),
    (flood, PipelineFailed, "pipeline.time", "wrote more"),
    (nonsense, PipelineFailed, "pipeline.crashed", "readable"),
    (lambda: os._exit(7), PipelineFailed, "pipeline.crashed", "exit code 7"),
]


def children():
    return psutil.Process().children()


@pytest.mark.parametrize(("call", "kind", "code", "says"), ENDS)
def test_how_a_task_ends(call, kind, code, says):
    before = children()
    with pytest.raises(kind) as caught:
        run_one(Task("bad", call, Answer), LIMITS, seconds_max=0.5 if call is hang else 60)
    assert caught.value.code == code
    assert says in caught.value.detail
    assert len(caught.value.detail) < 1000
    assert children() == before


def test_others_go_on_beside_it():
    tasks = [Task(str(n), call, Answer) for n, (call, *_) in enumerate(ENDS) if call is not hang]
    tasks += [Task(f"good {n}", lambda n=n: Answer(f"{n}"), Answer) for n in range(4)]
    ended = {done.task.name: done for done in run_all(tasks, LIMITS, workers=3, seconds_max=60)}
    assert len(ended) == len(tasks)
    assert [ended[f"good {n}"].value for n in range(4)] == [Answer(f"{n}") for n in range(4)]


def test_no_more_than_asked_for_run_at_a_time():
    begun = []

    def tasks():
        for number in range(6):
            begun.append(number)
            yield Task(str(number), lambda: Answer("x"), Answer)

    before = len(children())
    for ended, _ in enumerate(run_all(tasks(), LIMITS, workers=2, seconds_max=5), start=1):
        assert len(children()) - before <= 2
        assert len(begun) <= ended + 1


def test_who_stops_listening_leaves_nothing_behind():
    before = children()
    tasks = [Task("good", lambda: Answer("x"), Answer), Task("hang", hang, Answer)]
    ended = run_all(tasks, LIMITS, workers=2, seconds_max=30)
    assert next(ended).task.name == "good"
    ended.close()
    assert children() == before
