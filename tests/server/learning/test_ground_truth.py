"""What applications say of their requests: before and after the sample, and what is dropped."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from edgectl_protocol.messages import Reason
from edgectl_protocol.outcomes import OutcomeReport
from edgectl_server.ground_truth import WAITING_MAX
from edgectl_server.sample_policies import SamplePolicies
from edgectl_server.schemas import SamplePolicyChange
from edgectl_server.storage.tables import Device, OutcomeRow
from server.learning.store import START, Store


@pytest.fixture
def asked(store: Store) -> Store:
    policies = SamplePolicies(store.database, lambda: store.now)
    policies.put("har", SamplePolicyChange(bytes_per_day=10**6, reasons=["random"]), "anna")
    store.sample("pi-1", minute=0)
    store.sample("pi-2", minute=1)
    return store


def tell(
    store: Store, request: str, label: str, device: str = "pi-1", **more: Any
) -> Reason | None:
    fields = {"model": "har", "boot": 1, "seq": 1, "at": START} | more
    report = OutcomeReport(device=device, request_id=request, label=label, **fields)
    with store.database.write() as session:
        return store.ground_truth.take(session, session.get_one(Device, device), report)


def waiting(store: Store) -> int:
    with store.database.read() as session:
        return session.scalar(select(func.count()).select_from(OutcomeRow)) or 0


def test_an_outcome_is_joined_whichever_comes_first(asked: Store) -> None:
    after = asked.sample("pi-1", minute=2, request="r-1")
    assert tell(asked, "r-1", "walk") is None
    assert tell(asked, "r-2", "sit") is None
    assert tell(asked, "r-2", "run") is None
    assert tell(asked, "r-2", "sit", device="pi-2") is None, "of its own requests alone"
    assert waiting(asked) == 2
    before = asked.sample("pi-1", minute=3, request="r-2")
    assert waiting(asked) == 1
    for sample, label in ((after, "walk"), (before, "run")):
        found = asked.annotations.of_sample(sample)
        assert found.sample.label == label
        (said,) = found.annotations
        assert (said.source, said.labeller) == ("field", "device/pi-1")
    asked.annotations.put(after, "sit", "anna")
    assert asked.annotations.of_sample(after).sample.label == "walk", "the field has seen it"
    tell(asked, "r-1", "run")
    assert asked.annotations.of_sample(after).sample.label == "run"


def test_what_is_dropped(asked: Store) -> None:
    def code(*told: str, **more: Any) -> str:
        reason = tell(asked, *told, **more)
        return "" if reason is None else reason.code

    sample = asked.sample("pi-1", minute=2, request="r-1")
    assert code("r-1", "walk", model="kws") == "outcome.unasked"
    assert code("r-1", "swim") == "outcome.class"
    assert asked.annotations.of_sample(sample).annotations == []
    assert code("r-2", "swim") == "", "nobody knows yet of which version it is"
    other = asked.sample("pi-1", minute=3, request="r-2")
    assert asked.annotations.of_sample(other).sample.label_state == "unlabelled"
    assert waiting(asked) == 0
    SamplePolicies(asked.database, lambda: asked.now).put("har", SamplePolicyChange(), "anna")
    assert code("r-1", "walk") == "outcome.unasked", "where nothing may leave, this may not either"


def test_what_waits_is_bounded_and_forgotten(asked: Store) -> None:
    with asked.database.write() as session:
        session.add_all(
            OutcomeRow(
                device="pi-1", model="har", request=f"old-{number}", label="walk",
                received_at=asked.now - timedelta(minutes=WAITING_MAX - number),
            )
            for number in range(WAITING_MAX)
        )  # fmt: skip
    for number in range(5):
        assert tell(asked, f"new-{number}", "walk") is None
    assert tell(asked, "r", "walk", device="pi-2") is None
    assert waiting(asked) == WAITING_MAX + 1
    sample = asked.sample("pi-1", minute=4, request="old-4")
    assert asked.annotations.of_sample(sample).annotations == [], "the oldest gave way"
    asked.now += timedelta(days=7, minutes=1)
    asked.samples.make_room()
    assert waiting(asked) == 0
