"""A bundle out of an exported version: found by its title, damaged ones refused."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from firmware.programs import ROOT

SCRIPT = ROOT / "firmware-examples/take_bundle.py"
TITLE = "org.opencontainers.image.title"


def export(path: Path, *, title: str = "model.emb", damage: bool = False) -> None:
    """Write what ``edgectl export`` does: an index of an index of manifests."""
    blobs: dict[str, bytes] = {}

    def add(content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return f"sha256:{digest}"

    layer = add(b"a bundle")
    if damage:
        blobs[f"blobs/sha256/{layer.removeprefix('sha256:')}"] = b"another"
    layers = [{"digest": layer, "annotations": {TITLE: title}}]
    manifest = add(json.dumps({"layers": layers}).encode())
    inner = add(json.dumps({"manifests": [{"digest": manifest}]}).encode())
    blobs["index.json"] = json.dumps({"manifests": [{"digest": inner}]}).encode()
    with tarfile.open(path, "w") as opened:
        for name, content in blobs.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))


def take(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "x.oci", tmp_path / "model.emb"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_found(tmp_path: Path) -> None:
    export(tmp_path / "x.oci")
    assert take(tmp_path).returncode == 0
    assert (tmp_path / "model.emb").read_bytes() == b"a bundle"


@pytest.mark.parametrize(
    ("how", "said"), [("title", "holds no model.emb"), ("damage", "is damaged")]
)
def test_it_is_refused(how: str, said: str, tmp_path: Path) -> None:
    export(tmp_path / "x.oci", **({"title": "model.onnx"} if how == "title" else {"damage": True}))
    done = take(tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "model.emb").exists()
