"""What the server remembers of trials: content that fits together, within a limit."""

import msgspec
import pytest

from edgectl_protocol.requirements import parse_requirement
from edgectl_server.known_trials import KnownTrials
from edgectl_server.pipeline.gates import Evidence
from edgectl_server.pipeline.known import KNOWN_FOLDER, Measured, recall, remember, trial_key
from edgectl_server.pipeline.spec import PipelineLimits, PipelineSpec, Replaced
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.tables import Blob
from server.fleet.fleet_helpers import Clock

KEY = "a" * 64


class Site:
    def __init__(self, folder, database):
        self.folder, self.database, self.clock = folder, database, Clock()
        self.blobs = BlobStore(str(folder / "blobs"))
        self.trials = KnownTrials(database, self.blobs, self.clock, bytes_max=100)
        self.runs = 0

    def run(self, key=KEY):
        """Return the folder of a new run, with what is known in it."""
        self.runs += 1
        directory = self.folder / f"run-{self.runs}"
        directory.mkdir()
        self.trials.bring(key, directory)
        return directory

    def make(self, directory, recipe, content=b"model", value=0.5):
        target = directory / f"{recipe}.onnx"
        target.write_bytes(content)
        made = Measured(size_bytes=len(content), evidence=Evidence(value=value))
        return remember(directory, recipe, target, made)


@pytest.fixture
def site(tmp_path, database):
    return Site(tmp_path, database)


def test_what_was_measured_is_known_in_the_next_run(site):
    first = site.run()
    site.make(first, "int8-a")
    remember(first, "int8-b", first / "none", Measured(skipped="nothing to do"))
    assert site.trials.keep(KEY, first) == 2
    assert site.trials.keep(KEY, first) == 0
    second = site.run()
    found = recall(second, "int8-a", second / "a.onnx")
    assert (found.evidence.value, found.known) == (0.5, True)
    assert (second / "a.onnx").read_bytes() == b"model"
    assert recall(second, "int8-b", second / "b.onnx").skipped == "nothing to do"
    assert recall(second, "int8-c", second / "c.onnx") is None
    other = site.run("b" * 64)
    assert recall(other, "int8-a", other / "a.onnx") is None


def link(folder):
    (folder / "x.json").symlink_to("/etc/passwd")


def other_model(folder):
    (folder / "x.onnx").write_bytes(b"mine")


def model_is_a_link(folder):
    (folder / "x.onnx").unlink()
    (folder / "x.onnx").symlink_to("/etc/passwd")


@pytest.mark.parametrize("spoil", [link, other_model, model_is_a_link])
def test_what_does_not_fit_together_is_not_kept(site, spoil):
    directory = site.run()
    site.make(directory, "x")
    if spoil is link:
        (directory / KNOWN_FOLDER / "x.json").unlink()
    spoil(directory / KNOWN_FOLDER)
    assert site.trials.keep(KEY, directory) == 0


def test_names_and_rows_of_a_child_that_was_taken_over(site):
    directory = site.run()
    folder = directory / KNOWN_FOLDER
    good = msgspec.json.encode(Measured(skipped="x"))
    for name, content in {
        "A.json": good,
        "..json": good,
        "a b.json": good,
        "nonsense.json": b"[" * 100_000,
        "long.json": good + b" " * 100_000,
        "text.json": b'"x"',
    }.items():
        (folder / name).write_bytes(content)
    (folder / "pipe.json").mkdir()
    for number in range(300):
        (folder / f"z{number}.json").write_bytes(good)
    assert 0 < site.trials.keep(KEY, directory) <= 256


def test_a_model_that_is_lost_is_made_again(site):
    first = site.run()
    site.make(first, "int8-a")
    site.trials.keep(KEY, first)
    for path in (site.folder / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    second = site.run()
    assert recall(second, "int8-a", second / "a.onnx") is None


def test_the_oldest_are_forgotten_beyond_the_limit(site):
    for number in range(4):
        directory = site.run(f"{number}" * 64)
        site.make(directory, "x", bytes([number]) * 40)
        site.trials.keep(f"{number}" * 64, directory)
        site.clock.advance(hours=1)
    assert site.trials.forget() == 0, "all were used within a day"
    site.clock.advance(days=2)
    site.run("0" * 64)  # used again, so it stays
    assert site.trials.forget() == 2
    left = {key for key in "0123" if recall(site.run(key * 64), "x", site.folder / "x.onnx")}
    assert left == {"0", "3"}
    assert sum(path.is_file() for path in (site.folder / "blobs").rglob("*")) == 2


def test_a_published_model_stays(site):
    directory = site.run()
    site.make(directory, "x", b"m" * 200)
    site.trials.keep(KEY, directory)
    digest = site.blobs.add_bytes(b"m" * 200)
    with site.database.write() as session:
        session.add(Blob(digest=digest, size=200, created_at=site.clock(), published=True))
    site.clock.advance(days=2)
    assert site.trials.forget() == 1
    assert site.blobs.exists(digest)


def test_the_key_is_of_all_that_matters_and_of_nothing_else(tmp_path):
    source = tmp_path / "m.onnx"
    source.write_bytes(b"a")
    spec = PipelineSpec(model="m", version="1", source=source)

    def key(**fields):
        return trial_key(msgspec.structs.replace(spec, **fields))

    same = {
        "model": "other", "version": "2", "max_drop_points": 3.0, "labels": ("a", "b"),
        "recipes": ("x",), "objective": "size", "precisions": ("int8",),
        "limits": PipelineLimits(workers=7), "allowed": ("size",), "allowed_by": "ann",
    }  # fmt: skip
    for name, value in same.items():
        assert key(**{name: value}) == key(), name
    other = tmp_path / "other.onnx"
    other.write_bytes(b"b")
    differs = {
        "source": other, "calibration": source, "evaluation": source, "seed": 1,
        "limits": PipelineLimits(calibration_samples_max=3), "metric": "f1", "own_metric": source,
        "requirements": (parse_requirement("auc>=0.5"),),
        "replaced": Replaced(version="1", inputs=(), outputs=(), model=source),
    }  # fmt: skip
    keys = {key(**{name: value}) for name, value in differs.items()} | {key()}
    assert len(keys) == len(differs) + 1
    bounds = {key(requirements=(parse_requirement(f"auc>=0.{n}"),)) for n in (5, 6)}
    assert len(bounds) == 1, "the bound is no part of what was measured"
    other.write_bytes(b"a")
    assert key(source=other) == key(), "the content counts, not the name"
