"""Copies of live requests: they show what they must, and never stand in the way."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.inference.models import Client, make_bundle
from agent.inference.scoring import BODY, X, scoring, slow_scoring
from edgectl_agent.bundle import Bundle
from edgectl_agent.core.evidence import Copies, Evidence
from edgectl_agent.inference.control import LINE_BYTES_MAX, SlotHealth
from edgectl_agent.inference.errors import LoadFailed, SlotEmpty
from edgectl_agent.inference.mirror import QUEUE_MAX, Mirror
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.inference.pulse import Place, Pulse
from edgectl_agent.inference.served import Served
from edgectl_agent.runtime import Model, RunFailed, Stop, Tensor
from waiting import wait_for

INFER = "/v2/models/scoring/infer"


def ask(client: Client, times: int = 1, body: bytes = BODY) -> str:
    for _ in range(times):
        status, answer = client.call("POST", INFER, body)
        assert status == 200, answer
    return str(answer["parameters"]["manifest"])


def settled(process: InferenceProcess, chosen: int) -> Copies:
    """Return what copies have shown once `chosen` requests were copied or skipped."""

    def look() -> Copies | None:
        copies = process.health("scoring").copies
        assert copies is not None
        return copies if copies.runs + copies.skipped >= chosen else None

    found = wait_for(look)
    assert found is not None
    return found


def one_by_one(process: InferenceProcess, client: Client, times: int) -> Copies:
    """Ask again when the copy before was done, so that none is skipped for want of a place."""
    for number in range(1, times + 1):
        ask(client)
        copies = settled(process, number)
    return copies


# ---------------------------------------------------------------- what copies show


def test_a_candidate_that_gives_the_same_answers(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    old, new = scoring(tmp_path, "1"), scoring(tmp_path, "2", factor=2.0)
    process.load(old)
    swap = process.accompany(new, share=1.0, cpu_max=1.0)
    assert swap.resident
    copies = one_by_one(process, client, 10)
    assert (copies.runs, copies.errors, copies.agreed, copies.skipped) == (10, 0, 10, 0)
    assert (copies.classes, sum(copies.latency)) == ((0, 0, 10), 10)
    seen = process.health("scoring")
    assert (seen.manifest, seen.requests, seen.companion) == (old.manifest, 10, new.manifest)
    assert seen.comparable
    windows = [(one.manifest, one.requests) for one in process.windows()]
    assert windows == [(old.manifest, 10)], "copies are no requests"
    assert process.load(new) == 0.0, "the candidate is there already"
    assert ask(client) == new.manifest
    assert process.health("scoring").requests == 1, "what it did as a shadow counts no more"


@pytest.mark.parametrize(
    ("name", "agreed", "non_finite"),
    [("other class", 0, 0), ("NaN", 0, 5), ("other scale", 5, 0)],
)
def test_what_candidates_are_found_to_do(
    process: InferenceProcess,
    client: Client,
    tmp_path: Path,
    *,
    name: str,
    agreed: int,
    non_finite: int,
) -> None:
    factor = {"other class": -1.0, "NaN": float("nan"), "other scale": 100.0}[name]
    process.load(scoring(tmp_path, "1"))
    process.accompany(scoring(tmp_path, "2", factor=factor), share=1.0, cpu_max=1.0)
    copies = one_by_one(process, client, 5)
    assert (copies.runs, copies.agreed, copies.non_finite) == (5, agreed, non_finite)


def test_without_the_same_labels_outputs_are_compared(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    process.load(scoring(tmp_path, "1"))
    process.accompany(scoring(tmp_path, "2", labels=("a", "b", "c")), share=1.0, cpu_max=1.0)
    assert one_by_one(process, client, 3).agreed == 3
    assert not process.health("scoring").comparable
    process.accompany(
        scoring(tmp_path, "3", factor=2.0, labels=("a", "b", "c")), share=1.0, cpu_max=1.0
    )
    assert one_by_one(process, client, 3).agreed == 0, "the same class, and other scores"


def test_what_served_before_gets_copies_too(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    old, new = scoring(tmp_path, "1"), scoring(tmp_path, "2", factor=-1.0)
    process.load(old)
    assert not process.mirror("scoring", share=1.0, cpu_max=1.0), "nothing is there"
    process.load(new)
    assert process.health("scoring").copies is None
    assert process.mirror("scoring", share=1.0, cpu_max=1.0)
    copies = one_by_one(process, client, 4)
    assert (copies.runs, copies.agreed) == (4, 0)
    assert not process.mirror("scoring", share=0.0, cpu_max=1.0)
    assert process.health("scoring").copies is None
    assert process.health("scoring").companion == old.manifest
    assert process.exchange({"scoring": old.manifest}) is not None


def test_a_candidate_with_other_inputs_gets_no_copies(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    process.load(scoring(tmp_path, "1"))
    process.accompany(make_bundle(tmp_path, slot="scoring", version="2"), share=1.0, cpu_max=1.0)
    ask(client, 3)
    copies = settled(process, 3)
    assert (copies.runs, copies.skipped) == (0, 3)


def test_only_a_share_is_copied_and_only_within_the_budget(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    process.load(scoring(tmp_path, "1"))
    process.accompany(scoring(tmp_path, "2"), share=0.0, cpu_max=1.0)
    ask(client, 20)
    assert process.health("scoring").copies is None, "a share of nothing is no mirror"
    process.accompany(scoring(tmp_path, "2"), share=1.0, cpu_max=0.0)
    ask(client, 20)
    assert settled(process, 20).skipped == 20, "there is nothing to spend"
    process.accompany(scoring(tmp_path, "2"), share=0.5, cpu_max=1.0)
    ask(client, 200)
    copies = wait_for(lambda: process.health("scoring").copies)
    assert copies is not None
    chosen = copies.runs + copies.skipped
    assert 40 < chosen < 160, "200 tosses of a coin"


def test_a_slow_candidate_spends_what_it_may(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    """A copy takes some 100 ms of processor time, of which a hundredth of a core may be used."""
    process.load(scoring(tmp_path, "1"))
    process.accompany(slow_scoring(tmp_path, "2"), share=1.0, cpu_max=0.01)
    body = BODY.replace(b"[1.0,2.0,3.0]", b"[300000.0,2.0,3.0]")
    began = time.monotonic()
    ask(client, 1, body)
    settled(process, 1)
    ask(client, 100, body)
    copies = settled(process, 1 + 100)
    spent_s = 1.0 + (time.monotonic() - began)  # of a budget that earns 10 ms a second
    assert copies.runs <= 2 + spent_s * 0.01 / 0.005, copies
    assert copies.skipped >= 90


def test_a_candidate_needs_somebody_to_accompany(process: InferenceProcess, tmp_path: Path) -> None:
    with pytest.raises(SlotEmpty):
        process.accompany(scoring(tmp_path, "1"), share=1.0, cpu_max=1.0)
    process.load(scoring(tmp_path, "1"))
    bad = msgspec.structs.replace(scoring(tmp_path, "2"), model=str(tmp_path / "none.onnx"))
    with pytest.raises(LoadFailed) as failed:
        process.accompany(bad, share=1.0, cpu_max=1.0)
    assert (failed.value.code, failed.value.slot) == ("load.unreadable", "scoring")


# ---------------------------------------------------------------- what must not happen


class Held:
    """A companion whose runs wait until they are let go; it cannot be stopped."""

    def __init__(self, served: Served) -> None:
        self.model: Any = self
        self.config = served.model.config
        self.threads = 1
        self.counts, self.name = served.counts, served.name
        self.go = threading.Event()
        self.inside = threading.Semaphore(0)
        self.fails = False

    def run(self, inputs: Mapping[str, Tensor], stop: Stop | None = None) -> dict[str, Tensor]:
        self.inside.release()
        assert self.go.wait(60)
        if self.fails or (stop is not None and stop.is_set()):
            raise RunFailed("it was told to")
        return {"y": inputs["x"]}


@pytest.fixture
def served(tmp_path: Path) -> tuple[Bundle, Model]:
    bundle = scoring(tmp_path, "1")
    return bundle, Model(bundle)


def offer(mirror: Mirror, count: int = 1) -> None:
    for _ in range(count):
        mirror.offer({"x": X}, {"y": X}, finite=True)


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - a level that nobody announces, with a bound
            await asyncio.sleep(0.005)


def test_a_copy_is_handed_over_after_the_answer(served: tuple[Bundle, Model]) -> None:
    """Whatever the loop has to do for the answer, in however many turns, comes first."""

    async def run() -> list[str]:
        one = Served(served[1], 0.0)
        held, pulse, told = Held(one), Pulse(), list[str]()
        held.go.set()
        mirror = Mirror(one, held, pulse, share=1.0, cpu_max=1.0)
        right = held.run

        def noting(inputs: Mapping[str, Tensor], stop: Stop | None = None) -> dict[str, Tensor]:
            told.append("copy")
            return right(inputs, stop)

        held.run = noting  # type: ignore[method-assign]
        loop = asyncio.get_running_loop()
        offer(mirror)
        loop.call_soon(lambda: loop.call_soon(lambda: loop.call_soon(told.append, "answer")))
        await until(lambda: "copy" in told)
        assert await mirror.close(5)
        return told

    assert asyncio.run(run()) == ["answer", "copy"]


def test_a_companion_that_is_busy_gets_no_more(served: tuple[Bundle, Model]) -> None:
    async def run() -> None:
        one = Served(served[1], 0.0)
        held = Held(one)
        mirror = Mirror(one, held, Pulse(), share=1.0, cpu_max=1.0)
        offer(mirror, 50)
        assert mirror.copies().skipped == 50 - QUEUE_MAX
        held.go.set()
        await until(lambda: mirror.copies().runs == QUEUE_MAX)
        assert await mirror.close(5)
        offer(mirror, 3)
        assert mirror.copies().skipped == 50 - QUEUE_MAX, "closed: nothing is chosen any more"

    asyncio.run(run())


def test_a_companion_that_cannot_be_stopped_is_left_behind(served: tuple[Bundle, Model]) -> None:
    async def run() -> None:
        one, pulse = Served(served[1], 0.0), Pulse()
        held = Held(one)
        mirror = Mirror(one, held, pulse, share=1.0, cpu_max=1.0, run_seconds_max=0.1)
        offer(mirror)
        await until(lambda: mirror.copies().hung)
        assert mirror.copies().errors == 1
        assert pulse.computing(Place.MIRROR) == (one.bundle.manifest,)
        offer(mirror, 2)
        assert mirror.copies().skipped == 2
        assert not await mirror.close(0.1), "it may be neither freed nor used"
        held.go.set()

    asyncio.run(run())


def test_a_companion_that_fails_is_counted_alone(served: tuple[Bundle, Model]) -> None:
    async def run() -> None:
        one = Served(served[1], 0.0)
        held = Held(one)
        held.fails = True
        held.go.set()
        mirror = Mirror(one, held, Pulse(), share=1.0, cpu_max=1.0)
        offer(mirror, 2)
        await until(lambda: mirror.copies().runs == 2)
        assert (mirror.copies().errors, mirror.copies().agreed) == (2, 0)
        assert one.counts.totals("").errors == 0
        assert await mirror.close(5)

    asyncio.run(run())


def test_what_is_shared_memory_is_copied_before_the_answer(served: tuple[Bundle, Model]) -> None:
    """The caller may write there again as soon as it has its answer."""

    async def run() -> None:
        one = Served(served[1], 0.0)
        held, seen = Held(one), list[Tensor]()
        held.go.set()
        mirror = Mirror(one, held, Pulse(), share=1.0, cpu_max=1.0)
        right = held.run
        held.run = lambda inputs, stop=None: seen.append(inputs["x"]) or right(inputs, stop)  # type: ignore[method-assign,func-returns-value]
        theirs = memoryview(bytearray(X.tobytes()))
        given = np.frombuffer(theirs, np.float32).reshape(1, 3)
        mirror.offer({"x": given}, {"y": X}, finite=True)
        theirs[:] = bytes(len(theirs))
        await until(lambda: seen)
        assert seen[0].tolist() == X.tolist()
        assert await mirror.close(5)

    asyncio.run(run())


def test_a_candidate_that_hangs_is_stopped_while_all_others_are_answered(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    old, hanging = scoring(tmp_path, "1"), slow_scoring(tmp_path, "2")
    process.load(old)
    process.accompany(hanging, share=1.0, cpu_max=1.0)
    endless = BODY.replace(b"[1.0,2.0,3.0]", b"[1e15,2.0,3.0]")
    for _ in range(60):
        assert ask(client, 1, endless) == old.manifest
    wait_for(lambda: process._pulse.computing(Place.MIRROR) == (hanging.manifest,))
    process.release("scoring")
    wait_for(lambda: process.health("scoring").companion == "")
    wait_for(lambda: process._pulse.computing(Place.MIRROR) == ())
    assert ask(client) == old.manifest


def test_a_candidate_that_crashes_is_the_suspect(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    """The process dies with it, as of a segmentation fault in the runtime."""
    old, bad = scoring(tmp_path, "1"), slow_scoring(tmp_path, "2")
    process.load(old)
    process.accompany(bad, share=1.0, cpu_max=1.0)
    ask(client, 1, BODY.replace(b"[1.0,2.0,3.0]", b"[1e15,2.0,3.0]"))
    wait_for(lambda: process._pulse.computing(Place.MIRROR))
    child = process._child
    assert child is not None
    os.kill(child.pid, signal.SIGSEGV)
    wait_for(lambda: not process.alive())
    death = process.death()
    assert (death.suspects, death.hung) == ((bad.manifest,), False)
    assert "SIGSEGV" in death.detail


def test_the_counts_of_both_fit_one_line() -> None:
    """1,024 classes and all bins of everything, at their longest."""
    bins, classes = (2**53,) * 42, (2**53,) * 1024
    health = SlotHealth(
        manifest="sha256:" + "0" * 64,
        latency=bins,
        classes=classes,
        before=Evidence(manifest="sha256:" + "0" * 64, latency=bins, classes=classes),
        copies=Copies(latency=bins, classes=classes),
    )
    assert len(msgspec.json.encode(health)) < LINE_BYTES_MAX // 10
