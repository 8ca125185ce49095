"""The supervisor's threads: cancelling, order, and bugs that must not stay silent."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent.core.made import make_order, simple_bundle
from agent.core.test_benchmarks import make_request
from edgectl_agent.benchmarks import Measure
from edgectl_agent.core import steps
from edgectl_agent.core.record import Floor, Update
from edgectl_agent.core.requests import RequestArrived, RequestRefused
from edgectl_agent.errors import Refused, StepFailed
from edgectl_agent.workers import Crashed, OrderDesk, Worker
from edgectl_protocol.update import UpdateState
from waiting import wait_for

BUNDLE = simple_bundle("1")
ORDER = make_order(1, [BUNDLE])


def download(step: int) -> steps.Download:
    update = Update(
        slot="activity",
        order=1,
        nonce=ORDER.nonce,
        wanted=ORDER.slots["activity"],
        manifest=BUNDLE.digest,
        state=UpdateState.DOWNLOADING,
    )
    return steps.Download(step=step, update=update)


class SlowPerformer:
    """Works until it is cancelled or let go."""

    def __init__(self) -> None:
        self.begun: queue.Queue[int] = queue.Queue()
        self.let_go = threading.Event()
        self.error: Exception | None = None

    def perform(self, step: steps.Step, cancelled: Callable[[], bool]) -> Any:
        self.begun.put(step.step)
        if self.error is not None:
            raise self.error
        while not cancelled():
            if self.let_go.wait(0.01):
                return steps.StepDone(step=step.step, slot="activity")
        reason = Refused("update.cancelled", "").reason
        return steps.StepFailed(step=step.step, slot="activity", reason=reason)

    def collect(self, keep: tuple[str, ...]) -> None:
        self.begun.put(-1)

    def measure(self, measure: Measure, cancelled: Callable[[], bool]) -> Any:
        self.begun.put(-2)
        while not cancelled():
            if self.let_go.wait(0.01):
                return "measured"
        return "overtaken"


@pytest.fixture
def performer() -> SlowPerformer:
    return SlowPerformer()


@pytest.fixture
def results() -> queue.Queue[Any]:
    return queue.Queue()


@pytest.fixture
def worker(performer: SlowPerformer, results: queue.Queue[Any]) -> Iterator[Worker]:
    running = Worker(performer, performer, results.put)  # type: ignore[arg-type]
    running.start()
    yield running
    running.stop()


def test_a_step_is_cancelled_and_the_next_one_is_not(
    worker: Worker, performer: SlowPerformer, results: queue.Queue[Any]
) -> None:
    worker.submit(download(1))
    assert performer.begun.get(timeout=60) == 1
    worker.cancel()
    worker.submit(download(2))
    assert isinstance(results.get(timeout=60), steps.StepFailed)
    assert performer.begun.get(timeout=60) == 2
    performer.let_go.set()
    assert results.get(timeout=60) == steps.StepDone(step=2, slot="activity")


def test_a_step_overtakes_a_measurement_and_a_collection_does_not(
    worker: Worker, performer: SlowPerformer, results: queue.Queue[Any]
) -> None:
    measure = Measure(request=make_request(), number=0, floor=Floor())
    worker.submit(measure)
    assert performer.begun.get(timeout=60) == -2
    worker.submit(steps.Collect(keep=()))
    with pytest.raises(queue.Empty):
        results.get(timeout=0.05)
    worker.submit(download(1))
    assert results.get(timeout=60) == "overtaken"
    assert [performer.begun.get(timeout=60) for _ in range(2)] == [-1, 1]
    performer.let_go.set()
    assert results.get(timeout=60) == steps.StepDone(step=1, slot="activity")
    worker.submit(measure)
    assert results.get(timeout=60) == "measured"


def test_collections_wait_for_the_step_before_them(
    worker: Worker, performer: SlowPerformer, results: queue.Queue[Any]
) -> None:
    worker.submit(download(1))
    worker.submit(steps.Collect(keep=()))
    assert performer.begun.get(timeout=60) == 1
    assert performer.begun.empty()
    performer.let_go.set()
    assert performer.begun.get(timeout=60) == -1


def test_a_bug_in_a_step_is_passed_on(
    worker: Worker, performer: SlowPerformer, results: queue.Queue[Any]
) -> None:
    performer.error = ZeroDivisionError("a bug")
    worker.submit(download(1))
    crash = results.get(timeout=60)
    assert isinstance(crash, Crashed)
    assert crash.error is performer.error


class ScriptedTrust:
    """Answers one order after another."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.payloads: list[bytes] = []

    def check_order(self, payload: bytes, cancelled: Callable[[], bool]) -> Any:
        self.payloads.append(payload)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    check_request = check_order


def test_an_order_that_cannot_be_checked_now_is_checked_again(
    monkeypatch: pytest.MonkeyPatch, results: queue.Queue[Any]
) -> None:
    monkeypatch.setattr("edgectl_agent.workers.ORDER_RETRY_S", 0.01)
    arrived = steps.OrderArrived(order=ORDER, key="a", keys=("a", "b"))
    trust = ScriptedTrust([StepFailed("trust.unreachable", "not now"), arrived])
    desk = OrderDesk(trust, results.put)  # type: ignore[arg-type]
    desk.start()
    desk.put("topic", b"")
    desk.put("topic", b"order")
    assert results.get(timeout=60) == arrived
    assert trust.payloads == [b"order", b"order"]
    desk.stop()


def test_requests_are_checked_beside_orders(results: queue.Queue[Any]) -> None:
    order = steps.OrderArrived(order=ORDER, key="a", keys=("a",))
    request = RequestArrived(request=make_request(), key="a", keys=("a",))
    refused = Refused("request.signature", "a stranger's")
    trust = ScriptedTrust([order, request, refused, StepFailed("trust.unreachable", "no"), request])
    desk = OrderDesk(trust, results.put)  # type: ignore[arg-type]
    desk.start()
    desk.put("topic", b"order")
    assert results.get(timeout=60) == order
    desk.put_request("topic", b"")
    for payload in (b"one", b"two"):
        desk.put_request("topic", payload)
        found = results.get(timeout=60)
        assert found in (request, RequestRefused(reason=refused.reason))
    desk.put_request("topic", b"three")
    wait_for(lambda: len(trust.payloads) == 4)
    desk.put_request("topic", b"four")
    assert results.get(timeout=60) == request
    assert trust.payloads == [b"order", b"one", b"two", b"three", b"four"], "no order twice"
    desk.stop()


def test_a_bug_in_checking_an_order_is_passed_on(results: queue.Queue[Any]) -> None:
    desk = OrderDesk(ScriptedTrust([ZeroDivisionError("a bug")]), results.put)  # type: ignore[arg-type]
    desk.start()
    desk.put("topic", b"order")
    assert isinstance(results.get(timeout=60), Crashed)
    desk.stop()
