"""The push job with the real pipeline, real signatures and a real model; cut at every step.

The database is the same code behind SQLAlchemy. What writes rows that differ in kind (made, refused
with a report, cancelled, begun again after a crash) is done on PostgreSQL as well; what only the
pipeline decides is done once, because each push is a search of several seconds.
"""

import errno
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from onnx import TensorProto, helper
from sqlalchemy import select

from edgectl_protocol.manifest import (
    CONFIG_FILE,
    decode_config,
    decode_manifest,
    layer_by_file,
    model_layer,
)
from edgectl_protocol.metadata import target_path
from edgectl_server.audit import AuditLog
from edgectl_server.backup.resumption import AHEAD_MIN, Restored, resume_rows
from edgectl_server.bundle_documents import BundleDocuments
from edgectl_server.clock import now
from edgectl_server.errors import Unavailable
from edgectl_server.jobs import Jobs
from edgectl_server.known_trials import KnownTrials
from edgectl_server.ordering import variants_of
from edgectl_server.push import PushHandler
from edgectl_server.registry import PUSH, Registry
from edgectl_server.schemas import PushOptions, PushRequest, Report
from edgectl_server.settings import Settings
from edgectl_server.signing.content_keys import ContentKeys
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.microcontroller_key import MicrocontrollerKey
from edgectl_server.signing.repository import Repository
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.tables import Blob, BundleVariant, ModelVersion
from edgectl_server.trial_sharing import TrialSharing
from edgectl_server.version_signing import VersionSigning
from pipeline import crafted

ACTIVITY = Path(__file__).parents[3] / "server/edgectl/demo/activity"


class Crash(BaseException):
    """The process ends here."""


class Published:
    """Takes what would go to the broker; `fail` is raised once."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.count = 0
        self.fail: BaseException | None = None

    def publish_metadata(self) -> None:
        if self.fail is not None:
            fail, self.fail = self.fail, None
            raise fail
        self.count += 1


class World:
    """What survives a crash, and a server on it."""

    def __init__(self, directory: Path, database) -> None:
        self.directory = directory
        self.database = database
        self.blobs = BlobStore(str(directory / "blobs"))
        self.files = {
            name: self.blobs.add_file(ACTIVITY / file).removeprefix("sha256:")
            for name, file in (
                ("model", "har_v1.onnx"),
                ("calibration", "calibration.npz"),
                ("evaluation", "eval.npz"),
            )
        }
        self.start()

    def start(self) -> None:
        keys = Keys.open(self.directory / "keys")
        self.repository = Repository.open(self.directory / "tuf", keys, now())
        self.publisher = Published(self.repository)
        self.signing = VersionSigning(self.database, self.repository, now)
        self.jobs = Jobs(self.database, now)
        self.handler = PushHandler(
            self.directory / "jobs",
            settings=Settings(data=str(self.directory)),
            database=self.database,
            blobs=self.blobs,
            repository=self.repository,
            signing=self.signing,
            content_keys=ContentKeys.open(self.directory / "keys"),
            microcontrollers=MicrocontrollerKey(self.directory / "keys"),
            known_trials=KnownTrials(self.database, self.blobs, now, bytes_max=2**30),
            sharing=TrialSharing(self.database, self.blobs, self.jobs, now),
            publisher=self.publisher,
            now=now,
        )
        self.jobs.register(PUSH, self.handler)
        self.registry = Registry(
            self.database, self.blobs, self.jobs, now, shares=list, waits_for=self.signing.waits_for
        )

    def push(self, **more):
        request = PushRequest(filename="har.onnx", **{**self.files, **more})
        return self.registry.push("har", request, "anna")

    def work(self) -> None:
        """Do one job here, so that a `Crash` comes out here."""
        context = self.jobs._claim()
        assert context is not None
        self.jobs._work(context)

    def crash_and_restart(self) -> None:
        with self.database.write() as session:
            for job in session.query(type(self.jobs.get(self.job_id()))):
                job.lease_until = now()
        self.start()

    def job_id(self) -> str:
        with self.database.read() as session:
            return session.scalars(select(ModelVersion.job)).one()

    def version(self) -> ModelVersion:
        with self.database.read() as session:
            return session.scalars(select(ModelVersion)).one()

    def variants(self) -> list[tuple[str, str]]:
        with self.database.read() as session:
            rows = session.scalars(select(BundleVariant).order_by(BundleVariant.rank))
            return [(row.target, row.manifest) for row in rows]


@pytest.fixture
def world(tmp_path, sqlite):
    return World(tmp_path, sqlite)


@pytest.fixture
def world_anywhere(tmp_path, database):
    """On both databases."""
    return World(tmp_path, database)


def check_published(world: World) -> None:
    assert world.version().state == "ready"
    variants = world.variants()
    assert variants
    for target, manifest in variants:
        signed = world.repository.find(target)
        assert signed is not None
        assert signed.hashes["sha256"] == manifest.removeprefix("sha256:")
        assert signed.length == world.blobs.size(manifest)
        with world.database.read() as session:
            for layer in decode_manifest(world.blobs.read(manifest)).layers:
                assert world.blobs.size(layer.digest) == layer.size
                assert session.get(Blob, layer.digest).size == layer.size
    assert world.publisher.count >= 1
    assert list((world.directory / "jobs").iterdir()) == []


def test_a_real_model_with_real_data(world):
    accepted = world.push()
    world.work()
    job = world.jobs.get(accepted.job)
    assert (job.state, job.error) == ("succeeded", None)
    assert job.progress["stage"] == "publish"
    check_published(world)
    detail = world.registry.version("har", "1")
    assert isinstance(detail.report, Report)
    assert detail.metric == "accuracy"
    assert detail.report.reference > 0.8
    assert {variant.precision for variant in detail.variants} == {"fp32", "int8"}
    assert detail.best == detail.variants[0]
    assert len(job.result["variants"]) == len(detail.variants)
    assert world.push().created is False


def test_the_same_files_are_not_tried_again(world):
    world.push()
    world.work()
    assert not any(trial.known for trial in world.registry.version("har", "1").report.trials)
    world.push(options=PushOptions(max_drop_points=0.5))
    world.work()
    first, second = (world.registry.version("har", one).report for one in ("1", "2"))
    tried = [trial for trial in second.trials if trial.recipe != "fp32"]
    assert tried
    assert all(trial.known for trial in tried)
    for before, after in zip(first.trials, second.trials, strict=True):
        assert (before.recipe, before.value, before.size_bytes) == (
            after.recipe,
            after.value,
            after.size_bytes,
        )


def test_a_successor_is_compared_with_its_parent(world):
    world.push()
    world.work()
    options = PushOptions(max_drop_points=0.5)
    world.push(options=options, parent="1")
    world.work()
    report = world.registry.version("har", "2").report
    rows = {trial.recipe: trial for trial in report.trials}
    published = world.registry.version("har", "1").best.trial.recipe
    assert rows[f"{published}-parent"].status == "accepted"
    assert rows[published].update_bytes < 2000, "it is the same model"
    assert rows["int8-dynamic"].update_bytes > 10_000
    assert rows["fp32"].update_bytes is None


def test_a_successor_in_small_steps(world, tmp_path):
    world.push()
    world.work()
    crafted.retrained(ACTIVITY / "har_v1.onnx", tmp_path / "v2.onnx", 0.05)
    model = world.blobs.add_file(tmp_path / "v2.onnx").removeprefix("sha256:")
    world.push(options=PushOptions(update_budget_points=0.5), parent="1", model=model)
    world.work()
    detail = world.registry.version("har", "2")
    found = {one.variant: one for one in detail.report.small_steps}
    assert set(found) == {one.variant for one in detail.variants}
    fp32 = found["fp32"]
    assert fp32.released_bytes < 0.3 * fp32.trained_bytes
    published = {one.variant: one for one in detail.variants}
    assert published["fp32"].trial.recipe == fp32.released
    lineage = BundleDocuments(world.database, world.blobs).lineage("har", "2")
    steps_from = {one.variant: one.steps_from for one in lineage.variants}
    before = world.registry.version("har", "1").variants
    manifest = next(one.manifest for one in before if one.variant == "fp32")
    parent = model_layer(decode_manifest(world.blobs.read(manifest)))
    assert steps_from["fp32"] == parent.digest
    assert world.push(options=PushOptions(update_budget_points=0.5), parent="1", model=model
                      ).created is False  # fmt: skip


def test_a_crash_at_every_step_ends_the_same(world_anywhere, monkeypatch):
    world = world_anywhere
    runs = []
    packed = PushHandler._packed

    def counting(self, context, version, directory):
        runs.append(1)
        if len(runs) == 1:
            raise Crash
        return packed(self, context, version, directory)

    monkeypatch.setattr(PushHandler, "_packed", counting)
    world.push()

    def crash() -> None:
        world.jobs._attempts_max = 10
        with pytest.raises(Crash):
            world.work()
        assert world.version().state == "processing"
        world.crash_and_restart()

    crash()  # before anything was made
    assert world.variants() == []

    def add_targets(targets, at):
        raise Crash

    monkeypatch.setattr(world.repository, "add_targets", add_targets)
    crash()  # made, not signed
    made = world.variants()
    assert made
    world.publisher.fail = Crash()
    crash()  # signed, not published
    assert world.repository.find(made[0][0]) is not None
    world.publisher.publish_metadata = lambda: monkeypatch.setattr(
        "edgectl_server.jobs.JobContext.finish", crashing
    )

    def crashing(self, session, result):
        monkeypatch.undo()
        raise Crash

    world.jobs._attempts_max = 10
    crash()  # published, not ended
    world.jobs._attempts_max = 10
    world.work()
    check_published(world)
    assert world.variants() == made
    assert len(runs) == 2


def test_an_unavailable_broker_is_waited_for(world_anywhere, monkeypatch):
    world = world_anywhere
    monkeypatch.setattr("edgectl_server.jobs._RETRY_S", 0.0)
    accepted = world.push(evaluation=None)
    world.publisher.fail = Unavailable("broker.away", "the broker does not answer")
    world.work()
    job = world.jobs.get(accepted.job)
    assert job.state == "queued"
    assert "does not answer" in job.progress["message"]
    world.work()
    check_published(world)


def test_what_is_no_model_is_refused_and_may_be_pushed_again(world_anywhere):
    world = world_anywhere
    garbage = world.blobs.add_bytes(b"not an ONNX file").removeprefix("sha256:")
    accepted = world.push(model=garbage)
    world.work()
    job = world.jobs.get(accepted.job)
    assert job.state == "failed"
    assert job.error["code"].startswith("model.")
    assert job.error["title"] == "The push was refused"
    detail = world.registry.version("har", "1")
    assert (detail.state, detail.error.code) == ("refused", job.error["code"])
    assert world.variants() == []
    again = world.push(model=garbage)
    assert again.created
    assert again.job != accepted.job
    assert list((world.directory / "jobs").iterdir()) == []


def unquantizable(directory: Path) -> dict[str, Path]:
    """Make a model that int8 ruins: beside one huge weight the others are rounded to nothing.

    The huge weight is the same for every class, so that it decides nothing.
    """
    random = np.random.default_rng(1)
    weights = random.normal(size=(8, 4)).astype(np.float32)
    weights[0] = 1e4
    windows = random.normal(size=(256, 8)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weights"], ["scores"])],
        "unquantizable",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor("weights", TensorProto.FLOAT, (8, 4), weights.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, directory / "model.onnx")
    np.savez(directory / "calibration.npz", input=windows[:64])
    labels = (windows[:, 1:] @ weights[1:]).argmax(1)
    np.savez(directory / "evaluation.npz", input=windows, label=labels)
    return {
        "model": directory / "model.onnx",
        "calibration": directory / "calibration.npz",
        "evaluation": directory / "evaluation.npz",
    }


def test_a_refusal_for_accuracy_keeps_its_report(world_anywhere, tmp_path):
    world = world_anywhere
    files = {
        name: world.blobs.add_file(path).removeprefix("sha256:")
        for name, path in unquantizable(tmp_path).items()
    }
    accepted = world.push(**files)
    world.work()
    job = world.jobs.get(accepted.job)
    assert (job.state, job.error["code"]) == ("failed", "pipeline.accuracy")
    detail = world.registry.version("har", "1")
    assert (detail.state, detail.variants) == ("refused", [])
    tried = [trial for trial in detail.report.trials if trial.precision == "int8"]
    assert tried
    assert all(trial.status != "accepted" for trial in tried)
    assert world.repository.find(target_path("har", "1", "fp32")) is None


def test_cancelling_stops_the_pipeline(world_anywhere):
    world = world_anywhere
    accepted = world.push()
    context = world.jobs._claim()
    world.jobs._current = context
    seen = []
    progress = context.progress

    def cancel_when_working(stage, message="", done=0, total=0):
        progress(stage, message, done, total)
        if stage == "quantize" and not seen:
            seen.append(1)
            world.jobs.cancel(accepted.job)

    context.progress = cancel_when_working
    world.jobs._work(context)
    assert seen
    assert world.jobs.get(accepted.job).state == "cancelled"
    assert world.version().state == "failed"
    assert world.push().created


def test_a_full_disk_is_said(world, monkeypatch):
    def full(digest, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(world.blobs, "copy_to", full)
    accepted = world.push()
    world.work()
    assert world.jobs.get(accepted.job).error["code"] == "push.disk"
    assert world.version().state == "failed"
    assert list((world.directory / "jobs").iterdir()) == []
    monkeypatch.undo()
    assert world.push().created
    world.work()
    check_published(world)


def test_lineage_reaches_the_bundle(world):
    world.push(evaluation=None, code_revision="abc", training_data="sha256:" + "1" * 64)
    world.work()
    _, manifest = world.variants()[0]
    layers = {one.file: one for one in decode_manifest(world.blobs.read(manifest)).layers}
    config = world.blobs.read(layers["edgectl.json"].digest)
    for text in (b'"abc"', b'"anna"', b"sha256:" + b"1" * 64, world.files["model"].encode()):
        assert text in config
    assert hashlib.sha256(config).hexdigest() == layers["edgectl.json"].digest[7:]


def test_steps_and_shapes_reach_the_bundle(world):
    """A pushed model whose time is free, declared steps, and class names from them."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["input"], ["scores"], axes=[2], keepdims=0)],
        "means",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, "time"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    world.files = {
        "model": world.blobs.add_bytes(model.SerializeToString()).removeprefix("sha256:")
    }
    steps = """
        [[input]]
        datatype = "INT16"
        layout = "NTC"
        shape = ["N", 50, 3]
        steps = [{do = "layout", to = "NCT"}, {do = "scale", divide = 100}]
        [[output]]
        name = "probabilities"
        steps = [{do = "softmax"}, {do = "labels", names = ["x", "y", "z"]}]
        """
    options = {"processing": steps, "precisions": ["fp32"]}
    world.push(options=options)
    world.work()
    refused = world.registry.version("har", "1")
    assert refused.error.code == "model.shape"
    assert "--input-shape input=Nx3x128" in refused.error.hint
    accepted = world.push(options=options | {"input_shapes": {"input": [-1, 3, 50]}})
    world.work()
    assert world.jobs.get(accepted.job).error is None
    detail = world.registry.version("har", "2")
    assert detail.labels == ["x", "y", "z"]
    assert [line.split(":")[0] for line in detail.report.processing] == [
        "input input",
        "output scores",
    ]
    _, manifest = world.variants()[0]
    layers = {one.file: one for one in decode_manifest(world.blobs.read(manifest)).layers}
    config = decode_config(world.blobs.read(layers["edgectl.json"].digest))
    assert [(one.datatype, one.shape) for one in config.inputs] == [("INT16", (-1, 50, 3))]
    assert (config.outputs[0].name, config.labels) == ("probabilities", ("x", "y", "z"))
    assert list(config.processing) == detail.report.processing


QUICK = {"precisions": ["fp32"]}


def end_of(world, accepted):
    """Do the job and return the job's row."""
    world.work()
    return world.jobs.get(accepted.job)


def test_a_version_that_breaks_the_contract_is_refused_unless_it_is_allowed(world):
    names = ["walking", "up", "down", "sitting", "standing", "lying", "transition"]
    first = world.push(options={"labels": names, **QUICK})
    assert end_of(world, first).state == "succeeded"
    turned = {"labels": names[::-1], **QUICK}
    refused = end_of(world, world.push(options=turned))
    assert (refused.state, refused.error["code"]) == ("failed", "pipeline.contract")
    assert "version 1" in refused.error["detail"]
    detail = world.registry.version("har", "2")
    assert detail.state == "refused"
    assert next(gate for gate in detail.report.gates if gate.name == "contract").status == "failed"
    allowed = world.push(options={**turned, "allow": ["contract"]})
    assert end_of(world, allowed).state == "succeeded"
    with world.database.read() as session:
        rows = session.scalars(select(BundleVariant).where(BundleVariant.version_id == 3)).all()
    for row in rows:
        layer = layer_by_file(decode_manifest(world.blobs.read(row.manifest)), CONFIG_FILE)
        gates = {one.name: one for one in decode_config(world.blobs.read(layer.digest)).gates}
        assert gates["contract"].status == "overridden"
        assert gates["contract"].overridden_by == "anna"


def test_ones_own_metric_and_the_agreement_with_the_version_before(world):
    assert end_of(world, world.push(options=QUICK)).state == "succeeded"
    source = (
        b"def metric(outputs, labels, inputs):\n"
        b"    return (outputs['logits'].argmax(axis=1) == labels).mean()"
    )
    own = world.blobs.add_bytes(source).removeprefix("sha256:")
    asked = {**QUICK, "require": ["own>=0.9", "parent_agreement>=0.99"]}
    assert end_of(world, world.push(own_metric=own, options=asked)).state == "succeeded"
    report = world.registry.version("har", "2").report
    assert report.metric == "own"
    measured = {gate.name: gate.measured for gate in report.gates}
    assert measured["own"] == pytest.approx(0.954, abs=0.002)
    assert measured["parent_agreement"] == 1.0


def test_a_tflite_file_is_published_as_it_is(world):
    """It is nobody's parent: the next version, as ONNX, has no scales to keep."""
    sine = Path(__file__).parents[2] / "data/tflite/hello_world_int8.tflite"
    model = world.blobs.add_file(sine).removeprefix("sha256:")
    world.push(model=model, calibration=None, evaluation=None)
    world.work()
    check_published(world)
    detail = world.registry.version("har", "1")
    assert [(one.variant, one.precision) for one in detail.variants] == [("int8", "int8")]
    assert [trial.runtime for trial in detail.report.trials] == ["litert"]
    with world.database.read() as session:
        (facts,) = variants_of(session, world.version().id)
    assert (facts.runtime, facts.precision) == ("litert", "int8")
    world.push(parent="1", options=PushOptions(allow=["contract"]))
    world.work()
    second = world.registry.version("har", "2")
    assert second.state == "ready"
    assert all(trial.update_bytes is None for trial in second.report.trials)
    assert {trial.runtime for trial in second.report.trials} == {"onnxruntime"}


def test_a_variant_for_microcontrollers_is_signed_with_their_key(world):
    """The counter grows with every version, so that no device takes an older one for a newer."""
    options = PushOptions(runtimes=["cortex-m"], precisions=["int8"])
    AuditLog(world.database, now)
    mark = Restored(made_at=now(), restored_at=now(), carry_on=False, ahead=AHEAD_MIN)
    resume_rows(world.database, mark, now())
    world.push(options=options)
    world.work()
    check_published(world)
    detail = world.registry.version("har", "1")
    assert [one.variant for one in detail.variants] == ["cortex-m-int8"]
    with world.database.read() as session:
        (facts,) = variants_of(session, world.version().id)
        (variant,) = session.scalars(select(BundleVariant))
    assert (facts.runtime, facts.precision) == ("cortex-m", "int8")
    manifest = decode_manifest(world.blobs.read(variant.manifest))
    bundle = world.blobs.read(model_layer(manifest).digest)
    assert int.from_bytes(bundle[8:16], "little") == world.version().id + AHEAD_MIN
    public = (world.directory / "keys/microcontrollers.pub").read_text()
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    key.verify(bundle[160:224], bundle[:160])


def test_what_a_microcontroller_could_not_open_is_refused(world):
    accepted = world.push(options=PushOptions(runtimes=["cortex-m"], encrypt=["int8"]))
    job = end_of(world, accepted)
    assert (job.state, job.error["code"]) == ("failed", "model.unsupported")
    assert world.version().state == "refused"
