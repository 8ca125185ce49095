"""The command line against the real server, started by the command line."""

import json

import pytest

from e2e.fleet import Server
from edgectl.client import Client
from edgectl.demo import activity_data
from edgectl.output import bytes_text
from edgectl.transport import RetryPolicy
from edgectl.uploads import hash_file

pytestmark = pytest.mark.e2e


@pytest.fixture
def real_server(tmp_path):
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def admin(real_server, edgectl):
    password = (real_server.data / "admin-password").read_text()
    arguments = ("login", real_server.url, "--username", "admin", "--password-stdin")
    assert edgectl(*arguments, stdin=password).code == 0
    return edgectl


def test_an_operators_first_hour(admin, real_server, tmp_path):
    assert json.loads(admin("models", "list", "--json").out) == []
    assert json.loads(admin("devices", "list", "--json").out) == []
    gone = admin("devices", "list", "--updating", "--decommissioned", "--json")
    assert json.loads(gone.out) == []
    assert json.loads(admin("rollout", "list", "--json").out) == []
    token = json.loads(admin("devices", "token", "create", "--uses", "2", "--json").out)
    assert token["token"].startswith("ee_")
    assert token["uses"] == 2

    (tmp_path / "labels.txt").write_text("\n".join(activity_data.LABELS))
    (tmp_path / "card.md").write_text("Counts steps.")
    push = (
        *("push", activity_data.MODEL, "--name", "har", "--labels", tmp_path / "labels.txt"),
        *("--card", tmp_path / "card.md"),
        *("--calibration", activity_data.CALIBRATION, "--evaluation", activity_data.EVALUATION),
    )
    first = admin(*push)
    assert first.code == 0, first.err
    assert "Next: edgectl rollout start har@1 --all" in first.out
    again = admin(*push, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["version"] == "1"
    assert len(json.loads(admin("models", "show", "har", "--json").out)["versions"]) == 1
    shown = json.loads(admin("models", "show", "har@1", "--json").out)
    assert shown["labels"] == list(activity_data.LABELS)
    assert {one["precision"] for one in shown["variants"]} == {"fp32", "int8"}
    assert json.loads(admin("jobs", "list", "--json").out)[0]["state"] == "succeeded"
    assert json.loads(admin("telemetry", "har", "--json").out) == []

    _documents_of_har(admin, tmp_path)

    nobody = admin("rollout", "start", "har", "--all")
    assert nobody.code == 1
    assert nobody.err.startswith("error[rollout.no_devices]")
    unknown = admin("models", "show", "nothing")
    assert unknown.code == 1
    assert "\ntry: " in unknown.err

    checks = {one["name"]: one["status"] for one in json.loads(admin("doctor", "--json").out)}
    assert set(checks.values()) == {"ok"}, checks
    assert {"server", "clock", "broker", "database", "login", "devices"} <= set(checks)

    assert admin("logout").code == 0
    assert admin("models", "list").code == 1


def _documents_of_har(admin, directory):
    """Everything that can be read about a real version, of the real pipeline."""
    page = directory / "report.html"
    wrote = admin("models", "report", "har@1", "--output", page)
    assert wrote.out == f"wrote {page}, {bytes_text(page.stat().st_size)}\n"
    assert "What was tried" in page.read_text()
    assert "walking upstairs" in page.read_text()
    card = admin("models", "report", "har@1", "--format", "card", "--output", "-").out
    assert "> Counts steps." in card
    sbom = directory / "har.cdx.json"
    asked = ("--format", "sbom", "--variant", "fp32", "--output", sbom, "--json")
    assert json.loads(admin("models", "report", "har@1", *asked).out)["file"] == str(sbom)
    model = json.loads(sbom.read_text())["metadata"]["component"]
    assert model["type"] == "machine-learning-model"

    lineage = json.loads(admin("models", "lineage", "har@1", "--json").out)
    assert lineage["source"] == f"sha256:{hash_file(activity_data.MODEL).sha256}"
    assert lineage["calibration"] == f"sha256:{hash_file(activity_data.CALIBRATION).sha256}"
    assert {one["variant"] for one in lineage["variants"]} >= {"fp32", "int8"}
    assert {tool["name"] for tool in lineage["variants"][0]["tools"]} >= {"onnxruntime", "edgectl"}
    shown = admin("models", "lineage", "har@1").out
    assert lineage["variants"][0]["manifest"] in shown
    unknown = admin("models", "report", "har@1", "--format", "card", "--variant", "int4")
    assert unknown.err.startswith("error[variant.unknown]: har@1 has no variant int4")


def test_tokens_of_a_real_server(admin, monkeypatch):
    made = json.loads(admin("tokens", "create", "reader", "--expires", "1d", "--json").out)
    listed = {one["id"]: one["role"] for one in json.loads(admin("tokens", "list", "--json").out)}
    assert listed[made["info"]["id"]] == "viewer"

    with monkeypatch.context() as patch:
        patch.setenv("EDGECTL_TOKEN", made["token"])
        assert admin("models", "list").code == 0
        refused = admin("tokens", "create", "more", "--role", "admin")
        assert refused.err.startswith("error[auth.role]")
        assert admin("tokens", "revoke", made["info"]["id"]).code == 0
        gone = admin("models", "list")
    assert gone.err.startswith("error[auth.required]")
    assert gone.err.splitlines()[-1].startswith("try: EDGECTL_TOKEN goes before a login")
    twice = admin("tokens", "revoke", made["info"]["id"])
    assert twice.code == 1
    assert twice.err.startswith("error[auth.token]: there is no token")


def test_push_that_is_no_model_is_refused_with_the_reason(admin, tmp_path):
    path = tmp_path / "notes.onnx"
    path.write_text("this is not a model")
    got = admin("push", path)
    assert got.code == 1
    assert got.out == ""
    assert got.err.splitlines()[-3].startswith("error[model.not_onnx]: "), got.err
    assert got.err.splitlines()[-2] == "while: making notes@1 of notes.onnx"
    assert got.err.splitlines()[-1].startswith("try: ")
    assert "internal" not in got.err.lower()


def test_push_with_a_limit_that_int8_cannot_hold_shows_what_was_tried(admin):
    got = admin(
        *("push", activity_data.MODEL, "--name", "har", "--max-drop", "0", "--precision", "int8"),
        *("--calibration", activity_data.CALIBRATION, "--evaluation", activity_data.EVALUATION),
        "--json",
    )
    version = json.loads(got.out)
    if version["state"] == "ready":  # some recipe lost nothing at all
        drops = [one["trial"]["drop_points"] for one in version["variants"]]
        assert min(drops) <= 0
        assert got.code == 0
    else:
        assert version["state"] == "refused"
        assert got.code == 1
        assert "error[" in got.err
        assert all(one["status"] != "accepted" for one in version["report"]["trials"])


def test_upload_goes_on_after_the_server_was_killed(real_server, tmp_path):
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(range(256)) * (24 * 1024 * 4))
    token = real_server.client
    after = []
    killed = []

    def kill_once(done, _total):
        if killed:
            after.append(done)
        elif done > 9_000_000:
            killed.append(done)
            real_server.kill()
            real_server.start()

    known = hash_file(path)
    header = token._connection._http.headers["Authorization"].removeprefix("Bearer ")
    with Client(real_server.url, header, retry=RetryPolicy(delay_s=0.05)) as client:
        client.upload(known, kill_once)
        assert killed
        # Whole pieces that were acknowledged before the kill are not sent again.
        assert min(after) >= 8_000_000
        assert after[-1] == known.size_bytes
        client.upload(known)  # the server has checked its digest, or this would send it again


def test_users_are_changed_with_the_own_password_alone(admin, real_server, edgectl, monkeypatch):
    own = (real_server.data / "admin-password").read_text()

    def users(*arguments, stdin=own):
        return admin("users", *arguments, "--password-stdin", stdin=stdin)

    made = users("create", "ana", "--role", "operator")
    assert made.code == 0, made.err
    password = made.out.strip()
    assert "shown this once" in made.err
    wrong = users("create", "eve", "--role", "admin", stdin="a guess\n")
    assert (wrong.code, wrong.out) == (1, "")
    assert "auth.own_password" in wrong.err
    asked = admin("users", "create", "eve")
    assert asked.code == 2, "there is no terminal to ask at"
    assert users("role", "ana", "viewer").out == "ana is viewer\n"
    assert users("disable", "ana").out == "ana may not log in any more\n"
    assert "disabled" in admin("users", "list").out
    assert users("enable", "ana").out == "ana may log in\n"
    assert users("logout", "ana", "--tokens").out == "ana is logged out; 0 tokens remain\n"
    assert "auth.myself" in users("disable", "admin").err
    assert "auth.last_admin" in users("delete", "admin", "--myself").err
    second = json.loads(users("password", "ana", "--json").out)["password"]
    with Client(real_server.url) as client:
        token = client.login("ana", second, name="t").token
    with monkeypatch.context() as theirs:
        theirs.setenv("EDGECTL_URL", real_server.url)
        theirs.setenv("EDGECTL_TOKEN", token)
        refused = edgectl("users", "create", "eve", "--password-stdin", stdin=f"{second}\n")
        assert "auth.role" in refused.err
        changed = edgectl(
            "users", "password", "--password-stdin", stdin=f"{second}\nmy own words\n"
        )
        assert changed.out == "your password is changed\n", changed.err
    with Client(real_server.url) as client:
        assert client.login("ana", "my own words", name="t").info.role == "viewer"
    assert password != second
    assert users("delete", "ana").out == "ana is deleted\n"
    assert [one["name"] for one in json.loads(admin("users", "list", "--json").out)] == ["admin"]
