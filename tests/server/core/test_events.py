"""Live snapshots: one look a topic and interval, the newest for everybody, an end at once."""

import asyncio
import itertools
import json
import threading
import time

import pytest
from pydantic import BaseModel

from edgectl_server.api import events
from edgectl_server.api.jobs import job_info
from edgectl_server.auth import Principal
from edgectl_server.errors import NotFound, Refused, TooMany
from edgectl_server.hub import LISTENERS_MAX, TOPICS_PER_LISTENER_MAX, Hub
from waiting import wait_for

WAIT_S = 60


class Number(BaseModel):
    value: int


@pytest.fixture
def hub():
    hub = Hub(interval_s=0.05)
    yield hub
    hub.close()
    hub.join()


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, WAIT_S))


async def take(hub, topics, number):
    got = []
    stream = hub.listen(topics)
    async for snapshot in stream:
        got.append(snapshot)
        if len(got) == number:
            break
    await stream.aclose()
    return got


def test_the_first_snapshot_comes_at_once_and_then_what_changes(hub):
    values = iter([1, 1, 1, 2, 2, 3])
    last = 3

    def look(argument):
        return Number(value=next(values, last))

    hub.register("fleet", look)
    got = run(take(hub, ("fleet",), 3))
    assert [json.loads(one.text) for one in got] == [
        {"topic": "fleet", "snapshot": {"value": value}} for value in (1, 2, 3)
    ]
    assert [one.revision for one in got] == sorted({one.revision for one in got})
    assert hub.listeners == 0


def test_many_listeners_cost_one_look(hub):
    looks = []
    hub.register("job", lambda argument: looks.append(argument) or Number(value=len(looks) // 10))

    async def many():
        return await asyncio.gather(*(take(hub, ("job:a", "job:b"), 2) for _ in range(50)))

    texts = {tuple(sorted(one.topic for one in got)) for got in run(many())}
    assert texts == {("job:a", "job:b")}
    assert len(looks) < 20


def test_nobody_listens_and_nothing_is_looked_up(hub):
    looks = []
    hub.register("fleet", lambda argument: looks.append(1) or Number(value=len(looks)))
    run(take(hub, ("fleet",), 1))
    assert hub._topics == {}  # what the thread goes through
    assert len(looks) <= 2


def test_a_topic_that_does_not_exist_or_fails_is_silent_and_others_are_not(hub, caplog):
    def fail(argument):
        raise RuntimeError("broken")

    hub.register("none", lambda argument: None)
    hub.register("broken", fail)
    hub.register("fleet", lambda argument: Number(value=1))
    got = run(take(hub, ("none:1", "broken", "fleet"), 1))
    assert got[0].topic == "fleet"
    assert "broken" in caplog.text


def test_closing_ends_every_listener_at_once(hub):
    hub.register("fleet", lambda argument: Number(value=1))

    async def listen():
        served = [asyncio.Event() for _ in range(20)]

        async def all_of(one):
            async for _ in hub.listen(("fleet",)):
                one.set()

        tasks = [asyncio.create_task(all_of(one)) for one in served]
        await asyncio.gather(*(asyncio.wait_for(one.wait(), WAIT_S) for one in served))
        started = time.monotonic()
        threading.Thread(target=hub.close).start()
        await asyncio.gather(*tasks)
        return time.monotonic() - started

    assert run(listen()) < 1


def test_topics_are_checked(hub):
    hub.register("fleet", lambda argument: None)
    assert hub.check(["fleet", "fleet"]) == ("fleet",)
    for wrong in ([], ["nothing"], ["fleet" + "x" * 200], [f"fleet:{n}" for n in range(17)]):
        with pytest.raises(Refused) as caught:
            hub.check(wrong)
        assert caught.value.code == "events.topic"
    assert len(hub.check([f"fleet:{n}" for n in range(TOPICS_PER_LISTENER_MAX)])) == 16


def test_listeners_are_bounded(hub):
    hub.register("fleet", lambda argument: Number(value=1))

    async def crowd():
        streams = [hub.listen(("fleet",)) for _ in range(LISTENERS_MAX)]
        for stream in streams:
            await anext(stream)
        with pytest.raises(TooMany):
            await anext(hub.listen(("fleet",)))
        with pytest.raises(TooMany):  # before the stream begins: then it is an answer of its own
            hub.check(["fleet"])
        for stream in streams:
            await stream.aclose()

    run(crowd())
    assert hub.listeners == 0


def test_unknown_topics_are_refused_before_the_stream(client, people):
    for query in ("topic=nothing", "", "topic="):
        answer = client.get(f"/api/v1/events?{query}", headers=people.viewer)
        assert answer.status_code == 422, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_stream_over_http(client, services, people):
    """The test client hands a stream over when it has ended: so the hub ends it."""

    def look(job_id):
        try:
            return job_info(services.jobs.get(job_id))
        except NotFound:
            return None

    services.hub.register("job", look)
    with services.database.write() as session:
        job_id = services.jobs.create(session, "push", {"subject": {"model": "har"}}, "anna")

    def close_when_served():
        def served():
            found = services.hub._topics.get(f"job:{job_id}")
            return found is not None and found.newest is not None

        wait_for(served, "the snapshot")
        services.hub.close()

    closer = threading.Thread(target=close_when_served)
    closer.start()
    answer = client.get(f"/api/v1/events?topic=job:{job_id}&topic=job:none", headers=people.viewer)
    closer.join()
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "retry: 2000\n" in answer.text
    told = [block.splitlines() for block in answer.text.split("\n\n") if "data:" in block]
    assert len(told) == 1
    fields = dict(line.split(": ", 1) for line in told[0])
    assert fields["event"] == "job"
    data = json.loads(fields["data"])
    assert data["topic"] == f"job:{job_id}"
    assert data["snapshot"]["state"] == "queued"


def delete_token(services, clock, headers):
    admin = Principal("viewer", "admin")
    identity = headers["Authorization"].split("_")[1]
    services.auth.delete_token(admin, identity)


def delete_user(services, clock, headers):
    services.auth.delete_user("viewer")


def end_session(services, clock, headers):
    services.auth.end_session(headers["Cookie"].partition("=")[2])


def let_it_expire(services, clock, headers):
    clock.pass_s(services.settings.session_s + 1)


@pytest.mark.parametrize("changing", [True, False], ids=["much to tell", "nothing to tell"])
@pytest.mark.parametrize(
    ("by", "revoke"),
    [
        ("token", delete_token),
        ("token", delete_user),
        ("session", end_session),
        ("session", let_it_expire),
    ],
)
def test_a_stream_ends_with_the_right_to_it(  # noqa: PLR0917 - the cases' columns
    monkeypatch, client, services, people, clock, by, revoke, changing
):
    """The test client returns when the stream has ended; nobody else ends it here."""
    monkeypatch.setattr(events, "RECHECK_S", 0.05)
    headers = people.viewer
    if by == "session":
        headers = {"Cookie": f"edgectl_session={services.auth.start_session('viewer').cookie}"}
    numbers = itertools.count()
    services.hub.register("fleet", lambda _: Number(value=next(numbers) if changing else 0))

    def revoke_when_served():
        wait_for(lambda: services.hub.listeners, "the listener")
        revoke(services, clock, headers)

    revoker = threading.Thread(target=revoke_when_served)
    revoker.start()
    answer = client.get("/api/v1/events?topic=fleet", headers=headers)
    revoker.join()
    assert answer.status_code == 200
    wait_for(lambda: not services.hub.listeners, "the end of the listener")
