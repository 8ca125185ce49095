"""Jobs: done once whatever dies, by whoever holds the newest fence."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import select

from edgectl_server.clock import now
from edgectl_server.errors import Conflict, NotFound, Unavailable
from edgectl_server.jobs import JobCancelled, JobContext, JobFailed, JobLost, Jobs
from edgectl_server.retraining import RETRAIN, trained_by
from edgectl_server.storage.tables import Job, Model
from edgectl_server.training.trainers import OwnTrainer
from waiting import wait_for

WAIT_S = 20.0


class Handler:
    """Does what the test says, and notes what it was told."""

    def __init__(self, database, work) -> None:
        self.database = database
        self.work = work
        self.attempts: list[int] = []
        self.ends: list[tuple[str, str]] = []

    def run(self, context: JobContext) -> None:
        self.attempts.append(context.attempt)
        self.work(context)
        with self.database.write() as session:
            context.finish(session, {"attempt": context.attempt})
            session.add(Model(name=context.payload["name"], created_at=now(), created_by="-"))

    def ended(self, session, job, error) -> None:
        self.ends.append((job.state, error.code))
        session.add(Model(name=f"ended-{job.payload['name']}", created_at=now(), created_by="-"))


@pytest.fixture
def start(database):
    """Start a worker whose handler does `work`; `start(None)` starts none."""
    running = []

    def start(work, *, lease_s=30.0, attempts_max=3, thread=True):
        jobs = Jobs(database, now, lease_s=lease_s, attempts_max=attempts_max)
        handler = Handler(database, work)
        jobs.register("test", handler)
        if thread:
            jobs.start()
        running.append(jobs)
        return jobs, handler

    yield start
    for jobs in running:
        jobs.close()
        assert not jobs.alive


def create(jobs, database, name="a") -> str:
    with database.write() as session:
        job_id = jobs.create(session, "test", {"name": name, "subject": {"name": name}}, "anna")
    jobs.notify()
    return job_id


def names(database) -> list[str]:
    with database.read() as session:
        return sorted(session.scalars(select(Model.name)))


def ended(jobs, job_id) -> Job:
    wait_for(lambda: jobs.get(job_id).finished_at is not None, f"the end of job {job_id}")
    return jobs.get(job_id)


def test_a_machine_takes_those_jobs_alone_that_it_is_able_to_do(database):
    handler = Handler(database, lambda context: None)
    machines = {}
    for names_of in ("a", "ab", ""):
        one = machines[names_of] = Jobs(database, now, worker=names_of)
        named = Job.payload["subject"]["name"].as_string()
        one.register("test", handler, able=named.in_(list(names_of)))
    last = create(machines["a"], database, "b")
    first = create(machines["a"], database, "a")
    assert machines[""]._claim() is None
    assert machines["a"]._claim().id == first
    assert machines["a"]._claim() is None
    assert machines["ab"]._claim().id == last
    assert Jobs(database, now)._claim() is None, "without a handler for anything"


def test_a_machine_trains_by_the_built_in_trainer_and_by_those_that_it_has(database):
    jobs = Jobs(database, now)
    with database.write() as session:
        for trainer in ("head", "finetune", "distil"):
            jobs.create(session, RETRAIN, {"subject": {"trainer": trainer}}, trainer)
        own = OwnTrainer(command=("/bin/true",))
        found = [
            sorted(session.scalars(select(Job.created_by).where(trained_by(trainers))))
            for trainers in ({}, {"finetune": own})
        ]
    assert found == [["head"], ["finetune", "head"]]


def test_jobs_are_done_in_order(database, start):
    jobs, handler = start(lambda context: None)
    ids = [create(jobs, database, name) for name in "abc"]
    for job_id in ids:
        job = ended(jobs, job_id)
        assert (job.state, job.result, job.error) == ("succeeded", {"attempt": 1}, None)
        assert job.started_at is not None
        assert job.lease_until is None
    assert names(database) == ["a", "b", "c"]
    assert handler.ends == []


def test_a_failure_is_final_and_told_in_its_transaction(database, start):
    def work(context):
        raise JobFailed("test.reason", "because", hint="do it", data={"a": 1})

    jobs, handler = start(work)
    job = ended(jobs, create(jobs, database))
    assert job.state == "failed"
    assert (job.error["code"], job.error["hint"], job.error["data"]) == (
        "test.reason",
        "do it",
        {"a": 1},
    )
    assert handler.ends == [("failed", "test.reason")]
    assert names(database) == ["ended-a"]


def test_a_bug_is_final_and_keeps_its_detail_in_the_log(database, start, caplog):
    def work(context):
        raise RuntimeError("secret detail")

    jobs, _ = start(work)
    job = ended(jobs, create(jobs, database))
    assert job.error["code"] == "job.bug"
    assert "secret" not in str(job.error)
    assert "secret detail" in caplog.text
    assert jobs.alive


def test_what_is_unavailable_is_tried_again_with_a_bound(database, start, monkeypatch):
    monkeypatch.setattr("edgectl_server.jobs._RETRY_S", 0.0)

    def work(context):
        raise Unavailable("broker.away", "the broker does not answer")

    jobs, handler = start(work)
    job_id = create(jobs, database)
    for _ in range(3):
        jobs.notify()
    job = ended(jobs, job_id)
    assert handler.attempts == [1, 2, 3]
    assert (job.state, job.error["code"]) == ("failed", "broker.away")


def test_cancel_a_waiting_job(database, start):
    jobs, handler = start(lambda context: None, thread=False)
    job_id = create(jobs, database)
    assert jobs.cancel(job_id).state == "cancelled"
    assert handler.ends == [("cancelled", "job.cancelled")]
    with pytest.raises(Conflict):
        jobs.cancel(job_id)
    with pytest.raises(NotFound):
        jobs.cancel("0" * 16)


@pytest.mark.parametrize("by", ["this process", "another process"])
def test_cancel_a_running_job(database, start, by):
    begun = threading.Event()

    def work(context):
        begun.set()
        wait_for(context.cancelled, "the cancellation")
        context.check()

    jobs, handler = start(work, lease_s=1.0)
    job_id = create(jobs, database)
    assert begun.wait(WAIT_S)
    if by == "another process":
        other = Jobs(database, now)  # it knows the row alone
        other.cancel(job_id)
    else:
        jobs.cancel(job_id)
    assert ended(jobs, job_id).state == "cancelled"
    assert handler.ends == [("cancelled", "job.cancelled")]
    assert names(database) == ["ended-a"]


def test_progress_is_written_while_it_works(database, start):
    go = threading.Event()

    def work(context):
        for done in range(10_000):
            context.progress("count", "numbers", done, 10_000)
        assert go.wait(WAIT_S)

    jobs, _ = start(work)
    job_id = create(jobs, database)
    wait_for(lambda: jobs.get(job_id).progress.get("done") == 9999, "the progress")
    assert jobs.get(job_id).progress == {
        "stage": "count",
        "message": "numbers",
        "done": 9999,
        "total": 10_000,
    }
    go.set()
    assert ended(jobs, job_id).state == "succeeded"


def test_the_heartbeat_keeps_the_job(database, start):
    go = threading.Event()
    jobs, handler = start(lambda context: go.wait(WAIT_S), lease_s=0.9)
    job_id = create(jobs, database)
    wait_for(lambda: jobs.get(job_id).lease_until is not None, "the claim")
    first = jobs.get(job_id).lease_until
    wait_for(lambda: jobs.get(job_id).lease_until > first, "a heartbeat")
    go.set()
    assert ended(jobs, job_id).state == "succeeded"
    assert handler.attempts == [1]


def test_a_worker_that_was_thought_dead_writes_nothing(database, start):
    """Two workers on one database, as when the first was stopped for longer than its lease."""
    late, early = threading.Event(), threading.Event()

    def slow(context):
        early.set()
        assert late.wait(WAIT_S)

    jobs, handler = start(slow)
    job_id = create(jobs, database)
    assert early.wait(WAIT_S)
    with database.write() as session:
        session.get(Job, job_id).lease_until = now()
    other, _ = start(lambda context: None)
    other.notify()
    assert ended(other, job_id).result == {"attempt": 2}
    late.set()
    jobs.close()
    assert jobs.get(job_id).result == {"attempt": 2}
    assert names(database) == ["a"]
    assert handler.ends == []


def test_a_stopped_server_gives_its_job_back_uncounted(database, start):
    begun = threading.Event()

    def work(context):
        begun.set()
        wait_for(context.cancelled, "the stop")
        raise JobCancelled

    jobs, handler = start(work)
    job_id = create(jobs, database)
    assert begun.wait(WAIT_S)
    jobs.close()
    job = jobs.get(job_id)
    assert (job.state, job.attempts, job.lease_until) == ("queued", 0, None)
    assert handler.ends == []
    again, _ = start(lambda context: None)
    assert ended(again, job_id).state == "succeeded"


def test_the_fence_guards_a_handlers_own_transactions(database, start):
    jobs, _ = start(lambda context: None, thread=False)
    job_id = create(jobs, database)
    first = jobs._claim()
    with database.write() as session:
        session.get(Job, job_id).lease_until = now()
    second = jobs._claim()
    assert second.fence == first.fence + 1
    with pytest.raises(JobLost), database.write() as session:
        first.hold(session)
    with database.write() as session:
        second.finish(session, {})
    assert jobs.get(job_id).state == "succeeded"


WORKER = """
import sys, threading
from pathlib import Path
from edgectl_server.clock import now
from edgectl_server.jobs import Jobs
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Model

database = Database(sys.argv[1])
journal, hang = Path(sys.argv[2]), sys.argv[3] == "hang"

class Handler:
    def run(self, context):
        with journal.open("a") as file:
            file.write(f"attempt {context.attempt}\\n")
        if hang:
            threading.Event().wait()
        with database.write() as session:
            context.finish(session, {"attempt": context.attempt})
            session.add(Model(name=context.payload["name"], created_at=now(), created_by="-"))

    def ended(self, session, job, error):
        pass

jobs = Jobs(database, now)
jobs.register("test", Handler())
jobs.start()
sys.stdin.read()
jobs.close()
database.close()
"""


class Worker:
    """A worker in a process of its own."""

    def __init__(self, url: str, journal: Path, mode: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, url, str(journal), mode], stdin=subprocess.PIPE
        )

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(WAIT_S)
        self.process.stdin.close()

    def close(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(WAIT_S) == 0


def test_kill_9_in_the_middle_and_the_job_is_done_once(database, database_url, tmp_path, start):
    jobs, _ = start(lambda context: None, thread=False)
    job_id = create(jobs, database)
    journal = tmp_path / "journal"

    def attempts() -> int:
        return len(journal.read_text().splitlines()) if journal.exists() else 0

    for number in (1, 2):
        worker = Worker(database_url, journal, "hang")
        wait_for(lambda number=number: attempts() == number, f"attempt {number}")
        worker.kill()
        assert jobs.get(job_id).state == "running"
    worker = Worker(database_url, journal, "finish")
    job = ended(jobs, job_id)
    worker.close()
    assert (job.state, job.result) == ("succeeded", {"attempt": 3})
    assert names(database) == ["a"]


def test_a_job_that_takes_its_worker_down_ends(database, database_url, tmp_path, start):
    jobs, _ = start(lambda context: None, thread=False, attempts_max=1)
    job_id = create(jobs, database)
    journal = tmp_path / "journal"
    worker = Worker(database_url, journal, "hang")
    wait_for(journal.exists, "the attempt")
    worker.kill()
    again, handler = start(lambda context: None, attempts_max=1)
    job = ended(again, job_id)
    assert (job.state, job.error["code"]) == ("failed", "job.attempts")
    assert handler.attempts == []
    assert names(database) == ["ended-a"]
