"""``edgectl samples``: what is asked of the server, and what is shown of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cli.answers import HOSTILE
from cli.fake_server import problem
from edgectl_server import schemas

MOMENT = datetime(2026, 11, 1, 12, tzinfo=UTC)
ID = "5" * 16
SAMPLE = schemas.SampleInfo(
    id=ID,
    device="pi-1",
    model="har",
    version="1",
    manifest="sha256:" + "a" * 64,
    digest="sha256:" + "b" * 64,
    reason="uncertain",
    taken_at=MOMENT,
    received_at=MOMENT,
    expires_at=MOMENT,
    length=3412,
    tensors=[schemas.SampleTensorInfo(name=f"input.{HOSTILE}", datatype="F32", shape=[1, 6, 128])],
    request=None,
    answer=1,
    confidence=0.5,
    label_state="unlabelled",
    label=None,
    key=None,
    sealed=False,
    redacted=False,
)
POLICY = schemas.SamplePolicyInfo(
    model="har",
    bytes_per_day=5 * 1024**2,
    reasons=["random", "uncertain"],
    random_share=0.2,
    seal="server",
    key="0123456789abcdef",
    revision=3,
    changed_at=MOMENT,
    changed_by="anna",
)


def test_samples_are_listed_by_what_is_asked(logged_in: Any, fleet_server: Any) -> None:
    fleet_server.routes["GET", "/samples"] = (200, schemas.Page(items=[SAMPLE], total=1))
    got = logged_in(
        *("samples", "list", "--model", "har", "--reason", "uncertain", "--device", "pi-1"),
        *("--from", "2026-11-01T00:00+00:00"),
    )
    assert got.code == 0, got.err
    for text in (ID, "pi-1", "har@1", "uncertain", "3.4 kB", "F32"):
        assert text in got.out, got.out
    assert "\x1b[2J" not in got.out
    (request,) = fleet_server.requests("GET", "/samples")
    query = dict(request.query)
    assert (query["model"], query["reason"], query["device"]) == ("har", "uncertain", "pi-1")
    assert query["since"].startswith("2026-11-01T00:00")
    got = logged_in("samples", "list", "--json")
    assert json.loads(got.out)[0]["id"] == ID
    fleet_server.routes["GET", "/samples"] = (200, schemas.Page(items=[], total=0))
    got = logged_in("samples", "list")
    assert (got.code, got.out) == (0, "")
    assert "no samples" in got.err
    assert logged_in("samples", "list", "--reason", "nice").code == 2


def test_a_sample_is_written_to_a_file(logged_in: Any, fleet_server: Any, tmp_path: Path) -> None:
    fleet_server.routes["GET", f"/samples/{ID}"] = (200, b"content")
    path = tmp_path / "one.safetensors"
    got = logged_in("samples", "get", ID, "--output", str(path))
    assert got.code == 0, got.err
    assert path.read_bytes() == b"content"
    got = logged_in("samples", "get", ID, "--output", str(path), "--json")
    assert json.loads(got.out) == {"file": str(path), "bytes": 7}
    got = logged_in("samples", "get", ID, "--output", str(tmp_path / "no" / "x"))
    assert (got.code, "error[output.file]" in got.err) == (1, True)
    fleet_server.routes["GET", f"/samples/{ID}"] = problem(404, "sample.unknown", "there is none")
    got = logged_in("samples", "get", ID, "--output", str(path))
    assert (got.code, "error[sample.unknown]" in got.err) == (1, True)


def test_a_sample_is_deleted(logged_in: Any, fleet_server: Any) -> None:
    fleet_server.routes["DELETE", f"/samples/{ID}"] = (204, None)
    got = logged_in("samples", "delete", ID, "--json")
    assert got.code == 0, got.err
    assert json.loads(got.out) == {"deleted": ID}


def test_a_policy_is_shown_and_changed_in_part(logged_in: Any, fleet_server: Any) -> None:
    path = "/models/har/samples"
    fleet_server.routes["GET", path] = (200, POLICY)
    fleet_server.routes["PUT", path] = (200, POLICY)
    got = logged_in("samples", "policy", "har")
    assert got.code == 0, got.err
    assert "5.2 MB" in got.out
    assert fleet_server.requests("PUT", path) == []
    assert logged_in("samples", "policy", "har", "--bytes-per-day", "2M").code == 0
    assert logged_in("samples", "policy", "har", "--reason", "random").code == 0
    assert logged_in("samples", "policy", "har", "--off", "--json").code == 0
    bodies = [json.loads(one.body) for one in fleet_server.requests("PUT", path)]
    same = {"bytes_per_day": 5 * 1024**2, "reasons": ["random", "uncertain"]}
    assert bodies == [
        {**same, "bytes_per_day": 2 * 1024**2, "revision": 3},
        {**same, "reasons": ["random"], "revision": 3},
        {"revision": 3},  # nothing leaves
    ]
    for wrong in (("--off", "--reason", "random"), ("--bytes-per-day", "lots"), ("--reason", "x")):
        assert logged_in("samples", "policy", "har", *wrong).code == 2
