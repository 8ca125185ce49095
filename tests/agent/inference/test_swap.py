"""One model takes another's place, in a real process, under real requests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.inference.encrypted import encrypt_bundle
from agent.inference.models import Client, infinite_loop, make_bundle
from agent.inference.scoring import BODY, scoring
from edgectl_agent.inference.connection import Answer, Request
from edgectl_agent.inference.errors import LoadFailed, SlotEmpty
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.inference.routes import Routes
from edgectl_agent.inference.service import Service, Shares
from edgectl_agent.inference.slots import Slots
from edgectl_protocol.messages import SLOTS_MAX
from waiting import wait_for

ONE = np.ones((1, 1), np.float32)
NO_ROOM = 1 << 60
"""A reserve that no machine has: two models never fit."""


def ask(client: Client, slot: str = "scoring") -> str:
    """Return the manifest that answers."""
    status, answer = client.call("POST", f"/v2/models/{slot}/infer", BODY)
    assert status == 200, answer
    return str(answer["parameters"]["manifest"])


@contextmanager
def clients(
    process: InferenceProcess, work: Callable[[Client], object], count: int = 3
) -> Iterator[Callable[[int], None]]:
    """Let clients work on connections of their own; yields what waits for so many rounds more."""
    stop, rounds, errors = threading.Event(), [0], list[Exception]()

    def run() -> None:
        client = Client(process.endpoint)
        try:
            while not stop.is_set():
                work(client)
                rounds[0] += 1
        except (AssertionError, OSError) as error:
            errors.append(error)
        client.close()

    def more(count: int) -> None:
        before = rounds[0]
        wait_for(lambda: errors or rounds[0] >= before + count)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield more
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not errors, errors


def roomless(tmp_path: Path) -> InferenceProcess:
    process = InferenceProcess(
        host="127.0.0.1", port=0, socket=None, log=tmp_path / "log", reserve_bytes=NO_ROOM
    )
    process.start()
    return process


def test_every_connection_sees_each_swap_once(process: InferenceProcess, tmp_path: Path) -> None:
    """Answers name the old model, then the new one, and never the old one again."""
    bundles = [scoring(tmp_path, str(number)) for number in range(12)]
    order = {bundle.manifest: number for number, bundle in enumerate(bundles)}
    newest = threading.local()

    def work(client: Client) -> None:
        number = order[ask(client)]
        assert number >= getattr(newest, "number", 0), "the old model answered again"
        newest.number = number

    process.load(bundles[0])
    with clients(process, work) as more:
        for bundle in bundles[1:]:
            more(100)
            swap = process.switch((bundle,))["scoring"]
            assert swap.load_ms > 0
            assert (swap.gap_ms, swap.resident) == (0.0, True)
        more(100)
    served = sum(window.requests for window in process.windows())
    assert served > 12 * 100


def test_slots_that_belong_together_switch_together(
    process: InferenceProcess, tmp_path: Path
) -> None:
    """Who has an answer of the new detector gets one of the new classifier."""
    pairs = [
        tuple(scoring(tmp_path, str(number), slot=slot) for slot in ("detector", "classifier"))
        for number in range(8)
    ]
    order = {one.manifest: number for number, pair in enumerate(pairs) for one in pair}

    def work(client: Client) -> None:
        first = order[ask(client, "detector")]
        assert order[ask(client, "classifier")] >= first

    process.switch(pairs[0])
    with clients(process, work) as more:
        for pair in pairs[1:]:
            more(60)
            assert set(process.switch(pair)) == {"detector", "classifier"}
        more(60)


def test_one_that_does_not_load_keeps_the_others_back(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    first, second = scoring(tmp_path, "1", slot="a"), scoring(tmp_path, "1", slot="b")
    process.switch((first, second))
    broken = msgspec.structs.replace(
        scoring(tmp_path, "2", slot="b"), model=str(tmp_path / "none.onnx")
    )
    with pytest.raises(LoadFailed) as failed:
        process.switch((scoring(tmp_path, "2", slot="a"), broken))
    assert (failed.value.code, failed.value.slot) == ("load.unreadable", "b")
    assert (ask(client, "a"), ask(client, "b")) == (first.manifest, second.manifest)


# ---------------------------------------------------------------- the companion


def test_what_served_before_is_ready_to_serve_again(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    old, new = scoring(tmp_path, "1"), scoring(tmp_path, "2")
    process.load(old)
    assert process.exchange({"scoring": old.manifest}) is None
    for _ in range(3):
        ask(client)
    process.load(new)
    ask(client)
    seen = process.health("scoring")
    assert (seen.manifest, seen.requests, seen.companion) == (new.manifest, 1, old.manifest)
    assert seen.before is not None
    assert (seen.before.manifest, seen.before.requests) == (old.manifest, 3)
    assert sum(seen.before.latency) == 3
    assert seen.before.classes == (0, 0, 3)
    assert seen.comparable

    Path(old.model).unlink()  # nothing is read for this
    swaps = process.exchange({"scoring": old.manifest})
    assert swaps is not None
    assert (swaps["scoring"].load_ms, swaps["scoring"].resident) == (0.0, True)
    assert ask(client) == old.manifest
    seen = process.health("scoring")
    assert (seen.manifest, seen.requests) == (old.manifest, 1), "it counts anew"

    assert process.load(new) == 0.0, "what is there is not loaded"
    assert ask(client) == new.manifest
    process.release("scoring")
    wait_for(lambda: process.health("scoring").companion == "")
    assert process.health("scoring").before is None
    assert process.exchange({"scoring": old.manifest}) is None
    windows: dict[str, int] = {}  # what was released is told of once it has been freed

    def told() -> bool:
        windows.update((one.manifest, one.requests) for one in process.windows())
        return len(windows) > 1

    wait_for(told)
    assert windows == {old.manifest: 4, new.manifest: 2}


def test_a_group_is_exchanged_whole_or_not(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    olds = [scoring(tmp_path, "1", slot=slot) for slot in ("a", "b")]
    news = [scoring(tmp_path, "2", slot=slot) for slot in ("a", "b")]
    process.switch(olds)
    process.switch(news)
    process.release("b")
    before = {one.slot: one.manifest for one in olds}
    assert process.exchange(before) is None
    assert ask(client, "a") == news[0].manifest
    process.switch(olds)  # one is there, the other is loaded
    assert (ask(client, "a"), ask(client, "b")) == tuple(before.values())


# ---------------------------------------------------------------- no room for two


def test_requests_wait_while_memory_forbids_two_models(tmp_path: Path) -> None:
    process = roomless(tmp_path)
    try:
        bundles = [scoring(tmp_path, str(number)) for number in range(4)]
        process.load(bundles[0])
        with clients(process, ask) as more:
            for bundle in bundles[1:]:
                more(60)
                swap = process.switch((bundle,))["scoring"]
                assert swap.gap_ms > 0
                assert not swap.resident
                assert process.health("scoring").companion == ""
            more(60)
        seen = process.health("scoring")
        assert seen.before is not None, "what it is compared with is known without being there"
        assert seen.before.requests > 0
        assert process.exchange({"scoring": bundles[-2].manifest}) is None
        with pytest.raises(LoadFailed) as failed:
            process.accompany(bundles[0], share=1, cpu_max=1)
        assert failed.value.code == "load.memory_low"
    finally:
        process.stop()


def test_what_had_to_go_comes_back_when_the_new_one_does_not_load(tmp_path: Path) -> None:
    process = roomless(tmp_path)
    try:
        good = scoring(tmp_path, "1")
        process.load(good)
        bad = msgspec.structs.replace(scoring(tmp_path, "2"), model=str(tmp_path / "none.onnx"))
        with clients(process, ask) as more:
            more(20)
            with pytest.raises(LoadFailed):
                process.load(bad)
            more(20)
        assert process.health("scoring").manifest == good.manifest
    finally:
        process.stop()


def test_an_encrypted_model_that_had_to_go_does_not_come_back_by_itself(tmp_path: Path) -> None:
    """Its key was forgotten when it was loaded; who has the key loads it."""
    process = roomless(tmp_path)
    try:
        plain = scoring(tmp_path, "1")
        process.load(plain)
        process.load(encrypt_bundle(plain, tmp_path))
        bad = msgspec.structs.replace(scoring(tmp_path, "3"), model=str(tmp_path / "none.onnx"))
        with pytest.raises(LoadFailed):
            process.load(bad)
        with pytest.raises(SlotEmpty):
            process.health("scoring")
        process.load(plain)
        assert process.health("scoring").manifest == plain.manifest
    finally:
        process.stop()


def test_a_gap_has_an_end_for_those_who_wait(tmp_path: Path) -> None:
    """The new model hangs on loading until its time is up: waiting requests are answered."""
    process = roomless(tmp_path)
    try:
        good = scoring(tmp_path, "1")
        process.load(good)
        hanging = make_bundle(
            tmp_path,
            infinite_loop(tmp_path),
            slot="scoring",
            version="2",
            golden_inputs={"x": ONE},
            golden_outputs={"y": ONE},
        )
        with clients(process, ask) as more:
            more(20)
            with pytest.raises(LoadFailed) as failed:
                process.load(hanging, timeout_s=1)
            more(20)
        assert failed.value.code == "load.timeout"
    finally:
        process.stop()


def test_as_many_slots_as_there_may_be_with_long_descriptions(
    process: InferenceProcess, client: Client, tmp_path: Path
) -> None:
    """4 MiB in one command: 16 slots of models with as many long labels as there may be."""
    labels = tuple(f"{number:04}" + "x" * 252 for number in range(1024))
    bundles = [scoring(tmp_path, "1", slot=f"slot-{n}", labels=labels) for n in range(SLOTS_MAX)]
    assert len(msgspec.json.encode(bundles)) > 4 * 1024 * 1024
    assert len(process.switch(bundles)) == SLOTS_MAX
    assert ask(client, bundles[-1].slot) == bundles[-1].manifest


def test_waiting_for_a_successor_is_bounded(tmp_path: Path) -> None:
    """In number by the endpoint's queue, and in time; an explicit version waits for nothing."""

    async def run() -> None:
        slots = Slots()
        await slots.load([scoring(tmp_path, "1")], time.monotonic() + 60)
        served = slots.get("scoring")
        assert served is not None
        shares = Shares(queue_max=2, client_max=2)
        routes = Routes(Service(slots, ThreadPoolExecutor(1), shares=shares, gap_seconds_max=0.05))
        successor = served.successor = asyncio.get_running_loop().create_future()

        def ask(path: str = "/v2/models/scoring/infer") -> Answer | asyncio.Future[Answer]:
            request = Request()
            request.method, request.url, request.body = b"POST", path.encode(), BODY
            return routes(request)

        waiting = [ask(), ask()]
        refused, versioned = ask(), ask("/v2/models/scoring/versions/1/infer")
        assert isinstance(refused, Answer)
        assert isinstance(versioned, Answer)
        assert (refused.status, versioned.status) == (429, 503)
        for one in waiting:
            assert isinstance(one, asyncio.Future)
            assert (await asyncio.wait_for(one, 20)).status == 503
        again = ask()
        assert isinstance(again, asyncio.Future), "there is room again"
        served.successor = None
        successor.set_result(None)
        assert (await asyncio.wait_for(again, 20)).status == 200

    asyncio.run(run())
