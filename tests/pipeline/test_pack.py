"""Bundles: what they hold, that a device can read them, and that packing is deterministic."""

import dataclasses
import hashlib
import json
import shutil

import msgspec
import numpy as np
import pytest

from edgectl_protocol.chunks import (
    BLOB_BYTES_MAX,
    CHUNK_BYTES,
    INDEX_ANNOTATION,
    chunk_count,
    parse_index,
)
from edgectl_protocol.manifest import (
    Lineage,
    decode_config,
    decode_manifest,
    device_layers,
    layer_by_file,
    offered_layers,
)
from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import decode_reference, decode_watched, watched_of
from edgectl_server.pipeline.errors import PipelineFailed, PipelineRefused
from edgectl_server.pipeline.pack import pack
from edgectl_server.schemas import Trial
from edgectl_server.storage.blobs import BlobStore


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(str(tmp_path / "blobs"))


def pack_run(run, blobs, **changes):
    lineage = Lineage(source=run.result.source, pushed_by="ada", parent="0")
    fields = {"model": "har", "version": "1", "labels": run.spec.labels, "lineage": lineage}
    return pack(run.result, run.directory, blobs=blobs, **(fields | changes))


def test_a_bundle_is_what_the_contract_says(activity_run, blobs):
    packed = pack_run(activity_run, blobs)
    assert [(one.variant, one.rank) for one in packed] == [("int8", 0), ("fp32", 1)]
    for one in packed:
        assert one.digest == digest_of(one.manifest)
        assert blobs.read(one.digest) == one.manifest
        assert one.target == f"models/har/1/{one.variant}"
        manifest = decode_manifest(one.manifest)
        files = [layer.file for layer in manifest.layers]
        assert files == [
            "model.onnx", "edgectl.json", "golden.npz", "reference.json", "watched.json",
            "model-card.md", "sbom.cdx.json",
        ]  # fmt: skip
        for descriptor in (manifest.config, *manifest.layers):
            content = blobs.read(descriptor.digest)
            assert digest_of(content) == descriptor.digest
            assert len(content) == descriptor.size
        assert one.model_bytes == layer_by_file(manifest, "model.onnx").size
        assert Trial.model_validate(one.trial).status == "accepted"


def test_devices_fetch_what_they_count_and_older_ones_the_counts_too(activity_run, blobs):
    for one in pack_run(activity_run, blobs):
        manifest = decode_manifest(one.manifest)
        files = [layer.file for layer in device_layers(manifest)]
        assert files == ["model.onnx", "edgectl.json", "golden.npz", "watched.json"]
        offered = [layer.file for layer in offered_layers(manifest)]
        assert offered == [*files[:-1], "reference.json", "watched.json"]
        content = {
            file: blobs.read(layer_by_file(manifest, file).digest)
            for file in ("reference.json", "watched.json")
        }
        watched = decode_watched(content["watched.json"])
        assert watched == watched_of(decode_reference(content["reference.json"]))
        assert b"counts" not in content["watched.json"]


def test_the_description_is_complete(activity_run, blobs):
    for one in pack_run(activity_run, blobs):
        manifest = decode_manifest(one.manifest)
        config = decode_config(blobs.read(layer_by_file(manifest, "edgectl.json").digest))
        assert (config.model, config.version, config.variant) == ("har", "1", one.variant)
        assert config.precision == one.precision
        assert config.labels == activity_run.spec.labels
        assert config.lineage.pushed_by == "ada"
        source = activity_run.spec.source.read_bytes()
        assert config.lineage.source == digest_of(source)
        calibration = activity_run.spec.calibration.read_bytes()
        if one.variant == "int8":
            assert config.quantization.calibration == digest_of(calibration)
        assert config.evaluation.dataset == digest_of(activity_run.spec.evaluation.read_bytes())


def test_long_layers_have_their_chunk_index_in_the_store(activity_run, blobs):
    for one in pack_run(activity_run, blobs):
        manifest = decode_manifest(one.manifest)
        wire = len(one.manifest)
        for layer in manifest.layers:
            content = blobs.read(layer.digest)
            index_bytes = 0
            if layer.size > CHUNK_BYTES:
                index = blobs.read(layer.annotations[INDEX_ANNOTATION])
                index_bytes = len(index)
                digests = parse_index(index, digest=layer.chunk_index, length=layer.size)
                assert len(digests) == chunk_count(layer.size)
                last = content[(len(digests) - 1) * CHUNK_BYTES :]
                assert digests[-1] == hashlib.sha256(last).digest()
            else:
                assert layer.chunk_index is None
            if layer in device_layers(manifest):
                wire += layer.size + index_bytes
        assert one.bundle_bytes == wire


def test_the_model_pack_config_has_no_field_of_ours(activity_run, blobs):
    for one in pack_run(activity_run, blobs):
        manifest = decode_manifest(one.manifest)
        config = json.loads(blobs.read(manifest.config.digest))
        assert set(config) == {"descriptor", "modelfs", "config"}
        assert set(config["descriptor"]) == {"name", "version"}
        assert set(config["config"]) == {"format", "paramSize", "precision", "quantization"}
        assert config["modelfs"] == {
            "type": "layers",
            "diffIds": [layer.digest for layer in manifest.layers],
        }


def test_packing_twice_gives_the_same_bytes(activity_run, blobs, tmp_path):
    first = pack_run(activity_run, blobs)
    assert pack_run(activity_run, blobs) == first
    assert pack_run(activity_run, BlobStore(str(tmp_path / "other"))) == first
    assert pack_run(activity_run, blobs, version="2")[0].digest != first[0].digest


def test_json_is_sorted(activity_run, blobs):
    for one in pack_run(activity_run, blobs):
        assert one.manifest == json.dumps(
            json.loads(one.manifest), sort_keys=True, separators=(",", ":")
        ).encode("ascii")


def test_golden_is_the_same_file_when_it_is_written_again(activity_run, tmp_path):
    original = (activity_run.directory / "int8/golden.npz").read_bytes()
    arrays = np.load(activity_run.directory / "int8/golden.npz", allow_pickle=False)
    np.savez(tmp_path / "again.npz", **{name: arrays[name] for name in arrays.files})
    assert (tmp_path / "again.npz").read_bytes() == original


def test_class_names_are_left_out_where_nothing_is_scored(activity_run, blobs):
    candidates = tuple(
        msgspec.structs.replace(one, scores=None) for one in activity_run.result.candidates
    )
    result = msgspec.structs.replace(activity_run.result, candidates=candidates)
    lineage = Lineage(source=result.source)
    packed = pack(
        result,
        activity_run.directory,
        blobs=blobs,
        model="har",
        version="1",
        labels=activity_run.spec.labels,
        lineage=lineage,
    )
    manifest = decode_manifest(packed[0].manifest)
    config = decode_config(blobs.read(layer_by_file(manifest, "edgectl.json").digest))
    assert config.labels == ()


@pytest.mark.parametrize("kind", ["missing", "link", "folder link"])
def test_files_of_the_child_are_not_believed(activity_run, blobs, tmp_path, kind):
    directory = tmp_path / "run"
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "model.onnx").write_bytes(b"not yours")
    for variant in ("int8", "fp32"):
        if kind == "folder link":
            directory.mkdir(exist_ok=True)
            (directory / variant).symlink_to(secret)
            continue
        (directory / variant).mkdir(parents=True)
        if kind == "link":
            (directory / variant / "model.onnx").symlink_to(secret / "model.onnx")
    with pytest.raises(PipelineFailed) as caught:
        pack(
            activity_run.result,
            directory,
            blobs=blobs,
            model="har",
            version="1",
            labels=(),
            lineage=Lineage(source=activity_run.result.source),
        )
    assert caught.value.code == "pipeline.crashed"


@pytest.mark.parametrize("encrypt", [(), ("int8",)])
def test_what_is_longer_than_devices_can_fetch_is_refused(
    activity_run, blobs, tmp_path, monkeypatch, encrypt
):
    """What a model is pushed as may fit, and what it has become by then may not."""
    path = tmp_path / "int8" / "model.onnx"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(BLOB_BYTES_MAX + (0 if encrypt else 1))
    if encrypt:  # with its tags it is longer
        monkeypatch.setattr("edgectl_server.pipeline.pack.encrypt_layer", grown)
    with pytest.raises(PipelineRefused) as caught:
        pack_run(dataclasses.replace(activity_run, directory=tmp_path), blobs, encrypt=encrypt)
    assert caught.value.code == "model.too_large"
    assert str(BLOB_BYTES_MAX) in caught.value.hint


def grown(plain, sealed, **_):
    with sealed.open("xb") as file:
        file.truncate(plain.stat().st_size + 16)


def test_each_variant_has_the_reference_of_its_own_answers(activity_run, blobs):
    found = []
    for one in pack_run(activity_run, blobs):
        layer = layer_by_file(decode_manifest(one.manifest), "reference.json")
        reference = decode_reference(blobs.read(layer.digest))
        found.append(reference)
        samples = np.load(activity_run.spec.evaluation)
        assert (reference.source, reference.rows) == ("evaluation", len(samples["label"]))
        assert reference.dataset == digest_of(activity_run.spec.evaluation.read_bytes())
        (given,) = reference.inputs
        assert given.kind == "series"
        names = [feature.name for feature in reference.features]
        assert names[:3] == ["confidence", "margin", "entropy"]
        assert f"{given.name}.2.deviation" in names
        for feature in reference.features:
            assert sum(feature.counts) == reference.rows
        assert sum(reference.classes) == reference.rows
        accuracy = sum(reference.right) / sum(reference.confidence)
        assert 0.9 < accuracy < 1, "what the model is known for"
    assert found[0].features[0] != found[1].features[0], "int8 is sure of other things"
    assert found[0].features[5] == found[1].features[5], "and is given the same"


def moved(run, folder):
    """Return a run in a folder of its own: packing writes what it encrypts beside it."""
    shutil.copytree(run.directory, folder)
    return dataclasses.replace(run, directory=folder)


def test_what_is_encrypted_has_no_reference(activity_run, blobs, tmp_path):
    run = moved(activity_run, tmp_path / "run")
    for one in pack_run(run, blobs, encrypt=("fp32", "int8")):
        files = [layer.file for layer in decode_manifest(one.manifest).layers]
        assert "reference.json" not in files


def test_a_reference_that_the_child_made_up_is_not_signed(activity_run, blobs, tmp_path):
    run = moved(activity_run, tmp_path / "run")
    (run.directory / "fp32" / "reference.json").write_text('{"definition": 1}')
    with pytest.raises(PipelineFailed, match="reference"):
        pack_run(run, blobs)
