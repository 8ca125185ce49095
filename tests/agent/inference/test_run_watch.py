"""A run that takes too long is stopped; one that does not end is given up; nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgectl_agent.inference.run_watch import RunWatch

MAX_S = 0.02


async def until(found: Callable[[], bool]) -> bool:
    """Say whether it was found within a bound."""
    for _ in range(1000):
        if found():
            return True
        await asyncio.sleep(0.005)
    return False


def test_a_long_run_is_stopped_then_given_up_once() -> None:
    given_up = []

    async def scenario() -> None:
        watch = RunWatch(MAX_S, wanted=lambda: True, give_up=lambda: given_up.append(1))
        watch.begin()
        with watch.under_way() as stop:
            assert await until(stop.is_set)
            assert given_up == []
            assert await until(lambda: given_up == [1])
            watch.begin()
            assert not await asyncio.wait_for(asyncio.sleep(5 * MAX_S, False), 20)
        assert given_up == [1]

    asyncio.run(scenario())


def test_a_run_that_ends_when_it_is_told_to_is_not_given_up() -> None:
    given_up = []

    async def scenario() -> None:
        watch = RunWatch(MAX_S, wanted=lambda: True, give_up=lambda: given_up.append(1))
        watch.begin()
        for _ in range(5):
            with watch.under_way() as stop:
                assert await until(stop.is_set)
        assert given_up == []
        watch.end()

    asyncio.run(scenario())


def test_it_looks_only_while_there_is_something_to_look_at() -> None:
    asked = []

    def wanted() -> bool:
        asked.append(1)
        return len(asked) % 3 != 0

    async def scenario() -> None:
        watch = RunWatch(MAX_S, wanted=wanted, give_up=lambda: None)
        assert asked == []
        watch.begin()
        watch.begin()
        assert await until(lambda: len(asked) == 3)
        await asyncio.sleep(5 * MAX_S)
        assert len(asked) == 3
        watch.begin()
        assert await until(lambda: len(asked) == 6)

    asyncio.run(scenario())


def test_its_end_stops_the_run_under_way_and_gives_nothing_up() -> None:
    given_up = []

    async def scenario() -> None:
        watch = RunWatch(MAX_S, wanted=lambda: True, give_up=lambda: given_up.append(1))
        watch.begin()
        with watch.under_way() as stop:
            watch.end()
            assert stop.is_set()
            watch.begin()
            await asyncio.sleep(5 * MAX_S)
        assert given_up == []

    asyncio.run(scenario())
