"""The same inputs and recipe give the same bytes: what is signed can be rebuilt by anybody."""

from __future__ import annotations

import msgspec
import pytest

from edgectl_protocol.manifest import Lineage, decode_manifest
from edgectl_server.pipeline.pack import pack
from edgectl_server.pipeline.provenance import tool_versions
from edgectl_server.pipeline.spec import TrialRow
from edgectl_server.storage.blobs import BlobStore
from pipeline.conftest import run

RECIPES = ("int8-static-minmax-per-channel-reduced", "int8-dynamic", "fp16")


def packed(result, directory, store, labels):
    blobs = BlobStore(str(store))
    made = pack(
        result,
        directory,
        blobs=blobs,
        model="har",
        version="1",
        labels=labels,
        lineage=Lineage(source=result.source, pushed_by="ada"),
        tools=tool_versions(),
        card="For the tests.",
    )
    layers = {
        (one.variant, layer.file): blobs.read(layer.digest)
        for one in made
        for layer in decode_manifest(one.manifest).layers
    }
    return {one.variant: one.digest for one in made}, layers


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_runs_in_two_folders_give_the_same_bundles(activity, tmp_path, recipe):
    made = []
    for name in ("one", "another-longer-one"):
        directory = tmp_path / name / "work"
        directory.mkdir(parents=True)
        done = run(
            directory,
            model="har",
            source=activity / "har_v1.onnx",
            calibration=activity / "calibration.npz",
            evaluation=activity / "eval.npz",
            precisions=("fp32", "fp16" if recipe == "fp16" else "int8"),
            recipes=(recipe,),
        )
        assert [row.recipe for row in done.result.report.trials] == ["fp32", recipe]
        made.append(packed(done.result, directory, tmp_path / name / "blobs", ()))
    (digests, layers), (again, layers_again) = made
    assert len(digests) == 2
    assert {key for key in layers if layers[key] != layers_again[key]} == set()
    assert digests == again


def test_nothing_that_a_clock_or_a_machine_has_measured_is_in_a_bundle(activity_run, tmp_path):
    """The same run on a machine that is slower, fuller and called otherwise."""
    result = activity_run.result

    def slower(row: TrialRow) -> TrialRow:
        return msgspec.structs.replace(
            row, latency_p50_us=123456.7, latency_p95_us=234567.8, seconds=98.7
        )

    report = msgspec.structs.replace(
        result.report,
        trials=tuple(slower(row) for row in result.report.trials[:3]),
        measured_on="an abacus",
        search_s=4321.0,
        warnings=("The time for the search was up.",),
    )
    candidates = tuple(
        msgspec.structs.replace(one, trial=slower(one.trial), rss_bytes=7, rank=5 - one.rank)
        for one in result.candidates
    )
    other = msgspec.structs.replace(result, report=report, candidates=candidates)
    labels = activity_run.spec.labels
    first = packed(result, activity_run.directory, tmp_path / "a", labels)
    assert packed(other, activity_run.directory, tmp_path / "b", labels) == first
