"""A release, end to end: of a clone of this commit with a tag, as a person would make it.

Takes as long as building everything twice does; what is in the folder is judged by other programs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from installation.machine import remove

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
TAG = f"v{VERSION}"
SERVER_FILES_MIN = 3000
DEBS = {
    f"edgectl-{package}_{VERSION}{suffix}_{architecture}.deb"
    for package in ("agent", "server")
    for suffix in ("~deb12", "~deb13")
    for architecture in ("amd64", "arm64")
}
NATIVE = f"edgectl-agent_{VERSION}~deb13_all.deb"
DEBS.add(NATIVE)
BILLS = {
    f"edgectl-{package}_{VERSION}{suffix}.cdx.json"
    for package in ("agent", "server")
    for suffix in ("~deb12", "~deb13")
}
BILLS.add(NATIVE.replace(".deb", ".cdx.json"))
WHEELS = {f"edgectl-{VERSION}-py3-none-any.whl", f"edgectl_agent-{VERSION}-py3-none-any.whl"}

pytestmark = pytest.mark.timeout(6000)


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    unsigned = ["-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *who, *unsigned, *words], check=True)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        yield folder
    finally:
        remove(folder)


@pytest.fixture(scope="module")
def key(folder: Path) -> Path:
    path = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture(scope="module")
def released(folder: Path, key: Path) -> Path:
    """The folder of a release of this commit."""
    tree = folder / "tree"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tree)], check=True)
    changelog = tree / "CHANGELOG.md"
    text = changelog.read_text()
    dated = re.sub(rf"(?m)^## {re.escape(VERSION)} \(.*\)$", f"## {VERSION} (2026-12-01)", text)
    changelog.write_text(dated)
    git(tree, "commit", "--quiet", "--all", "--message", f"Release {VERSION}")
    git(tree, "tag", TAG)
    made = folder / TAG
    command = [sys.executable, str(tree / "packaging/release.py"), "--tag", TAG, "--tested"]
    command += ["--key", str(key), "--output", str(made)]
    subprocess.run(command, check=True, env={**os.environ, "TMPDIR": str(folder)})
    return made


def test_all_of_it_is_there_and_nothing_else(released: Path) -> None:
    names = {path.name for path in released.iterdir()}
    assert names == DEBS | BILLS | WHEELS | {"SHA256SUMS", "SHA256SUMS.sig"}
    for path in sorted(released.iterdir()):
        print(f"{path.stat().st_size / 1e6:8.1f} MB  {path.name}")


def test_the_sums_are_of_all_files_and_signed(released: Path, key: Path, tmp_path: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=released, check=True)
    listed = {line.split("  ", 1)[1] for line in (released / "SHA256SUMS").read_text().splitlines()}
    assert listed == DEBS | BILLS | WHEELS
    signers = tmp_path / "allowed_signers"
    signers.write_text(f"release@edgectl {key.with_suffix('.pub').read_text()}")
    command = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", "release@edgectl"]
    command += ["-n", "edgectl-release", "-s", str(released / "SHA256SUMS.sig")]
    subprocess.run(command, input=(released / "SHA256SUMS").read_bytes(), check=True)


@pytest.mark.parametrize("name", sorted(DEBS))
def test_a_package_is_what_its_name_and_its_bill_say(released: Path, name: str) -> None:
    package, version, architecture = name.removesuffix(".deb").split("_")
    shown = subprocess.run(
        ["dpkg-deb", "--show", "--showformat=${Package}_${Version}_${Architecture}",
         released / name], check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert shown == f"{package}_{version}_{architecture}"
    command = ["dpkg-deb", "--fsys-tarfile", str(released / name)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as contents,
        tarfile.open(fileobj=contents.stdout, mode="r|") as tar,
    ):
        # The mode of a symbolic link says nothing, and is always 0777.
        members = [(one.name, one.mtime, one.uid, 0 if one.issym() else one.mode) for one in tar]
        assert contents.stdout is not None
        contents.stdout.read()  # what pads the archive
    assert contents.returncode == 0
    assert {uid for _, _, uid, _ in members} == {0}
    assert len({mtime for _, mtime, _, _ in members}) == 1, "one time for every file"
    assert not [path for path, _, _, mode in members if mode & 0o7022], "nobody else may write"
    of_all = "_all" if architecture == "all" else ""
    bill = json.loads((released / f"{package}_{version}{of_all}.cdx.json").read_text())
    inside = {
        canonical(found[1], found[2])
        for path, *_ in members
        if (found := re.search(r"/([A-Za-z0-9_.]+)-([^-/]+)\.dist-info/METADATA$", path))
    }
    ours = "edgectl" if package == "edgectl-server" else "edgectl-agent"
    listed = {canonical(one["name"], one["version"]) for one in bill["components"]}
    assert inside - listed == {(ours, VERSION)}, "what is in the package is in its bill"
    assert listed - inside == set(), "what is in its bill is in the package"


def canonical(name: str, version: str) -> tuple[str, str]:
    return re.sub(r"[-_.]+", "-", name).lower(), version


@pytest.mark.parametrize("name", sorted(BILLS))
def test_a_bill_is_valid_cyclonedx(released: Path, name: str) -> None:
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str((released / name).read_text())
    assert problem is None, problem


def test_the_wheel_is_whole_and_runs(released: Path, tmp_path: Path) -> None:
    wheel = released / f"edgectl-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert "edgectl_server/web/index.html" in names, "the web page is in it"
    assert not [name for name in names if "node_modules" in name or "__pycache__" in name]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(tmp_path), str(wheel)], check=True)
    said = subprocess.run(
        [sys.executable, "-P", "-m", "edgectl", "--version"],
        check=True, capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    ).stdout  # fmt: skip
    assert VERSION in said


def test_it_is_not_made_twice_into_one_folder(released: Path, folder: Path) -> None:
    command: list[Any] = [sys.executable, folder / "tree/packaging/release.py", "--tag", TAG]
    command += ["--tested", "--output", released]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, "name a new folder" in done.stderr) == (1, True)
