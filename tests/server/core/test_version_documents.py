"""The report page, documents and lineage of a version over the API."""

from __future__ import annotations

import pytest

from edgectl_protocol.manifest import Lineage
from edgectl_server.pipeline.pack import pack
from edgectl_server.pipeline.provenance import tool_versions
from edgectl_server.pipeline.spec import to_document
from edgectl_server.storage.tables import BundleVariant, Model, ModelVersion
from pipeline.conftest import activity, activity_run  # noqa: F401
from report.documents import EVIL

PATH = "/api/v1/models/har/versions"


@pytest.fixture
def versions(services, activity_run, clock):  # noqa: F811
    """Version 1, 2 of it and 3 of that; 2 has the bundles of a real run, and hostile texts."""
    run = activity_run
    lineage = Lineage(
        source=run.result.source, parent="1", pushed_by="ada", code_revision=EVIL[:99]
    )
    packed = pack(
        run.result,
        run.directory,
        blobs=services.blobs,
        model="har",
        version="2",
        labels=run.spec.labels,
        lineage=lineage,
        tools=tool_versions(),
        card=EVIL,
    )
    with services.database.write() as session:
        session.add(Model(name="har", created_at=clock(), created_by="ada"))
        session.flush()
        for number in (1, 2, 3):
            session.add(
                ModelVersion(
                    id=number,
                    model="har",
                    version=str(number),
                    state="ready" if number == 2 else "failed",
                    content=f"sha256:{number:064}",
                    source=run.result.source,
                    source_size=1,
                    source_name=f"{EVIL}.onnx",
                    calibration=None,
                    evaluation=None,
                    options={"labels": [EVIL]},
                    report=to_document(run.result.report) if number == 2 else None,
                    parent=str(number - 1) if number > 1 else None,
                    created_at=clock(),
                    created_by="ada",
                )
            )
        session.flush()
        session.add_all(
            BundleVariant(
                version_id=2,
                variant=one.variant,
                precision=one.precision,
                target=one.target,
                manifest=one.digest,
                manifest_size=len(one.manifest),
                bundle_bytes=one.bundle_bytes,
                model_bytes=one.model_bytes,
                rank=one.rank,
                trial=one.trial,
            )
            for one in packed
        )
    return packed


def test_the_page_runs_nothing_and_belongs_to_no_origin(client, people, versions):
    answer = client.get(f"{PATH}/2/report.html", headers=people.viewer)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    assert policy.endswith("; sandbox")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "<script" not in answer.text
    assert "&lt;script&gt;alert(1)" in answer.text
    assert client.get(f"{PATH}/2/report.html").status_code == 401


def test_other_answers_keep_the_policy_of_the_web_page(client, people, versions):
    answer = client.get(f"{PATH}/2", headers=people.viewer)
    assert "script-src 'self'" in answer.headers["content-security-policy"]


def test_a_version_without_a_report_has_a_page_too(client, people, versions):
    answer = client.get(f"{PATH}/1/report.html", headers=people.viewer)
    assert answer.status_code == 200
    assert "Nothing was published: the work has failed." in answer.text


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("model-card.md", "text/markdown; charset=utf-8"),
        ("sbom.cdx.json", "application/vnd.cyclonedx+json; version=1.6"),
    ],
)
def test_documents_are_those_of_the_bundle(client, people, versions, file, kind):
    answer = client.get(f"{PATH}/2/variants/int8/documents/{file}", headers=people.viewer)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == kind
    assert b"har" in answer.content


@pytest.mark.parametrize(
    ("path", "answered"),
    [
        ("9/report.html", (404, "version.unknown")),
        ("9/lineage", (404, "version.unknown")),
        ("9/variants/int8/documents/model-card.md", (404, "version.unknown")),
        ("2/variants/int4/documents/model-card.md", (404, "variant.unknown")),
        ("1/variants/int8/documents/model-card.md", (404, "variant.unknown")),
        ("2/variants/int8/documents/model.onnx", (422, "request.invalid")),
        ("2/variants/int8/documents/..%2Fmodel.onnx", (404, "route.unknown")),
    ],
)
def test_what_is_not_there_is_a_problem(client, people, versions, path, answered):
    answer = client.get(f"{PATH}/{path}", headers=people.viewer)
    assert (answer.status_code, answer.json()["code"]) == answered


def test_the_lineage_goes_up_and_down(client, people, versions):
    lineage = client.get(f"{PATH}/2/lineage", headers=people.viewer).json()
    assert [one["version"] for one in lineage["ancestors"]] == ["1"]
    assert lineage["children"] == ["3"]
    assert lineage["code_revision"] == EVIL[:99]
    by_variant = {one["variant"]: one for one in lineage["variants"]}
    assert by_variant["int8"]["calibration_samples"] > 0
    assert by_variant["fp32"]["calibration"] is None
    assert "onnxruntime" in {tool["name"] for tool in by_variant["fp32"]["tools"]}
    last = client.get(f"{PATH}/3/lineage", headers=people.viewer).json()
    assert [one["version"] for one in last["ancestors"]] == ["2", "1"]
    assert last["variants"] == []


def test_a_circle_of_parents_ends(client, people, versions, services):
    with services.database.write() as session:
        session.get(ModelVersion, 1).parent = "3"
    lineage = client.get(f"{PATH}/2/lineage", headers=people.viewer).json()
    assert [one["version"] for one in lineage["ancestors"]] == ["1", "3"]


def test_a_bundle_of_an_older_server_has_no_card(client, people, versions, services):
    from edgectl_protocol.manifest import decode_manifest
    from edgectl_server.pipeline.spec import encode

    manifest = decode_manifest(versions[0].manifest)
    older = encode(type(manifest)(
        schema_version=2,
        media_type=manifest.media_type,
        artifact_type=manifest.artifact_type,
        config=manifest.config,
        layers=manifest.layers[:3],
    ))  # fmt: skip
    with services.database.write() as session:
        row = session.query(BundleVariant).filter_by(variant=versions[0].variant).one()
        row.manifest = services.blobs.add_bytes(older)
    path = f"{PATH}/2/variants/{versions[0].variant}/documents/model-card.md"
    assert client.get(path, headers=people.viewer).json()["code"] == "document.unknown"
    lineage = client.get(f"{PATH}/2/lineage", headers=people.viewer).json()
    assert lineage["variants"][0]["tools"] == []
