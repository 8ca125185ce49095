"""``edgectl dataset`` and ``edgectl data``: on a real server, folders, and hostile archives."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.answers import HOSTILE
from cli.fake_server import problem
from cli.test_cli_samples import MOMENT
from datasets.made import blob_of, make
from e2e.fleet import Server
from edgectl.dataset_archives import unpack
from edgectl.errors import EdgectlError
from edgectl_datasets.folders import open_folder
from edgectl_server import schemas
from edgectl_server.settings import Settings
from edgectl_server.storage.database import Database
from server.learning.store import Store

ID = "sha256:" + "d" * 64
INFO = schemas.DatasetInfo(
    id=ID, name="har-1", model="har", parent=None, rows=30, labelled=28,
    splits={"train": 20, "validation": 5, "test": 5}, split_by="time", bytes=3000,
    created_at=MOMENT, created_by=HOSTILE,
)  # fmt: skip


# ---------------------------------------------------------------- the whole way


@pytest.fixture
def server_with_samples(tmp_path: Path) -> Iterator[tuple[Server, Store]]:
    server = Server(tmp_path / "server")
    server.start()
    settings = Settings(data=str(server.data))
    database = Database(settings.database_address)
    store = Store(
        database,
        tmp_path,
        bundles=settings.blobs_address,
        uploads=settings.device_uploads_address,
    )
    yield server, store
    database.close()
    server.stop()


@pytest.mark.e2e
def test_from_samples_to_a_checked_folder(
    server_with_samples: tuple[Server, Store], edgectl: Any, tmp_path: Path
) -> None:
    server, store = server_with_samples
    password = (server.data / "admin-password").read_text()
    login = ("login", server.url, "--username", "admin", "--password-stdin")
    assert edgectl(*login, stdin=password).code == 0

    def ask(*arguments: Any) -> Any:
        got = edgectl(*arguments, "--json")
        assert got.code == 0, got.err
        return json.loads(got.out)

    store.fill(devices=9, each=12)
    lone = store.sample("pi-1", minute=1000)
    (seen,) = ask("samples", "list", "--model", "har", "--limit", "1")
    assert (seen["id"], seen["label_state"], seen["answer"]) == (lone, "unlabelled", 1)
    assert ask("labels", "set", lone, "run")["sample"]["label"] == "run"
    exported = tmp_path / "labels.csv"
    ask("labels", "export", "har", "-o", exported, "--limit", 1000)
    again = ask("labels", "import", exported, "--model", "har")
    assert (again["changed"], again["unchanged"], again["refused"]) == (1, 108, [])
    assert ask("labels", "import", exported)["unchanged"] == 109
    assert ask("labels", "status", "har")["states"] == {"labelled": 109}

    made = ask("dataset", "create", "har-1", "--model", "har", "--seed", "s")
    assert (made["rows"], made["labelled"]) == (109, 109)
    assert [one["id"] for one in ask("dataset", "list")] == [made["id"]]
    folder = tmp_path / "har-1"
    assert ask("dataset", "export", "har-1", "-o", folder)["id"] == made["id"]
    verified = ask("dataset", "verify", folder)
    assert (verified["id"], verified["blobs"]) == (made["id"], 109)
    assert {row.label for row in open_folder(folder).rows} == {"sit", "walk", "run"}
    shown = edgectl("dataset", "show", "har-1")
    assert "109, 109 with a label" in " ".join(shown.out.split()), shown.out

    both = [edgectl("data", "check", name, "--json") for name in ("har-1", folder)]
    reports = [json.loads(one.out) for one in both]
    found = [{one["check"]: one["status"] for one in report["findings"]} for report in reports]
    assert found[0] == found[1]
    assert found[0]["devices"] == found[0]["finite"] == "passed"
    assert edgectl("data", "check", "har-1", "--min-rows", 500).code == 1

    acts = {one["action"]: one for one in ask("audit", "list", "--limit", 100)}
    assert acts["create_dataset"]["details"]["rows"] == 109
    assert acts["put_annotation"]["details"]["label"] == "run"
    assert acts["get_dataset_archive"]["outcome"] == "done"
    ask("dataset", "delete", "har-1")
    assert ask("dataset", "list") == []


# ---------------------------------------------------------------- folders


def test_a_folder_is_verified_without_a_server(edgectl: Any, tmp_path: Path) -> None:
    made = make(devices=9, each=24)
    path = made.write(tmp_path / "one")
    got = edgectl("dataset", "verify", path)
    assert (got.code, f"{made.dataset.id}: 216 rows" in got.out) == (0, True)
    assert edgectl("data", "check", path).code == 0
    assert edgectl("data", "check", path, "--warnings").code == 0
    got = edgectl("data", "check", path, "--min-rows", "1000", "--json")
    assert got.code == 1
    assert json.loads(got.out)["failed"] == 1
    (tmp_path / "reference.json").write_text("{}")
    got = edgectl("data", "check", path, "--reference", tmp_path / "reference.json")
    assert (got.code, "error[data.reference]" in got.err) == (1, True)

    blob = path / "blobs" / f"{made.rows[0].blob}.safetensors"
    blob.write_bytes(blob_of([1, 2, 3, 4]))
    for command in (("dataset", "verify"), ("data", "check")):
        got = edgectl(*command, path)
        assert got.code == 1
        assert "error[dataset.folder]" in got.err
        assert "dataset.blob" in got.err
    (path / "rows.parquet").unlink()
    assert "dataset.missing" in edgectl("dataset", "verify", path).err


# ---------------------------------------------------------------- what a server sends


def test_what_is_shown_of_datasets(logged_in: Any, fleet_server: Any, tmp_path: Path) -> None:
    routes = fleet_server.routes
    routes["GET", "/datasets"] = (200, schemas.Page(items=[INFO], total=1))
    got = logged_in("dataset", "list", "--model", "har")
    assert "20 / 5 / 5" in got.out
    assert "\x1b[2J" not in got.out
    routes["POST", "/datasets"] = (201, INFO)
    got = logged_in(
        *("dataset", "create", "har-1", "--model", "har", "--reason", "random", "--site", "porto"),
        *("--ratios", "0.8,0,0.2", "--with-unlabelled", "--parent", "har-0"),
    )
    assert got.code == 0, got.err
    assert "devices leak" in got.out
    (request,) = fleet_server.requests("POST", "/datasets")
    body = json.loads(request.body)
    assert (body["ratios"], body["labelled"], body["parent"]) == ([0.8, 0, 0.2], False, "har-0")
    bad = ("dataset", "create", "x", "--model", "har", "--ratios", "a,b")
    assert logged_in(*bad).code == 2
    routes["GET", "/datasets/har-1"] = problem(404, "dataset.unknown", "there is none")
    got = logged_in("dataset", "export", "har-1", "-o", tmp_path / "x")
    assert (got.code, "error[dataset.unknown]" in got.err) == (1, True)
    assert not (tmp_path / "x").exists()


def archive(*members: tuple[str, bytes, str]) -> bytes:
    """A tar file of files, links and folders."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        for name, content, kind in members:
            member = tarfile.TarInfo(name)
            if kind == "link":
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                member.size = len(content)
            packed.addfile(member, io.BytesIO(content) if kind == "file" else None)
    return file.getvalue()


GOOD = [("one/rows.parquet", b"r", "file"), ("one/dataset.json", b"{}", "file")]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no tar",
        archive(*GOOD)[:600],
        archive(GOOD[0]),
        archive(*GOOD, ("one/../../evil", b"x", "file")),
        archive(*GOOD, ("/etc/evil", b"x", "file")),
        archive(*GOOD, ("one/blobs/x.safetensors", b"x", "file")),
        archive(*GOOD, (f"one/blobs/{'a' * 64}.safetensors", b"x", "file")),
        archive(*GOOD, (f"one/blobs/{'a' * 64}.safetensors", b"", "link")),
        archive(*GOOD, ("one/dataset.json", b"{}", "file")),
    ],
    ids=["empty", "no tar", "cut off", "no document", "above", "absolute", "name", "digest",
         "link", "twice"],
)  # fmt: skip
def test_archives_that_are_no_datasets_leave_nothing(content: bytes, tmp_path: Path) -> None:
    pieces = (content[at : at + 100] for at in range(0, len(content), 100))
    with pytest.raises(EdgectlError) as caught:
        unpack(pieces, tmp_path / "one")
    assert caught.value.code == "client.answer"
    assert list(tmp_path.iterdir()) == []


def test_an_archive_goes_to_its_place_once(tmp_path: Path) -> None:
    assert unpack(iter([archive(*GOOD)]), tmp_path / "one") == 3
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "blobs", "dataset.json", "one", "rows.parquet",
    ]  # fmt: skip
    with pytest.raises(EdgectlError) as caught:
        unpack(iter([archive(*GOOD)]), tmp_path / "one")
    assert caught.value.code == "dataset.output"
    with pytest.raises(EdgectlError) as caught:
        unpack(iter([archive(*GOOD)]), tmp_path / "none" / "one")
    assert caught.value.code == "dataset.output"
