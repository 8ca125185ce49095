"""Model card and bill of materials: what they say, that hostile text stays text, and the schema."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from referencing import Registry, Resource

from edgectl_protocol.manifest import Lineage, decode_manifest, layer_by_file
from edgectl_server.pipeline.model_card import CARD_CHARACTERS_MAX, make_card
from edgectl_server.pipeline.pack import pack
from edgectl_server.pipeline.provenance import tool_versions
from edgectl_server.storage.blobs import BlobStore

SOURCE = "sha256:" + "5e" * 32
DATA = "sha256:" + "da" * 32


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    return BlobStore(str(tmp_path_factory.mktemp("blobs")))


@pytest.fixture(scope="module")
def packed(activity_run, blobs):
    lineage = Lineage(
        source=activity_run.result.source,
        pushed_by="ada",
        parent="0",
        training_data=DATA,
        code_revision="1f2e3d",
    )
    return pack(
        activity_run.result,
        activity_run.directory,
        blobs=blobs,
        model="har",
        version="1",
        labels=activity_run.spec.labels,
        lineage=lineage,
        tools=tool_versions(),
        card="# Intended use\n\nCounts steps. <script>alert(1)</script>",
    )


def read(blobs, one, file):
    return blobs.read(layer_by_file(decode_manifest(one.manifest), file).digest)


@pytest.fixture(scope="module")
def schema():
    """A validator for CycloneDX 1.6 with the schemas as the library ships them."""
    folder = files("cyclonedx.schema") / "_res"
    registry: Registry = Registry()
    documents = {}
    for name in ("bom-1.6", "spdx", "jsf-0.82"):
        documents[name] = json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text())
        registry = Resource.from_contents(documents[name]) @ registry
    return jsonschema.Draft7Validator(documents["bom-1.6"], registry=registry)


def test_every_bill_of_materials_fits_the_schema(packed, blobs, schema):
    for one in packed:
        document = json.loads(read(blobs, one, "sbom.cdx.json"))
        assert [error.message for error in schema.iter_errors(document)] == []
        document["components"][0]["type"] = "no such type"
        assert list(schema.iter_errors(document)), "the schema is heeded"


def test_it_names_what_the_bundle_was_made_of(packed, blobs, activity_run):
    (one,) = [one for one in packed if one.variant == "int8"]
    document = json.loads(read(blobs, one, "sbom.cdx.json"))
    assert not {"serialNumber", "timestamp"} & {*document, *document["metadata"]}
    model = document["metadata"]["component"]
    file = layer_by_file(decode_manifest(one.manifest), "model.onnx")
    assert model["hashes"] == [{"alg": "SHA-256", "content": file.digest.removeprefix("sha256:")}]
    source, parent = model["pedigree"]["ancestors"]
    assert f"sha256:{source['hashes'][0]['content']}" == activity_run.result.source
    assert parent["version"] == "0"
    assert {one["name"] for one in document["components"]} == {
        "calibration data", "evaluation data", "training data",
    }  # fmt: skip
    recipe = {one["name"]: one["value"] for one in model["properties"]}["edgectl:recipe"]
    assert recipe == one.trial["recipe"]
    tools = {one["name"] for one in document["metadata"]["tools"]["components"]}
    assert tools == {"edgectl", "numpy", "onnx", "onnxruntime", "python"}
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert float(metrics[0]["value"]) == pytest.approx(one.trial["value"], rel=1e-5)


def test_the_card_says_it_too(packed, blobs, activity_run):
    (one,) = [one for one in packed if one.variant == "int8"]
    card = read(blobs, one, "model-card.md").decode()
    assert card.startswith("# har@1, int8\n\n## Written by who pushed it\n\n> # Intended use\n>\n")
    assert "> Counts steps. &lt;script>alert(1)&lt;/script>" in card
    assert one.trial["recipe"] in card
    assert f"{one.trial['value']:.4f}" in card
    assert "upstairs, downstairs" in card
    assert activity_run.result.source in card
    latency = one.trial["latency_p50_us"]
    assert str(latency) not in card
    assert "EPYC" not in card


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=200), label=st.text(min_size=1, max_size=300))
def test_hostile_text_stays_inside_its_place(packed, blobs, activity_run, text, label):
    about = _about(activity_run, card=text, label=label)
    card = make_card(about).decode()
    headings = [line for line in card.split("\n") if line.startswith("#")]
    assert len(headings) == (6 if "## Written by who pushed it" in card else 5)
    table = [line for line in card.split("\n") if line.startswith("|")]
    assert all(line.endswith("|") for line in table)
    assert "<" not in card.replace("&lt;", "").replace("\\<", "")
    for line in card.splitlines():
        assert not set(line) & set("\x00\x1b\u202e\u2066\ufeff")


def _about(run, *, card, label):
    from edgectl_protocol.manifest import BundleConfig
    from edgectl_server.pipeline.provenance import Provenance

    candidate = run.result.candidates[0]
    config = BundleConfig(
        model="har",
        version="1",
        variant=candidate.variant,
        runtime="onnxruntime",
        format="onnx",
        precision=candidate.precision,
        inputs=tuple(msgspec.structs.replace(one, name=label) for one in candidate.inputs),
        outputs=candidate.outputs,
        golden=candidate.golden,
        quantization=candidate.quantization,
        lineage=Lineage(source=SOURCE, pushed_by=label, code_revision=label),
        labels=(label, "walking"),
    )
    return Provenance(config=config, opset=17, nodes=1, parameters=1, card=card)


def test_a_long_card_is_cut(activity_run):
    card = make_card(_about(activity_run, card="x\n" * CARD_CHARACTERS_MAX, label="a"))
    assert len(card) < CARD_CHARACTERS_MAX
    card = make_card(_about(activity_run, card="x" * 2 * CARD_CHARACTERS_MAX, label="a"))
    assert len(card) < CARD_CHARACTERS_MAX + 4096


def test_documents_of_an_encrypted_bundle_name_no_plain_file(activity_run, blobs, schema, tmp_path):
    directory = tmp_path / "run"  # of its own, because packing writes beside it
    shutil.copytree(activity_run.directory, directory)
    encrypted = pack(
        activity_run.result,
        directory,
        blobs=blobs,
        model="har",
        version="1",
        labels=(),
        lineage=Lineage(source=activity_run.result.source),
        encrypt={"int8", "fp32"},
    )
    for one in encrypted:
        document = json.loads(read(blobs, one, "sbom.cdx.json"))
        assert "hashes" not in document["metadata"]["component"]
        assert list(schema.iter_errors(document)) == []
