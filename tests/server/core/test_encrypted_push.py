"""An encrypted push with the real pipeline: what the server keeps of it, and what it does not."""

from base64 import b64decode
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from edgectl_protocol.manifest import decode_manifest, is_encrypted, layer_by_file
from edgectl_server.clock import now
from edgectl_server.errors import Conflict, Refused
from edgectl_server.jobs import Jobs
from edgectl_server.known_trials import KnownTrials
from edgectl_server.push import PushHandler
from edgectl_server.registry import PUSH, Registry
from edgectl_server.schemas import PushRequest
from edgectl_server.settings import Settings
from edgectl_server.signing.content_keys import ContentKeys
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.microcontroller_key import MicrocontrollerKey
from edgectl_server.signing.repository import Repository
from edgectl_server.storage.blobs import BlobStore, file_digest
from edgectl_server.storage.tables import Blob, BundleVariant, Job, ModelVersion
from edgectl_server.trial_sharing import TrialSharing
from edgectl_server.uploads import Uploads
from edgectl_server.version_signing import VersionSigning

ACTIVITY = Path(__file__).parents[3] / "server/edgectl/demo/activity"
FILES = {"model": "har_v1.onnx", "calibration": "calibration.npz", "evaluation": "eval.npz"}


class Crash(BaseException):
    """The process ends here."""


class Published:
    """Takes what would go to the broker."""

    fail = False

    def publish_metadata(self) -> None:
        if self.fail:
            self.fail = False
            raise Crash


class World:
    """The push job on a data folder."""

    def __init__(self, directory: Path, database) -> None:
        self.directory = directory
        self.database = database
        self.blobs = BlobStore(str(directory / "blobs"))
        self.publisher = Published()
        keys = Keys.open(directory / "keys")
        self.jobs = Jobs(database, now)
        repository = Repository.open(directory / "tuf", keys, now())
        signing = VersionSigning(database, repository, now)
        handler = PushHandler(
            directory / "jobs",
            settings=Settings(data=str(directory)),
            database=database,
            blobs=self.blobs,
            repository=repository,
            signing=signing,
            content_keys=ContentKeys.open(directory / "keys"),
            microcontrollers=MicrocontrollerKey(directory / "keys"),
            known_trials=KnownTrials(database, self.blobs, now, bytes_max=2**30),
            sharing=TrialSharing(database, self.blobs, self.jobs, now),
            publisher=self.publisher,
            now=now,
        )
        self.jobs.register(PUSH, handler)
        self.registry = Registry(
            database, self.blobs, self.jobs, now, shares=list, waits_for=signing.waits_for
        )

    def upload(self) -> dict[str, str]:
        """Put the files into the store, as finished uploads do."""
        digests = {}
        for name, file in FILES.items():
            digest = self.blobs.add_file(ACTIVITY / file)
            digests[name] = digest.removeprefix("sha256:")
            with self.database.write() as session:
                session.merge(Blob(digest=digest, size=self.blobs.size(digest), created_at=now()))
        return digests

    def push(self, name: str = "har", **options):
        request = PushRequest(filename="har.onnx", options=options, **self.upload())
        return self.registry.push(name, request, "anna")

    def work(self) -> None:
        context = self.jobs._claim()
        assert context is not None
        self.jobs._work(context)

    def sources(self) -> list[bool]:
        """Say of each uploaded file whether it is there."""
        return [self.blobs.exists(digest) for digest in source_digests()]

    def variants(self) -> list[BundleVariant]:
        with self.database.read() as session:
            return list(session.scalars(select(BundleVariant).order_by(BundleVariant.id)))

    def everything(self) -> bytes:
        """All that lies in the folder but for keys."""
        return b"".join(
            file.read_bytes()
            for file in self.directory.rglob("*")
            if file.is_file() and "keys" not in file.relative_to(self.directory).parts
        )


def source_digests() -> list[str]:
    return [file_digest(ACTIVITY / file) for file in FILES.values()]


def marks() -> list[bytes]:
    """Runs of bytes of the model that are found in no other file."""
    plain = (ACTIVITY / FILES["model"]).read_bytes()
    found = [plain[at : at + 48] for at in range(4096, len(plain) - 48, 9973)]
    return [mark for mark in found if len(set(mark)) > 16]


@pytest.fixture
def world(tmp_path, database):
    made = World(tmp_path / "data", database)
    yield made
    made.jobs.close()


@pytest.fixture
def world_of_searches(tmp_path, sqlite):
    """On one database, where the pipeline searches for int8."""
    made = World(tmp_path / "data", sqlite)
    yield made
    made.jobs.close()


def test_the_data_folder_holds_nothing_of_it_in_the_clear(world_of_searches):
    world = world_of_searches
    assert not any(mark in world.everything() for mark in marks())
    accepted = world.push(precisions=["fp32", "int8"], encrypt=["int8", "fp32"])
    assert any(mark in world.everything() for mark in marks()), "the test can find it"
    world.work()
    version = world.registry.version("har", accepted.version)
    assert version.state == "ready", version.error
    assert [one.encrypted for one in version.variants] == [True, True]
    everything = world.everything()
    assert len(marks()) > 5
    assert not any(mark in everything for mark in marks())
    assert world.sources() == [False, False, False]
    for row in world.variants():
        assert row.content_key is not None
        assert len(b64decode(row.content_key)) == 80
        manifest = decode_manifest(world.blobs.read(row.manifest))
        assert is_encrypted(manifest)
        assert row.model_bytes < layer_by_file(manifest, "model.onnx").size
    assert len({row.content_key for row in world.variants()}) == 2


def test_what_is_sent_again_for_a_known_version_is_removed_again(world):
    options = {"precisions": ["fp32"], "encrypt": ["fp32"]}
    first = world.push(**options)
    world.work()
    again = world.push(**options)
    assert (again.version, again.created) == (first.version, False)
    assert world.sources() == [False, False, False]
    request = PushRequest(filename="x", options=options, model=source_digests()[0][7:])
    with pytest.raises(Conflict) as caught:  # nothing was sent this time
        world.registry.push("har", request, "anna")
    assert caught.value.code == "upload.missing"


def test_files_stay_that_a_plain_version_is_made_of(world):
    world.push("plain", precisions=["fp32"])
    world.push("secret", precisions=["fp32"], encrypt=["fp32"])
    world.work()
    world.work()
    assert world.sources() == [True, True, True]


def test_files_stay_while_one_variant_is_plain(world_of_searches):
    world = world_of_searches
    world.push(precisions=["fp32", "int8"], encrypt=["int8"])
    world.work()
    assert world.sources() == [True, True, True]
    assert [row.content_key is not None for row in world.variants()] == [True, False]


def test_a_refused_push_leaves_nothing_either(world):
    # No int8 variant of a model may lose this little: nothing is published.
    accepted = world.push(max_drop_points=0.0, precisions=["int8"], encrypt=["int8"])
    with world.database.write() as session:
        row = session.scalars(select(ModelVersion)).one()
        row.options = row.options | {"labels": ["only one name for seven classes"]}
    world.work()
    assert world.registry.version("har", accepted.version).state in {"refused", "failed"}
    assert world.sources() == [False, False, False]


def test_a_bundle_is_encrypted_once_through_a_crash(world):
    world.push(precisions=["fp32"], encrypt=["fp32"])
    world.publisher.fail = True
    with pytest.raises(Crash):
        world.work()
    (before,) = world.variants()
    with world.database.write() as session:
        session.scalars(select(Job)).one().lease_until = now()
    world.work()
    (after,) = world.variants()
    assert (after.manifest, after.content_key) == (before.manifest, before.content_key)
    assert world.registry.version("har", "1").state == "ready"
    assert world.sources() == [False, False, False]


def test_only_what_is_made_can_be_encrypted(world):
    with pytest.raises(Refused) as caught:
        world.push(precisions=["fp32"], encrypt=["int8"])
    assert caught.value.code == "version.options"


def test_finished_uploads_that_nothing_is_made_of_are_forgotten(world, tmp_path):
    times = [now()]
    uploads = Uploads(
        tmp_path / "uploads",
        Settings(data=str(tmp_path), upload_keep_s=3600),
        world.blobs,
        world.database,
        lambda: times[0],
    )
    world.push(precisions=["fp32"], encrypt=["fp32"])
    world.work()
    world.upload()  # and the client dies before it asks for anything
    orphan = world.blobs.add_bytes(b"asked for by nobody")
    with world.database.write() as session:
        session.merge(Blob(digest=orphan, size=19, created_at=now()))
    assert uploads.forget_unused() == 0
    assert world.sources() == [True, True, True]
    times[0] += timedelta(hours=2)
    assert uploads.forget_unused() == 4
    assert world.sources() == [False, False, False]
    assert not world.blobs.exists(orphan)
    assert uploads.forget_unused() == 0
    (variant,) = world.variants()
    manifest = decode_manifest(world.blobs.read(variant.manifest))
    for descriptor in (manifest.config, *manifest.layers):
        assert world.blobs.exists(descriptor.digest), "what is published stays"


def test_uploads_stay_that_a_plain_version_was_made_of(world, tmp_path):
    later = now() + timedelta(days=400)
    settings = Settings(data=str(tmp_path))
    uploads = Uploads(tmp_path / "uploads", settings, world.blobs, world.database, lambda: later)
    world.push(precisions=["fp32"])
    world.work()
    assert uploads.forget_unused() == 0
    assert world.sources() == [True, True, True]
