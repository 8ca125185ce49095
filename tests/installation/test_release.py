"""What a release is made of: checks that refuse, the same wheels twice, bills, a signature."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).parents[2]


def load(name: str) -> Any:
    """Return a script of packaging/, which is no package."""
    sys.path.insert(0, str(ROOT / "packaging"))
    try:
        spec = importlib.util.spec_from_file_location(name, ROOT / f"packaging/{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "packaging"))


needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not here")

release = load("release")
sbom = load("sbom")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository that is a release."""
    root = tmp_path / "tree"
    (root / "packaging/agent").mkdir(parents=True)
    for project in (".", "packaging/agent"):
        (root / project / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (root / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3 (2026-12-01)\n\nAll.\n")
    git(root, "init", "--quiet")
    commit(root)
    git(root, "tag", "v1.2.3")
    return root


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *who, *words], check=True)


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "change")


def tagged(root: Path) -> None:
    commit(root)
    git(root, "tag", "--force", "v1.2.3")


def test_what_was_tagged_is_a_release(tree: Path) -> None:
    assert release.check(tree, "v1.2.3") == "1.2.3"


def test_a_tree_that_is_not_clean_is_none(tree: Path) -> None:
    (tree / "new").write_text("")
    with pytest.raises(release.NotReady, match=r"not clean: .*new"):
        release.check(tree, "v1.2.3")


def test_a_commit_without_the_tag_is_none(tree: Path) -> None:
    (tree / "new").write_text("")
    commit(tree)
    with pytest.raises(release.NotReady, match="git tag"):
        release.check(tree, "v1.2.3")


@pytest.mark.parametrize("tag", ["1.2.3", "v1.2", "v1.2.3; true", "v1.2.3\n", "--all", ""])
def test_what_is_no_tag_of_ours_is_none(tree: Path, tag: str) -> None:
    with pytest.raises(release.NotReady, match="no tag"):
        release.check(tree, tag)


@pytest.mark.parametrize("project", ["pyproject.toml", "packaging/agent/pyproject.toml"])
def test_a_version_that_differs_is_none(tree: Path, project: str) -> None:
    (tree / project).write_text('[project]\nversion = "1.2.4"\n')
    tagged(tree)
    with pytest.raises(release.NotReady, match=re.escape(project)):
        release.check(tree, "v1.2.3")


@pytest.mark.parametrize("section", ["## 1.2.3 (unreleased)", "## 1.2.3", "## 1.2.30 (2026-12-01)"])
def test_a_changelog_without_a_date_is_none(tree: Path, section: str) -> None:
    (tree / "CHANGELOG.md").write_text(f"# Changelog\n\n{section}\n")
    tagged(tree)
    with pytest.raises(release.NotReady, match=r"CHANGELOG\.md"):
        release.check(tree, "v1.2.3")


@pytest.mark.parametrize("project", [".", "packaging/agent"])
def test_two_wheels_are_the_same_bytes(project: str, tmp_path: Path) -> None:
    found = []
    for number, zone in enumerate(("UTC", "Asia/Tokyo")):
        target = tmp_path / str(number)
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1796000000", "TZ": zone}
        release.build_wheel(ROOT / project, target, environment, isolated=False)
        (wheel,) = target.glob("*.whl")
        found.append(wheel)
    assert found[0].read_bytes() == found[1].read_bytes()
    assert zipfile.ZipFile(found[0]).testzip() is None


def small_package(
    folder: Path, *compression: str, text: str = "text" * 999, mode: int = 0o644
) -> Path:
    """Return a package with one file."""
    tree, made = folder / "tree", folder / "made.deb"
    (tree / "DEBIAN").mkdir(parents=True)
    control = "Package: small\nVersion: 1\nArchitecture: all\nMaintainer: t <t@example.org>\n"
    (tree / "DEBIAN/control").write_text(control + "Description: small\n")
    (tree / "file").write_text(text)
    (tree / "file").chmod(mode)
    for path in sorted(tree.rglob("*"), reverse=True):
        os.utime(path, (1796000000, 1796000000))
    command = ["dpkg-deb", "--root-owner-group", *compression, "--build", str(tree), str(made)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1796000000"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return made


@needs_dpkg
def test_a_package_that_is_not_compressed_is_the_same_by_what_is_in_it(tmp_path: Path) -> None:
    released = small_package(tmp_path / "released", "-Zxz", "-z6")
    plain = small_package(tmp_path / "plain", "-Znone")
    assert plain.stat().st_size > released.stat().st_size
    assert release.same(released, plain)
    assert release.same(released, small_package(tmp_path / "again", "-Zxz", "-z6"))


@needs_dpkg
@pytest.mark.parametrize(
    ("compression", "change"),
    [
        (["-Znone"], {"text": "other"}),
        (["-Znone"], {"mode": 0o600}),
        (["-Zxz", "-z6"], {"text": "other"}),
        (["-Zgzip"], {}),
    ],
    ids=["other content", "other mode", "other content, compressed", "otherwise compressed"],
)
def test_a_package_that_differs_is_not_the_same(
    tmp_path: Path, compression: list[str], change: dict[str, Any]
) -> None:
    released = small_package(tmp_path / "released", "-Zxz", "-z6")
    assert not release.same(released, small_package(tmp_path / "other", *compression, **change))
    assert not release.same(released, tmp_path / "missing.deb")


@pytest.mark.parametrize("package", ["agent", "server"])
@pytest.mark.parametrize("name", ["bookworm", "trixie"])
def test_a_bill_names_every_wheel_and_is_valid(package: str, name: str) -> None:
    lock = ROOT / "packaging/deb" / release.LOCKS[package].format(name)
    bill = sbom.bill_of_materials(f"edgectl-{package}", "1.2.3~deb12", lock, 1796000000)
    assert bill == sbom.bill_of_materials(f"edgectl-{package}", "1.2.3~deb12", lock, 1796000000)
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.decode())
    assert problem is None, problem
    document = json.loads(bill)
    text = lock.read_text()
    assert len(document["components"]) == len(re.findall(r"(?m)^[a-z]\S*==", text))
    listed = {
        one["hashes"][0]["content"]
        for component in document["components"]
        for one in component["components"]
    }
    assert listed == set(re.findall(r"sha256:([0-9a-f]{64})", text))
    assert "onnxruntime" in {one["name"] for one in document["components"]}


def test_who_has_the_public_key_notices_any_change(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "a.whl").write_bytes(b"wheel")
    sums = release.write_sums(folder)
    assert subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, check=True)
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    signature = release.sign(sums, key)
    signers = tmp_path / "allowed_signers"
    signers.write_text(f"release@edgectl {key.with_suffix('.pub').read_text()}")

    def verified() -> bool:
        command = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "release@edgectl"]
        command += ["-n", release.NAMESPACE, "-s", signature]
        done = subprocess.run(command, input=sums.read_bytes(), capture_output=True, check=False)
        return done.returncode == 0

    assert verified()
    sums.write_text(sums.read_text().replace("a.whl", "b.whl"))
    assert not verified()
