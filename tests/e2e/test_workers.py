"""A search on several machines: real servers and workers with one database and one blob store."""

import contextlib
import signal
import sys

import pytest

from e2e.fleet import Process
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
    server = start.server(settings=shared | {"job_lease_s": "2"})
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


def test_a_worker_needs_the_servers_database(tmp_path):
    lonely = Process([*COMMAND, "--data", str(tmp_path / "data")], tmp_path / "log")
    lonely.start()
    assert lonely.popen.wait(30) == 1
    assert "worker.shared" in lonely.log.read_text()
