"""Work on several machines: real servers and workers with one database and one blob store."""

import contextlib
import signal
import sys
from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from e2e.fleet import Process
from e2e.learned import NAMES, alive, label, put_samples, trainers_of
from edgectl.demo.activity_data import LABELS
from edgectl.types import DatasetRequest, RetrainRequest
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Job
from server.learning.store import device_row
from waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.postgresql]


COMMAND = [sys.executable, "-m", "edgectl", "server", "worker", "--json"]


class Machine(Process):
    """``edgectl server worker``."""

    def __init__(self, folder, settings):
        environment = {f"EDGECTL_SERVER_{key.upper()}": value for key, value in settings.items()}
        command = [
            sys.executable,
            "-m",
            "edgectl",
            "server",
            "worker",
            "--json",
            "--data",
            str(folder),
        ]
        super().__init__(command, folder.with_name(folder.name + ".log"), environment)

    def start(self):
        super().start()
        self.wait_line("the worker", "ready", value=True, since=0)


@pytest.fixture
def site(start, tmp_path, postgresql_url):
    """Shared settings, and what starts machines; they are stopped at the end."""
    (tmp_path / "shared").mkdir(mode=0o700)
    shared = {"database_url": postgresql_url, "blobs_url": str(tmp_path / "shared")}
    server = start.server(first=True, settings=shared | {"job_lease_s": "2"})
    machines = []

    def machine(name):
        machines.append(Machine(tmp_path / name, shared | {"job_lease_s": "2"}))
        machines[-1].start()
        return machines[-1]

    yield server, machine
    for one in machines:
        with contextlib.suppress(ProcessLookupError):
            one.signal(signal.SIGCONT)
        one.stop()


def trials_of(server):
    return [job for job in server.client.jobs().items if job.kind == "trials"]


def report_of(server, version="1"):
    return server.client.get_version("har", version).report


def test_workers_make_trials_and_the_push_finds_them(site, activity):
    server, machine = site
    for name in ("one", "two"):
        machine(name)
    files = {role: activity[role] for role in ("calibration", "evaluation")}
    job = server.push("har", activity["model"], **files)
    assert job.state == "succeeded", job.error
    parts = trials_of(server)
    assert [one.state for one in parts] == ["succeeded", "succeeded"]
    assert all(one.result["trials"] > 0 for one in parts)
    tried = [row for row in report_of(server).trials if row.recipe != "fp32"]
    assert len(tried) >= 10
    assert all(row.known for row in tried)
    logs = [path.read_text() for path in server.data.parent.glob("*.log") if path.stem != "server"]
    assert all("(trials): attempt 1" in log for log in logs), "each did a part"


def test_without_workers_there_are_no_parts(site, activity):
    server, machine = site
    gone = machine("gone")
    gone.stop()
    job = server.push("har", activity["model"], precisions=["fp32"])
    assert job.state == "succeeded", job.error
    assert trials_of(server) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_costs_time_alone(site, activity, number):
    server, machine = site
    lost = machine("lost")
    files = {role: activity[role] for role in ("calibration", "evaluation")}
    push = server.begin_push("har", activity["model"], **files)
    wait_for(lambda: [one.state for one in trials_of(server)] == ["running"], "the worker begins")
    lost.signal(number)
    job = server.client.wait_job(push)
    assert job.state == "succeeded", job.error
    assert any(row.status == "accepted" for row in report_of(server).trials[1:])


def test_what_an_encrypted_push_has_stays_on_the_server(site, activity):
    server, machine = site
    machine("one")
    data = activity["calibration"]
    job = server.push("har", activity["model"], calibration=data, encrypt=["int8"])
    assert job.state == "succeeded", job.error
    assert trials_of(server) == []


# ---------------------------------------------------------------- training

TRAINED_S = 240.0


class Learning:
    """A server that leaves training to others, with labelled samples; and what starts machines."""

    def __init__(self, server, machine, database, shared):
        self.server, self.machine = server, machine
        self.database, self.shared = database, shared

    def begin(self):
        """Ask for a retraining; return its id, which is its job's too."""
        asked = RetrainRequest(dataset="shifted", old_drop_points_max=10.0)
        return self.server.client.retrain("har", asked).id

    def end(self, retraining):
        """Wait until it has ended; return it."""
        job = wait_for(
            lambda: next(
                (one for one in [self.server.client.job(retraining)] if one.finished_at), None
            ),
            "the end of the training",
            bound_s=TRAINED_S,
        )
        assert job.state == "succeeded", job.error
        return self.server.client.retraining(retraining)

    def row(self, retraining):
        with self.database.read() as session:
            return session.get_one(Job, retraining)

    def alerts(self):
        """Return the alerts about trainings that last."""
        wanted = [("kind", "training"), ("ended", "no")]
        return self.server.client.alerts(wanted).items

    def pushes(self):
        """Return the jobs that push, of whoever has asked for it."""
        with self.database.read() as session:
            return session.scalars(select(Job).where(Job.kind == "push")).all()


@pytest.fixture
def learning(start, tmp_path, postgresql_url, activity):
    (tmp_path / "shared").mkdir(mode=0o700)
    shared = {"database_url": postgresql_url, "blobs_url": str(tmp_path / "shared")}
    shared["job_lease_s"] = "2"
    settings = shared | {"trains": "false", "training_wait_s": "1"}
    server = start.server(first=True, settings=settings)
    data = {role: activity[role] for role in ("calibration", "evaluation")}
    options = {"labels": list(LABELS), "precisions": ["fp32"]}
    job = server.push("har", activity["model"], "1", **options, **data)
    assert job.state == "succeeded", job.error
    database = Database(postgresql_url)
    with database.write() as session:
        session.add_all(
            device_row(name, "", datetime.now(UTC))  # noqa: TID251 - the server's clock
            for name in NAMES
        )
    places = {"database_url": postgresql_url, "blobs": tmp_path / "shared"}
    label(server, put_samples(server, activity, 240, **places))
    asked = DatasetRequest(name="shifted", model="har", ratios=(0.7, 0.0, 0.3))
    server.client.create_dataset(asked)
    machines = []

    def machine(name):
        machines.append(Machine(tmp_path / name, shared))
        machines[-1].start()
        return machines[-1]

    yield Learning(server, machine, database, shared)
    database.close()
    for one in machines:
        with contextlib.suppress(ProcessLookupError):
            one.signal(signal.SIGCONT)
        one.stop()


def test_a_worker_trains_and_the_server_pushes_what_has_passed(learning):
    retraining = learning.begin()
    waits = wait_for(learning.alerts, "the operator is told that nobody trains")
    assert [one.subject for one in waits] == ["head"]
    waiting = learning.server.client.retraining(retraining)
    assert waiting.state == "queued", "the server leaves it to others"
    assert waiting.progress.message == "no worker has the trainer head: none is there"
    one = learning.machine("one")
    ended = learning.end(retraining)
    wait_for(lambda: not learning.alerts(), "the alert has ended")
    assert learning.row(retraining).worker.endswith(f"{one.log.with_suffix('')}, training")
    assert "(retrain): attempt 1" in one.log.read_text()
    assert "(retrain)" not in learning.server.log.read_text()
    assert ended.new.challenger > ended.new.champion
    assert learning.server.client.wait_job(ended.push_job).state == "succeeded"
    version = learning.server.client.get_version("har", ended.version)
    assert version.state == "ready"
    assert version.parent == "1"
    assert f"job {ended.push_job} (push)" in learning.server.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_training_whose_worker_dies_or_hangs_is_taken_up_and_pushed_once(learning, number):
    machines = [learning.machine(name) for name in ("one", "two")]
    retraining = learning.begin()
    lost = wait_for(
        lambda: next((one for one in machines if trainers_of(one.popen.pid)), None),
        "a worker trains",
        bound_s=TRAINED_S,
    )
    children = trainers_of(lost.popen.pid)
    before = learning.row(retraining)
    assert (before.state, before.attempts) == ("running", 1)
    assert len(learning.pushes()) == 1, "version 1 alone"
    lost.signal(number)
    ended = learning.end(retraining)
    after = learning.row(retraining)
    assert after.worker != before.worker
    assert (after.attempts, after.fence) == (2, before.fence + 1)
    assert learning.server.client.wait_job(ended.push_job).state == "succeeded"
    if number == signal.SIGSTOP:
        lost.signal(signal.SIGCONT)
        wait_for(
            lambda: f"job {retraining} is somebody else's by now" in lost.log.read_text(),
            "the worker that hung notices that it is late",
            bound_s=TRAINED_S,
        )
    wait_for(lambda: not alive(children), "what the lost worker had started ends")
    assert len(learning.pushes()) == 2
    versions = learning.server.client.versions("har").items
    assert sorted(one.version for one in versions) == sorted(["1", ended.version])


def test_a_worker_needs_the_servers_database(tmp_path):
    lonely = Process([*COMMAND, "--data", str(tmp_path / "data")], tmp_path / "log")
    lonely.start()
    assert lonely.popen.wait(30) == 1
    assert "worker.shared" in lonely.log.read_text()
