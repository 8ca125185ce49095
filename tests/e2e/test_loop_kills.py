"""A run of a loop whose server is killed at every stage: it is promoted once, and nothing doubled.

The real server process is killed alone, as the kernel's out-of-memory killer does it: what it has
started has to notice by itself. Samples and labels are put where devices and people put theirs; all
else is real: the dataset, the trainer's child, gates, push, and a rollout to two devices.
"""

import signal

import pytest
from sqlalchemy import func, select

from e2e.learned import NAMES, alive, label, put_samples, trainers_of
from edgectl.demo.activity_data import LABELS
from edgectl.types import (
    LoopPolicySpec,
    LoopSampling,
    LoopTriggers,
    PhaseSpec,
    RolloutPolicy,
)
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import (
    DatasetRow,
    Job,
    LoopEventRow,
    LoopRunRow,
    ModelVersion,
    RetrainingRow,
    Rollout,
)
from waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

WANTED = 240
STEP_S = 240.0
ASKED = 1_000_000
POLICY = LoopPolicySpec(
    triggers=LoopTriggers(drift=[]),
    sampling=LoopSampling(bytes_per_day=ASKED, reasons=["random"]),
    labels_min=WANTED,
    collect_max_s=3600.0,
    look_back_s=86400.0,
    ratios=(0.7, 0.0, 0.3),
    old_drop_points_max=10.0,
    approvals=["training", "rollout"],
    rollout=RolloutPolicy(
        observe_s=1.0,
        class_shift_max=None,
        disagreement_max=None,
        latency_ratio_max=None,
        phases=[PhaseSpec(name="canary", devices=1, soak_s=8.0)],
    ),
)


class Run:
    """The server under test, its run, and what is killed."""

    def __init__(self, server):
        self.server = server
        self.database = Database(f"sqlite:///{server.data / 'edgectl.sqlite'}")
        self.children = set()

    def kill(self):
        """Kill the server process alone; what it has started must end by itself. Start it again."""
        children = trainers_of(self.server.popen.pid)
        self.children |= children
        self.server.signal(signal.SIGKILL)
        self.server.popen.wait(10)
        wait_for(lambda: not alive(children), "the end of what the server had started")
        self.server.start()
        return len(children)

    def state(self):
        return self.server.client.loop("har").run.state

    def reach(self, *states):
        def look():
            found = self.server.client.loop("har")
            assert not found.trouble, found.trouble
            assert found.run.ended_at is None or found.run.state in states, found.run.note
            return found.run.state in states

        wait_for(look, f"the run to be {states}", bound_s=STEP_S)

    def asked_bytes(self):
        return self.server.client.sample_policy("har").bytes_per_day

    def approve(self):
        seen = self.server.client.loop("har")
        assert seen.run is not None
        assert seen.approval is not None, seen.why
        self.server.client.approve_loop("har", seen.run.id, seen.approval, "test")

    def dataset(self):
        found = self.server.client.loop("har")
        assert not found.trouble, found.trouble
        with self.database.read() as session:
            return session.scalar(select(DatasetRow.id))


def test_a_run_survives_the_death_of_its_server_at_every_stage(start, pushed, activity):
    data = {role: activity[role] for role in ("calibration", "evaluation")}
    folder = pushed("har", {"1": activity["model"]}, labels=list(LABELS), **data)
    server = start.server(data=folder, settings={"loop_period_s": "1"})
    for name in NAMES:
        start.agent(server, name)
    first = server.roll_out("har", "1", observe_s=1.0)
    server.wait_rollout(first)
    samples = put_samples(server, activity, WANTED)
    run = Run(server)
    server.client.put_loop("har", POLICY)
    server.client.act_on_loop("har", "run", "test")
    try:
        # Collecting: devices have been asked for samples, half of the labels are there.
        wait_for(lambda: run.asked_bytes() == ASKED, "samples to be asked for", bound_s=STEP_S)
        label(server, samples[: WANTED // 2])
        run.kill()
        assert run.state() == "collecting"
        # The dataset is being made, or has just been: the last label is what it waited for.
        label(server, samples[WANTED // 2 :])
        # A loop that was being looked at when the server died is looked at again after a minute.
        wait_for(run.dataset, "the dataset", bound_s=STEP_S)
        run.kill()
        run.reach("dataset")
        assert run.asked_bytes() == 0, "samples are taken as before"
        run.kill()
        # Training: the child is at work.
        run.approve()
        wait_for(lambda: trainers_of(server.popen.pid), "the trainer", bound_s=STEP_S)
        assert run.kill() > 0
        # Gated: the candidate is pushed, or waits for a person.
        run.reach("gated")
        run.kill()
        run.approve()
        # Canary: the first device has its order.
        run.reach("canary", "rollout")
        run.kill()
        run.reach("promoted")
        run.kill()
    finally:
        run.database.close()
    check(run)


def check(run):
    """Check that everything was made once."""
    ended = run.server.client.loop("har")
    assert ended.run.state == "promoted", ended.run.note
    version = ended.run.version
    told = run.server.client.loop_run("har", ended.run.id)
    # The rollout may have ended before the loop was looked at again.
    assert [one.state for one in told.steps if one.state != "rollout"] == [
        "collecting", "dataset", "training", "gated", "canary", "promoted",
    ]  # fmt: skip
    assert told.transfer is not None
    database = Database(f"sqlite:///{run.server.data / 'edgectl.sqlite'}")
    try:
        with database.read() as session:
            assert session.scalars(select(DatasetRow.id)).all() == [ended.run.dataset]
            assert session.scalars(select(RetrainingRow.id)).all() == [ended.run.retraining]
            assert sorted(session.scalars(select(ModelVersion.version))) == sorted(["1", version])
            assert session.scalar(select(func.count()).select_from(LoopRunRow)) == 1
            of = select(Rollout.id).join(ModelVersion, Rollout.version_id == ModelVersion.id)
            assert session.scalars(of.where(ModelVersion.version == version)).all() == [
                ended.run.rollout
            ]
            kinds = list(session.scalars(select(LoopEventRow.kind)))
            for kind in ("dataset", "training", "gated", "canary", "promoted"):
                assert kinds.count(kind) == 1, kinds
            assert kinds.count("rollout") <= 1, kinds
            states = session.execute(select(Job.kind, Job.state)).all()
            assert {state for _, state in states} == {"succeeded"}, states
    finally:
        database.close()
    assert run.children
    assert not alive(run.children)
    assert not list((run.server.data / "trainings").iterdir())
