"""Retrainings are told to a tracking server once, whatever it does; the real MLflow is opt-in.

``make test-mlflow`` installs MLflow into an environment of its own and runs the last test on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from edgectl_server.errors import Refused, Unavailable
from edgectl_server.job_rows import end_job, new_job
from edgectl_server.mlflow_client import MlflowClient
from edgectl_server.settings import Settings
from edgectl_server.storage.tables import Job, RetrainingRow
from edgectl_server.tracking import Tracker, open_client
from server.learning.mlflow_fake import FakeMlflow, mlflow
from server.learning.store import Store
from waiting import wait_for

MLFLOW = os.environ.get("EDGECTL_TEST_MLFLOW", "")
"""The program `mlflow` of an environment that has it, or the address of an empty server."""


class World:
    """Retrainings in rows, and what tells them."""

    def __init__(self, store: Store, url: str, token: str = "") -> None:
        self.store = store
        self.tracker = self.replica(url, token)

    def replica(self, url: str, token: str = "") -> Tracker:
        client = MlflowClient(url, "edgectl", lambda: token)
        return Tracker(self.store.database, client, lambda: self.store.now)

    def training(self, state: str | None = "succeeded") -> str:
        """Write one that has ended so; None: it is at work."""
        now = self.store.now
        job = new_job("retrain", {}, "loop", now)
        row = RetrainingRow(
            id=job.id, model="har", parent="1", dataset="sha256:" + "d" * 64, trainer="head",
            request={"dataset": "loop-har", "gain_points_min": 0.0, "update_budget_points": None},
            metrics={"strength": 0.01, "loss (é)": 0.28},
            accuracies={"new": {"rows": 48, "champion": 28, "challenger": 44}, "old": None},
            verdicts=[], candidate="sha256:" + "c" * 64, calibration=None, evaluation=None,
            version="2", log="", created_at=now, created_by="loop",
            tracking={"state": "pending", "error": ""}, track_at=now,
        )  # fmt: skip
        with self.store.database.write() as session:
            session.add(job)
            session.add(row)
            if state is not None:
                end_job(job, state, now)
        return row.id

    def look(self, after_s: float = 6.0) -> int:
        self.store.now += timedelta(seconds=after_s)
        return self.tracker.look()

    def row(self, retraining: str) -> RetrainingRow:
        with self.store.database.read() as session:
            return session.get_one(RetrainingRow, retraining)

    def told(self, retraining: str) -> dict[str, Any]:
        return self.row(retraining).tracking or {}


@pytest.fixture
def fake() -> Iterator[FakeMlflow]:
    with mlflow() as started:
        yield started


def test_what_has_ended_is_told_once(store: Store, fake: FakeMlflow) -> None:
    fake.token = "secret"
    world = World(store, fake.url, "secret")
    passed, failed, working = world.training(), world.training("failed"), world.training(None)
    assert world.look() == 2
    assert world.look() == 0
    assert len(fake.runs) == 2
    assert fake.experiments == {"edgectl": "7"}
    told = world.told(passed)
    run = fake.runs[told["run"]]
    assert told["address"] == f"{fake.url}/#/experiments/7/runs/{told['run']}"
    assert run["status"] == "FINISHED"
    assert run["params"]["dataset"] == "sha256:" + "d" * 64
    assert "update_budget_points" not in run["params"]
    assert run["metrics"]["new.challenger_accuracy"] == pytest.approx(44 / 48)
    assert run["metrics"]["trainer.loss (_)".replace("(", "_").replace(")", "_")] == 0.28
    assert run["tags"]["edgectl.version"] == "har@2"
    assert fake.runs[world.told(failed)["run"]]["status"] == "FAILED"
    assert world.told(working)["state"] == "pending"
    with store.database.write() as session:
        end_job(session.get_one(Job, working), "cancelled", store.now)
    assert world.look() == 1
    assert fake.runs[world.told(working)["run"]]["status"] == "KILLED"


FAILURES = {
    "an error": (500, b""),
    "no JSON": (200, b"<html>"),
    "another shape": (200, b'{"experiment": 3}'),
    "too much": (200, b" " * 2_000_000),
    "a redirect": (302, b""),
}


@pytest.mark.parametrize("answer", FAILURES.values(), ids=list(FAILURES))
def test_what_cannot_be_told_is_tried_again(
    small: Store, fake: FakeMlflow, answer: tuple[int, bytes]
) -> None:
    world = World(small, fake.url)
    training = world.training()
    fake.broken = answer
    assert world.look() == 0
    told = world.told(training)
    assert (told["state"], told["tries"]) == ("pending", 1)
    assert told["error"]
    assert world.look(1.0) == 0
    assert world.told(training)["tries"] == 1, "not at once"
    fake.broken = None
    assert world.look() == 1


def test_it_is_given_up_after_a_bound_and_says_why(small: Store) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers
        taken.bind(("127.0.0.1", 0))
        world = World(small, f"http://127.0.0.1:{taken.getsockname()[1]}")
        training = world.training()
        for _ in range(8):
            assert world.look(40_000.0) == 0
    assert world.told(training)["state"] == "failed"
    assert "ConnectError" in world.told(training)["error"]
    assert world.row(training).track_at is None
    assert world.look(400_000.0) == 0


def test_a_wrong_token_is_a_failure_as_others(small: Store, fake: FakeMlflow) -> None:
    fake.token = "secret"
    world = World(small, fake.url, "wrong")
    training = world.training()
    assert world.look() == 0
    assert "401" in world.told(training)["error"]
    assert fake.runs == {}


def test_who_is_killed_in_between_finds_the_run_that_it_had_made(
    small: Store, fake: FakeMlflow
) -> None:
    world = World(small, fake.url)
    training = world.training()
    fake.broken, fake.broken_at = (500, b""), "runs/log-batch"
    assert world.look() == 0
    assert len(fake.runs) == 1
    fake.broken = None
    assert world.look() == 1
    assert len(fake.runs) == 1
    assert world.told(training)["run"] in fake.runs


def test_of_two_servers_one_tells(small: Store, fake: FakeMlflow) -> None:
    world = World(small, fake.url)
    world.training()
    small.now += timedelta(seconds=1)
    claimed = world.tracker._claim()
    assert claimed is not None
    assert world.replica(fake.url).look() == 0
    assert world.look(181.0) == 1, "whoever had claimed it is dead"


def test_settings_are_checked_at_the_start(tmp_path: Path) -> None:
    assert open_client(Settings()) is None
    for wrong in ("mlflow.example.org", "ftp://mlflow", "http://", "https://me:pw@mlflow"):
        with pytest.raises(Refused) as refused:
            open_client(Settings(mlflow_uri=wrong))
        assert refused.value.code == "settings.mlflow"
    token = tmp_path / "token"
    token.write_text("secret\n")
    token.chmod(0o644)
    with pytest.raises(Unavailable):
        open_client(Settings(mlflow_uri="http://mlflow", mlflow_token_file=str(token)))
    token.chmod(0o600)
    client = open_client(Settings(mlflow_uri="http://mlflow", mlflow_token_file=str(token)))
    assert client is not None
    assert client._token() == "secret"


if MLFLOW:  # no test that is skipped where nobody has asked for it

    @pytest.fixture
    def real(tmp_path: Path) -> Iterator[str]:
        if MLFLOW.startswith("http"):
            yield MLFLOW
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        store = f"sqlite:///{tmp_path / 'mlflow.sqlite'}"
        command = [MLFLOW, "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--backend-store-uri", store, "--workers", "1"]
        # Its own jobs are several processes that nothing here is for.
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            try:
                return bool(urllib.request.urlopen(f"{url}/health", timeout=5).status == 200)
            except OSError:
                return False

        try:
            wait_for(ready, "MLflow", bound_s=600)  # it makes its database, table by table
            yield url
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):  # what it has started outlives it else
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @pytest.mark.timeout(900)
    def test_the_real_one_shows_what_it_was_told(small: Store, real: str) -> None:
        world = World(small, real)
        passed, failed = world.training(), world.training("failed")

        def tell_both() -> None:
            """As on a real server: what is too slow once is told at one of the next tries."""

            def told() -> bool:
                world.look(40_000.0)
                rows = [world.row(one) for one in (passed, failed)]
                assert all((row.tracking or {})["state"] != "failed" for row in rows), [
                    row.tracking for row in rows
                ]
                return all(row.track_at is None for row in rows)

            wait_for(told, "both are told", bound_s=300)

        tell_both()
        runs_of = [world.told(one)["run"] for one in (passed, failed)]
        # As if the server had died before it wrote that it had told.
        with small.database.write() as session:
            for row in session.scalars(select(RetrainingRow)):
                row.track_at = small.now
        tell_both()
        assert [world.told(one)["run"] for one in (passed, failed)] == runs_of
        body = json.dumps({"experiment_ids": ["1"], "max_results": 10}).encode()
        request = urllib.request.Request(
            f"{real}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            runs = json.load(answer)["runs"]
        assert {one["info"]["run_id"] for one in runs} == {
            world.told(one)["run"] for one in (passed, failed)
        }
        assert {one["info"]["status"] for one in runs} == {"FINISHED", "FAILED"}
        data = runs[0]["data"]
        params = {one["key"]: one["value"] for one in data["params"]}
        metrics = {one["key"]: one["value"] for one in data["metrics"]}
        assert params["trainer"] == "head"
        assert metrics["new.challenger_accuracy"] == pytest.approx(44 / 48)
