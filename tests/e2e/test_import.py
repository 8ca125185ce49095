"""From one real server to another across an air gap: export, carry, import, roll out, serve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


class Desk:
    """The command line of a server's administrator."""

    def __init__(self, server: Any) -> None:
        password = (server.data / "admin-password").read_text().strip()
        token = server.client.login("admin", password, name="cli").token
        kept = {key: value for key, value in os.environ.items() if "EDGECTL" not in key}
        self._environment = {**kept, "EDGECTL_URL": server.url, "EDGECTL_TOKEN": token}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edgectl", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            stdin=subprocess.DEVNULL,
            env=self._environment,
        )

    def told(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def refused(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stderr


def altered(file: Path, blob: str) -> Path:
    """A copy of the file with one bit of a blob turned over."""
    content = bytearray(file.read_bytes())
    at = content.index(b"blobs/sha256/" + blob.partition(":")[2].encode()) + 512 + 100
    content[at] ^= 1
    copy = file.with_name("altered.oci")
    copy.write_bytes(content)
    return copy


def test_a_version_crosses_an_air_gap_and_serves(start, activity, pushed_har, tmp_path):
    lab, field = start.server("lab", data=pushed_har), start.server("field")
    agent = start.agent(field, "pi-1")
    at_lab, at_field = Desk(lab), Desk(field)
    file = tmp_path / "har.oci"
    root = at_lab.told("export", "har:1", "-o", str(file))["root"]
    made = lab.client.get_version("har", "1")
    manifests = [one.manifest for one in made.variants]

    spoiled = altered(file, manifests[0])
    for words, code in (
        ((str(file),), "import.origin"),
        ((str(file), "--origin-root", "sha256:" + "0" * 64), "import.root"),
        ((str(file), "--origin-root", str(tmp_path / "missing")), "import.root_file"),
        ((str(spoiled), "--origin-root", root), "offline.damaged"),
    ):
        assert f"error[{code}]" in at_field.refused("import", *words, "--origin", "lab")
    assert field.client.models().items == []

    # The root by its file, as somebody may bring it.
    root_file = tmp_path / "root.json"
    root_file.write_bytes(lab.client.published("root"))
    there = at_field.told("import", str(file), "--origin", "lab", "--origin-root", str(root_file))
    lab.stop()
    assert [one["manifest"] for one in there["variants"]] == manifests
    assert (there["state"], there["imported"]["origin"]) == ("ready", "lab")
    assert there["imported"]["root"] == root
    again = at_field.run("import", str(file), "--origin", "lab")
    assert again.returncode == 0, again.stderr
    assert "har@1 is there already" in again.stdout
    (origin,) = at_field.told("origins", "list")["items"]
    assert (origin["name"], origin["pinned"]) == ("lab", root)
    shown = at_field.run("models", "lineage", "har@1").stdout
    assert "origin" in shown
    assert "lab" in shown

    field.wait_rollout(field.roll_out("har", "1"))
    answer = agent.infer("har", activity["windows"][:1])
    assert answer["parameters"]["manifest"] in manifests
    # From here it goes on to the next server.
    onwards = tmp_path / "onwards.oci"
    at_field.told("export", "har@1", "-o", str(onwards))
    assert at_field.run("origins", "forget", "lab").returncode == 0
    assert "error[import.origin]" in at_field.refused("import", str(file), "--origin", "lab")
