"""Bundles: what they hold, that a device can read them, and that packing is deterministic."""

import hashlib
import json

import msgspec
import numpy as np
import pytest

from edgectl_protocol.chunks import CHUNK_BYTES, INDEX_ANNOTATION, chunk_count, parse_index
from edgectl_protocol.manifest import (
    Lineage,
    decode_config,
    decode_manifest,
    device_layers,
    layer_by_file,
)
from edgectl_protocol.names import digest_of
from edgectl_server.pipeline.errors import PipelineFailed
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
            "model.onnx", "edgectl.json", "golden.npz", "model-card.md", "sbom.cdx.json",
        ]  # fmt: skip
        for descriptor in (manifest.config, *manifest.layers):
            content = blobs.read(descriptor.digest)
            assert digest_of(content) == descriptor.digest
            assert len(content) == descriptor.size
        assert one.model_bytes == layer_by_file(manifest, "model.onnx").size
        assert Trial.model_validate(one.trial).status == "accepted"


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
