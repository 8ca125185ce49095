"""A push of another format by the command line to a real server, to a version that is ready."""

import json
import os
import subprocess
import sys

import pytest

from converters.conftest import CACHE
from e2e.fleet import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(environments, sklearn_models, tmp_path_factory):
    settings = {"converters": str(CACHE), "converters_on_demand": "false"}
    server = Server(tmp_path_factory.mktemp("push") / "server", settings=settings)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def edgectl(server, tmp_path):
    environment = os.environ | {
        "EDGECTL_URL": server.url,
        "XDG_CONFIG_HOME": str(tmp_path),
    }

    def run(*arguments):
        command = [sys.executable, "-P", "-m", "edgectl", *map(str, arguments)]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=240, check=False
        )

    login = ("login", server.url, "--username", "admin", "--password-stdin")
    environment.pop("EDGECTL_TOKEN", None)
    password = (server.data / "admin-password").read_text()
    subprocess.run(
        [sys.executable, "-P", "-m", "edgectl", *login],
        env=environment, input=password, text=True, check=True, capture_output=True,
    )  # fmt: skip
    return run


def test_scikit_learn_becomes_a_version(edgectl, sklearn_models):
    done = edgectl(
        "push", sklearn_models / "forest.skops", "--evaluation", sklearn_models / "iris.npz",
        "--precision", "fp32", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    version = json.loads(done.stdout)
    assert version["state"] == "ready"
    assert version["labels"] == ["setosa", "versicolor", "virginica"]
    assert version["source_name"] == "forest.skops"
    assert version["report"]["reference"] > 0.9
    (note,) = [one for one in version["report"]["warnings"] if one.startswith("converted")]
    assert "sklearn to onnx: differs by" in note
    assert "same class 1.000, on 150 samples" in note
    shown = edgectl("models", "show", "forest@1")
    assert "sklearn to onnx" in " ".join(shown.stdout.split())


def test_a_refusal_reaches_the_command_line(edgectl, sklearn_models, tmp_path):
    done = edgectl("push", sklearn_models / "function.skops")
    assert done.returncode == 1
    assert "error[convert.forbidden_type]: The file needs posixpath.join" in done.stderr
    assert "\ntry: " in done.stderr
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04.")
    done = edgectl("push", tmp_path / "model.pkl")
    assert "error[convert.pickle]" in done.stderr


def test_the_operator_sees_and_installs(sklearn_models, tmp_path):
    """`install` of what is there says so at once; `list` knows it."""
    environment = os.environ | {"EDGECTL_SERVER_CONVERTERS": str(CACHE)}

    def server_command(*arguments):
        return subprocess.run(
            [sys.executable, "-P", "-m", "edgectl", "server", "converters", *arguments],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    installed = server_command("install", "sklearn", "--json")
    assert installed.returncode == 0, installed.stderr
    (row,) = json.loads(installed.stdout)
    assert row["packages"]["scikit-learn"]
    listed = json.loads(server_command("list", "--json").stdout)
    assert {one["name"]: one["installed"] for one in listed}["sklearn"] is True
    assert "scikit-learn (.skops)" in server_command("list").stdout
    unknown = server_command("install", "caffe")
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("error[convert.unknown]")
