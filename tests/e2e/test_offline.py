"""From a real server to a device without a network: export, carry, install, serve."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgectl.errors import ApiError
from edgectl_protocol.manifest import decode_manifest
from edgectl_protocol.offline import ENTRIES_MAX, candidates_of, decode_index
from waiting import wait_for

pytestmark = pytest.mark.e2e


def command(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if "EDGECTL" not in key}
    return subprocess.run(
        [sys.executable, "-m", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env={**kept, **environment},
    )


def told(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_version_is_exported_and_installed_without_a_network(
    start, pushed_har, activity, tmp_path
):
    server = start.server(data=pushed_har)
    agent = start.agent(server, "pi-1")
    password = (server.data / "admin-password").read_text().strip()
    token = server.client.login("admin", password, name="cli").token
    operator = {"EDGECTL_URL": server.url, "EDGECTL_TOKEN": token}
    file = tmp_path / "stick" / "har.oci"
    file.parent.mkdir()

    written = told(command("edgectl", "export", "har:1", "-o", str(file), "--json", **operator))
    assert written.pop("root").startswith("sha256:")  # for `edgectl import`
    assert written == {"file": str(file), "bytes": file.stat().st_size}
    assert [one.name for one in file.parent.iterdir()] == ["har.oci"]
    best = server.client.get_version("har", "1").variants[0]
    with tarfile.open(file) as archive:
        names = archive.getnames()
        index = archive.extractfile("index.json").read()
        _, _, candidates = candidates_of(decode_index(index))
        assert candidates[0].manifest == best.manifest
        first = archive.extractfile(f"blobs/sha256/{best.manifest.partition(':')[2]}").read()
        parts = decode_manifest(first)
    assert names[:2] == ["oci-layout", "index.json"]
    assert len(names) < ENTRIES_MAX
    for part in (parts.config, *parts.layers):  # whole, the documents too: other tools want them
        assert f"blobs/sha256/{part.digest.partition(':')[2]}" in names
    whole = sum(name.startswith("edgectl/metadata/") for name in names)
    assert whole <= 12, "of 64 bins only those on the way"

    _other_exports(server, operator, tmp_path)

    # No server, no broker, no network.
    server.stop()
    wait_for(
        lambda: not told(command("edgectl_agent", "status", "--json", *_state(agent)))["connected"],
        "the device has noticed",
    )
    done = command("edgectl_agent", "install", str(file), *_state(agent))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"har 1 ({best.variant}): committed"
    answer = agent.infer("har", activity["windows"][:1])
    assert answer["parameters"]["manifest"] == best.manifest
    # The server comes back, and hears what runs there.
    server.start()
    running = wait_for(lambda: agent.running("har"), "the server knows")
    assert running.manifest == best.manifest


def _state(agent: Any) -> tuple[str, str]:
    return "--state", str(agent.state)


def _other_exports(server: Any, operator: dict[str, str], tmp_path: Path) -> None:
    """What cannot be exported is refused with the next step; what is asked for is in the file."""
    output = tmp_path / "x.oci"
    for words, code in (
        (("har@2",), "version.unknown"),
        (("other@1",), "version.unknown"),
        (("har@1", "--variant", "int4"), "variant.unknown"),
        (("har@1", "--device-class", "toaster"), "target.unknown"),
        (("har@1", "-o", str(tmp_path / "missing" / "x.oci")), "output.file"),
    ):
        done = command("edgectl", "export", "-o", str(output), *words, **operator)
        assert f"error[{code}]" in done.stderr, (words, done.stderr)
        assert done.returncode == 1
        assert list(tmp_path.glob("*.oci*")) == list(tmp_path.glob(".*.oci*")) == []
    one = told(
        command(
            "edgectl",
            "export",
            "har@1",
            "--variant",
            "fp32",
            "-o",
            str(output),
            "--json",
            **operator,
        )
    )
    with tarfile.open(output) as archive:
        _, _, candidates = candidates_of(decode_index(archive.extractfile("index.json").read()))
    assert [candidate.variant for candidate in candidates] == ["fp32"]
    some, refused = 0, set()
    for target in server.client.targets().items:
        try:
            pieces = list(server.client.export("har", "1", [("device_class", target.name)]))
        except ApiError as error:
            refused.add(error.code)
        else:
            assert sum(len(piece) for piece, _ in pieces) == pieces[0][1]
            some += 1
    assert some
    assert refused <= {"export.nothing"}
    assert one["bytes"] == output.stat().st_size
    _skopeo_reads(output)


def _skopeo_reads(file: Path) -> None:
    """Another program's opinion of the layout, where it is installed."""
    if shutil.which("skopeo") is None:
        return
    done = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci-archive:{file}"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert msgspec.json.decode(done.stdout)["schemaVersion"] == 2
    copied = file.with_name("copied")
    done = subprocess.run(
        ["skopeo", "--insecure-policy", "copy", f"oci-archive:{file}", f"oci:{copied}:x"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
