"""``edgectl labels``: files in and out, and what is asked of the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from cli.answers import HOSTILE
from cli.fake_server import problem
from cli.test_cli_samples import ID, MOMENT, SAMPLE
from edgectl.errors import LocalError
from edgectl.label_files import csv_text, read_csv, read_labels, read_studio, studio_task
from edgectl.types import AnnotationInfo, AnnotationItem, SampleContent, TensorContent
from edgectl.types import SampleInfo as Sample
from edgectl_server import schemas

EXPORTED = Path(__file__).parent / "label-studio-export.json"
"""Tasks in the shape of Label Studio's JSON export: a cancelled one among them."""


def said(label: str | None, labeller: str = "anna") -> schemas.AnnotationInfo:
    return schemas.AnnotationInfo(
        sample=ID, model="har", source="person", labeller=labeller, label=label,
        made_at=MOMENT, entered_by=labeller,
    )  # fmt: skip


def ours(one: schemas.AnnotationInfo) -> AnnotationInfo:
    return AnnotationInfo(**one.model_dump())


def content(tensor: TensorContent) -> SampleContent:
    fields = SAMPLE.model_dump() | {"tensors": []}
    return SampleContent(
        sample=Sample(**fields), inputs=[tensor], outputs=[], classes=["sit", "walk"]
    )


# ---------------------------------------------------------------- CSV


def test_csv_that_is_written_is_read() -> None:
    written = csv_text([ours(said("wa,lk\n")), ours(said(None, "ben")), ours(said("sit", '"x"'))])
    items = [one.item for one in read_csv(written.encode())]
    assert items == [
        AnnotationItem(sample=ID, label="wa,lk", labeller="anna"),
        AnnotationItem(sample=ID, label=None, labeller="ben"),
        AnnotationItem(sample=ID, label="sit", labeller='"x"'),
    ]


def test_csv_as_people_write_it() -> None:
    text = (
        "\ufeffrequest,device,label,skipped,more\r\nr-1,pi-1,walk,,x\r\nr-2,,,,\r\nr-3,,,TRUE,\r\n"
    )
    assert [(one.where, one.item) for one in read_csv(text.encode())] == [
        ("line 2", AnnotationItem(request="r-1", device="pi-1", label="walk")),
        ("line 4", AnnotationItem(request="r-3")),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: columns"),
        ("a,b\n1,2\n", "line 1: columns 'a', 'b'"),
        ("sample,label,label\n", "two columns have one name"),
        ("sample,label\n,walk\n", "line 2: neither sample nor request"),
        (f"sample,label\n{ID},walk\n1.2e+15,walk\n", "line 3: sample is '1.2e+15'"),
        ("sample,label\nx,walk,more\n", "line 2: more fields"),
        ("sample,label,skipped\nx,walk,1\n", "line 2: a label, and skipped too"),
        ("sample,label,skipped\nx,,perhaps\n", "line 2: skipped is 'perhaps'"),
        ('sample,label\nx,"walk\n', "line 2: unexpected end of data"),
        ("sample,label\nx,\xff\n", "no UTF-8 at byte 15"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, told: str) -> None:
    with pytest.raises(LocalError) as caught:
        list(read_csv(text.encode("latin-1")))
    assert told in caught.value.detail
    assert caught.value.code == "labels.file"


def test_files_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    path.write_text("request,label\n" + "x,y\n" * 100_001)
    with pytest.raises(LocalError, match="more than 100000 labels"):
        read_labels(path)
    with path.open("wb") as file:
        file.truncate(64 * 1024**2 + 1)
    with pytest.raises(LocalError, match="more than 67108864 bytes"):
        read_labels(path)
    with pytest.raises(LocalError, match="cannot read"):
        read_labels(tmp_path / "none")


# ---------------------------------------------------------------- Label Studio


def test_an_export_of_label_studio_is_read() -> None:
    assert [(one.where, one.item) for one in read_labels(EXPORTED)] == [
        (
            "task 1 (id 17), annotation 1",
            AnnotationItem(sample="3f9c0d5e8a7b6c1d", label="walking", labeller="ann@example.org"),
        ),
        (
            "task 1 (id 17), annotation 2",
            AnnotationItem(sample="3f9c0d5e8a7b6c1d", label="running", labeller="label-studio-4"),
        ),
        (
            "task 2 (id 18), annotation 1",
            AnnotationItem(sample="4f9c0d5e8a7b6c1d", labeller="label-studio-4"),
        ),
        (
            "task 3 (id 19), annotation 1",
            AnnotationItem(request="r-19", device="pi-2", label="sitting", labeller="anna"),
        ),
    ]


@pytest.mark.parametrize("labelled", [[], [said("walk"), said(None, "ben"), said("sit", "carla")]])
def test_tasks_that_are_written_are_read(labelled: list[schemas.AnnotationInfo]) -> None:
    """Label Studio keeps what it was given, and adds to it."""
    task = studio_task(content(TABLE).sample, map(ours, labelled), content(TABLE))
    task |= {"id": 1, "project": 3, "total_annotations": len(labelled), "drafts": []}
    for number, annotation in enumerate(task["annotations"]):
        annotation |= {"id": number, "completed_by": 1, "lead_time": 4.2, "ground_truth": False}
        for result in annotation["result"]:
            result |= {"id": "Dx_aB91ISN", "origin": "manual"}
    found = [one.item for one in read_studio(json.dumps([task]).encode())]
    assert [(one.sample, one.label) for one in found] == [(ID, one.label) for one in labelled]
    by = [one.labeller for one in labelled if one.label]
    assert [one.labeller for one in found if one.label] == by, "not who has sent them there"


CHOSEN = (
    b'{"data": {"sample": "x"}, "annotations": [{"result": [{"type": "choices", "value": %s}]}]}'
)


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (b"[", "it is no JSON"),
        (b"[" * 100_000, "it is no JSON"),
        (b"[1]", "task 1: Expected `object`"),
        (b'{"data": {}, "annotations": [{"result": []}]}', "task 1, annotation 1: the task's data"),
        (b'{"data": {"sample": 1}, "annotations": [{}]}', "sample, request and device are texts"),
        (b'{"data": {"sample": "x"}, "annotations": [{}]}', "0 choices, expected one"),
        (CHOSEN % b'{"choices": ["a", "b"]}', "2 choices, expected one"),
        (CHOSEN % b"1", "task 1, annotation 1: Expected `object`"),
    ],
)
def test_wrong_tasks_are_told_with_their_place(task: bytes, told: str) -> None:
    with pytest.raises(LocalError) as caught:
        list(read_studio(task))
    assert told in caught.value.detail


TABLE = TensorContent(name="x", datatype="FP32", shape=[1, 2], kind="table", values=[1.0, None])
SERIES = TensorContent(
    name="x", datatype="FP32", shape=[1, 2, 3], kind="series", channels=[[1, 2, 3], [4, 5, 6]]
)
IMAGE = TensorContent(name="x", datatype="UINT8", shape=[1, 3, 8, 8], kind="image", png="aGk=")


@pytest.mark.parametrize("tensor", [TABLE, SERIES, IMAGE], ids=lambda one: one.kind)
def test_tasks_show_what_the_setup_asks_for(
    tensor: TensorContent, logged_in: Any, fleet_server: Any, tmp_path: Path
) -> None:
    """Every variable of the labelling configuration is in the data of every task."""
    routes = fleet_server.routes
    routes["GET", "/samples"] = (200, schemas.Page(items=[SAMPLE], total=1))
    shown = schemas.SampleContent(
        sample=SAMPLE, outputs=[], classes=["sit & lie", "walk"],
        inputs=[schemas.TensorContent(**{f: getattr(tensor, f) for f in tensor.__struct_fields__})],
    )  # fmt: skip
    routes["GET", f"/samples/{ID}/content"] = (200, shown)
    labelled = schemas.LabelledSample(sample=SAMPLE, annotations=[said("walk")])
    routes["GET", f"/samples/{ID}/annotations"] = (200, labelled)
    path = tmp_path / "tasks.json"
    got = logged_in("labels", "export", "har", "--format", "label-studio", "-o", path)
    assert got.code == 0, got.err
    (query,) = [dict(one.query) for one in fleet_server.requests("GET", "/samples") if one.query]
    assert (query["model"], query["label_state"]) == ("har", "unlabelled")
    (task,) = json.loads(path.read_text())
    setup = ET.fromstring(path.with_suffix(".xml").read_text())
    names = [one.get("value", "") for one in setup.iter() if one.get("value", "").startswith("$")]
    assert names
    assert all(name[1:] in task["data"] for name in names)
    columns = [one.get("column") for one in setup.iter("Channel")]
    assert set(columns) <= set(task["data"].get("series", {}))
    assert [one.get("value") for one in setup.iter("Choice")] == ["sit & lie", "walk"]
    (prediction,) = task["predictions"]
    assert prediction["score"] == 0.5
    assert prediction["result"][0]["value"] == {"choices": ["walk"]}
    assert next(read_studio(path.read_bytes())).item.label == "walk"


def test_what_stays_sealed_is_left_out_of_tasks_and_said(
    logged_in: Any, fleet_server: Any, tmp_path: Path
) -> None:
    closed = SAMPLE.model_copy(update={"sealed": True, "key": "0123456789abcdef"})
    fleet_server.routes["GET", "/samples"] = (200, schemas.Page(items=[closed], total=1))
    path = tmp_path / "tasks.json"
    got = logged_in("labels", "export", "har", "--format", "label-studio", "-o", path)
    assert got.code == 0, got.err
    assert "1 of 1 samples are sealed" in got.err
    assert json.loads(path.read_text()) == []


# ---------------------------------------------------------------- commands


def test_a_label_is_set_skipped_and_removed(logged_in: Any, fleet_server: Any) -> None:
    path = f"/samples/{ID}/annotation"
    done = SAMPLE.model_copy(update={"label_state": "labelled", "label": HOSTILE})
    answer = schemas.LabelledSample(sample=done, annotations=[said("walk")])
    fleet_server.routes["PUT", path] = fleet_server.routes["DELETE", path] = (200, answer)
    got = logged_in("labels", "set", ID, "walk")
    assert got.code == 0, got.err
    assert "\x1b[2J" not in got.out
    assert logged_in("labels", "set", ID, "--skip").code == 0
    assert logged_in("labels", "set", ID, "--remove", "--json").code == 0
    bodies = [json.loads(one.body) for one in fleet_server.requests("PUT", path)]
    assert bodies == [{"label": "walk"}, {}], "without a label: it cannot be told"
    assert len(fleet_server.requests("DELETE", path)) == 1
    assert logged_in("labels", "set", ID).code == 2
    assert logged_in("labels", "set", ID, "walk", "--skip").code == 2
    fleet_server.routes["PUT", path] = problem(422, "annotation.class", "no class of har")
    got = logged_in("labels", "set", ID, "swim")
    assert (got.code, "error[annotation.class]" in got.err) == (1, True)


def test_an_import_tells_lines_and_fails(logged_in: Any, fleet_server: Any, tmp_path: Path) -> None:
    """The second part of a long file has the places of the whole."""
    path = tmp_path / "labels.csv"
    path.write_text("sample,label\n" + f"{ID},walk\n" * 600)

    def answer(request: Any) -> tuple[int, Any]:
        items = json.loads(request.body)["items"]
        refused = []
        if len(items) == 100:
            told = schemas.AnnotationRefusal(index=7, code="annotation.class", detail=HOSTILE)
            refused.append(told)
        return 200, schemas.AnnotationImportResult(
            changed=len(items) - len(refused), unchanged=0, refused=refused
        )

    fleet_server.routes["POST", "/annotations"] = answer
    got = logged_in("labels", "import", path, "--model", "har", "--truth", "--check")
    assert got.code == 1
    assert "line 509: annotation.class" in got.err
    assert "\x1b[2J" not in got.err
    assert "599 labels would be changed" in got.out
    bodies = [json.loads(one.body) for one in fleet_server.requests("POST", "/annotations")]
    assert [len(one["items"]) for one in bodies] == [500, 100]
    assert {(one["truth"], one["check"], one["model"]) for one in bodies} == {(True, True, "har")}
    got = logged_in("labels", "import", path, "--json")
    assert got.code == 1
    assert json.loads(got.out)["refused"][0]["where"] == "line 509"
    path.write_text(f"sample,label\n{ID},walk\n")
    assert logged_in("labels", "import", path).code == 0
    path.write_text("nothing")
    sent = len(fleet_server.requests("POST", "/annotations"))
    assert logged_in("labels", "import", path).code == 1
    assert len(fleet_server.requests("POST", "/annotations")) == sent


def test_labels_are_listed_and_summed_up(logged_in: Any, fleet_server: Any, tmp_path: Path) -> None:
    fleet_server.routes["GET", "/annotations"] = (
        200, schemas.Page(items=[said("walk"), said(None, HOSTILE)], total=2),
    )  # fmt: skip
    got = logged_in("labels", "list", "--model", "har", "--source", "person")
    assert "walk" in got.out
    assert "cannot tell" in got.out
    assert "\x1b[2J" not in got.out
    summary = schemas.LabellingSummary(
        model="har", classes=["sit", "walk"], states={"labelled": 3, "conflict": 1},
        by_class={"walk": 3}, by_reason={"uncertain": 4}, labellers={"anna": 4, "ben": 3},
        agreement=0.412, right={"random": (2, 3)},
        pairs=[schemas.LabellerAgreement(one="anna", other="ben", samples=3, agreed=2, kappa=None)],
    )  # fmt: skip
    fleet_server.routes["GET", "/models/har/labelling"] = (200, summary)
    got = logged_in("labels", "status", "har")
    for text in ("0.412", "uncertain 4", "2 of 3", "anna 4, ben 3", "67"):
        assert text in got.out, got.out
    path = tmp_path / "labels.csv"
    assert logged_in("labels", "export", "har", "-o", path).code == 0
    assert len(list(read_csv(path.read_bytes()))) == 2
    got = logged_in("labels", "export", "har", "-o", tmp_path / "no" / "x")
    assert (got.code, "error[labels.output]" in got.err) == (1, True)
