"""Own trainers through the whole of a retraining: what is worse or does not fit is never pushed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgectl_protocol.names import hex_of
from edgectl_server.jobs import JobContext, JobFailed, Jobs
from edgectl_server.retraining import RetrainHandler, Retrainings
from edgectl_server.schemas import DatasetRequest, RetrainRequest
from edgectl_server.settings import Settings
from edgectl_server.storage.tables import Blob, Job, Model, ModelVersion
from edgectl_server.training.trainers import OwnTrainer
from server.learning.store import CLASSES, Store

SCRIPT = """
import json, os, shutil
blobs = os.listdir(os.path.join(os.environ["EDGECTL_DATASET"], "blobs"))
shutil.copy(os.path.join({folder!r}, "trained.onnx"), "model.onnx")
open("metrics.json", "w").write(json.dumps({{"blobs": len(blobs)}}))
"""
SURE = np.eye(4, 3)
"""Weights by which every class is answered rightly."""


def model(weights: Any, output: str = "y") -> bytes:
    """A linear classifier of inputs that are 1 where the class is, and 0 elsewhere."""
    weights = np.asarray(weights, np.float32)
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], [output])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )
    whole = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(whole)
    return bytes(whole.SerializeToString())


class Trainings:
    """A server with a trainer that gives what it is told to; pushes are noted."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.pushed: list[Any] = []
        scripts = store.folder / "scripts"
        scripts.mkdir()
        (scripts / "train.py").write_text(SCRIPT.format(folder=str(scripts)))
        self.trained = scripts / "trained.onnx"
        command = (sys.executable, "-I", str(scripts / "train.py"))
        own = OwnTrainer(command=command, reads=(str(scripts), sys.prefix, sys.base_prefix))
        parts: Any = {
            "database": store.database,
            "datasets": store.datasets,
            "trainers": {"own": own},
            "now": lambda: store.now,
        }
        self.jobs = Jobs(store.database, lambda: store.now)
        self.retrainings = Retrainings(jobs=self.jobs, **parts)
        registry: Any = SimpleNamespace(push=self._push)
        self.handler = RetrainHandler(
            store.folder / "trainings",
            settings=Settings(data=str(store.folder)),
            blobs=store.bundles,
            registry=registry,
            **parts,
        )
        source = model(np.eye(4, 3) * [1, 0, 0])  # of the first class it is right, else it is tied
        with store.database.write() as session:
            session.add(Model(name="har", created_at=store.now, created_by="anna"))
            digest = store.bundles.add_bytes(source)
            session.add(Blob(digest=digest, size=len(source), created_at=store.now))
            session.flush()
            session.add(
                ModelVersion(
                    model="har", version="1", state="ready", content="", source=digest,
                    source_size=len(source), source_name="", calibration=None, evaluation=None,
                    own_metric=None, options={}, report=None, parent=None, job=None, problem=None,
                    imported=None, created_at=store.now, created_by="anna",
                )
            )  # fmt: skip
        for number in range(30):
            place = number % 3
            store.labelled(
                f"pi-{number % 10}", CLASSES[place], minute=number, values=np.eye(4)[place]
            )
        asked = DatasetRequest(name="new", model="har")
        self.dataset = store.datasets.create(asked, "anna")

    def _push(self, name: str, request: Any, user: str, role: str) -> Any:
        self.pushed.append(request)
        return SimpleNamespace(version="2", job="push")

    def run(self, trained: bytes) -> str:
        """Retrain with a trainer that leaves this; return the retraining's id."""
        self.trained.write_bytes(trained)
        request = RetrainRequest(dataset="new", trainer="own", rows_min=1)
        with self.store.database.write() as session:
            row = self.retrainings.add(
                session, "har", request, self.dataset.id, user="anna", role="operator"
            )
            job = session.get_one(Job, row.id)
            job.state, job.fence = "running", 1
            name, payload = row.id, job.payload
        context = JobContext(
            id=name, payload=payload, fence=1, attempt=1, _database=self.store.database,
            _now=lambda: self.store.now,
        )  # fmt: skip
        self.handler.run(context)
        return name


@pytest.fixture
def trainings(small: Store, tmp_path: Path) -> Trainings:
    tmp_path.chmod(0o755)
    return Trainings(small)


def test_what_is_better_is_pushed_and_was_judged_by_what_its_trainer_has_not_seen(
    trainings: Trainings,
) -> None:
    found = trainings.retrainings.get(trainings.run(model(SURE)))
    splits = trainings.dataset.splits
    assert splits["test"] > 0
    assert found.metrics == {"blobs": splits["train"] + splits["validation"]}
    assert found.new is not None
    assert (found.new.rows, found.new.challenger) == (splits["test"], splits["test"])
    (push,) = trainings.pushed
    candidate = trainings.store.bundles.read(f"sha256:{push.model}")
    assert candidate == model(SURE)
    assert (found.version, push.parent, push.training_data) == ("2", "1", trainings.dataset.id)
    assert hex_of(trainings.dataset.id)


@pytest.mark.parametrize(
    ("trained", "code"),
    [
        (model(-SURE), "training.worse"),
        (model(np.eye(4, 2)), "training.incompatible"),
        (b"no model", "model.not_onnx"),
    ],
    ids=["worse", "other classes", "no model"],
)
def test_what_is_not_better_or_does_not_fit_is_written_down_and_not_pushed(
    trainings: Trainings, trained: bytes, code: str
) -> None:
    with pytest.raises(JobFailed) as refused:
        trainings.run(trained)
    assert refused.value.code == code
    assert trainings.pushed == []
