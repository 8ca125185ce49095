"""Make a release: check that it is one, build everything twice, write down what it is, and sign.

    python packaging/release.py --tag v0.1.0 --key ~/.ssh/release --output dist/v0.1.0

Order: checks (tree clean, tag at this commit, versions, changelog, tests), wheels and Debian
packages, each built twice and the same bytes, bills of materials, ``SHA256SUMS``, its signature
(``ssh-keygen -Y sign``, so the key may be in a token). Both builds begin with a clone of their own,
in folders of different names, so that nothing comes along that is not in the commit. The folder
appears when all is done.

Compressing takes most of the time, and the same bytes compressed by the same program are the same
bytes again. So the second build's packages are compared before that: their archives, byte for byte.
One, the smallest, is compressed twice all the same.
docs/operations/releasing.md says what people do before and after.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from sbom import bill_of_materials

ROOT = Path(__file__).parents[1]
NAMESPACE = "edgectl-release"
PROJECTS = {"server": ".", "agent": "packaging/agent"}
"""The Python project of each Debian package."""
RELEASES = ("bookworm", "trixie")
ARCHITECTURES = ("amd64", "arm64")
LOCKS = {"agent": "wheels-{}.txt", "server": "wheels-server-{}.txt"}
NATIVE = ("agent", "trixie", "wheels-native-trixie.txt")
"""Package, release and lock file of the one for all architectures."""
SUFFIX = {"bookworm": "~deb12", "trixie": "~deb13"}
_SECOND_NAME = slice(8 + 60 + 4, 8 + 60 + 4 + 16)
"""After the magic, the first member's header and its ``2.0\\n``: ar(5)."""
_TAG = re.compile(r"v(\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)")


class NotReady(Exception):
    """It is no release yet; the text says why, and what to do."""


def main() -> int:
    """Make one release as the command line says."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="Example:\n  python packaging/release.py --tag v0.1.0 --key ~/.ssh/release",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tag", required=True, help="of this commit, such as v0.1.0")
    parser.add_argument("--key", type=Path, help="OpenSSH key that signs; default: no signature")
    parser.add_argument("--output", type=Path, default=ROOT / "dist/release", help="new folder")
    parser.add_argument("--tested", action="store_true", help=".ci/run has passed on this commit")
    parser.add_argument("--check", action="store_true", help="only check, build nothing")
    options = parser.parse_args()
    try:
        version = check(ROOT, options.tag)
        if not options.tested:
            run_tests(ROOT)
        if options.check:
            print(f"{options.tag}: ready")
            return 0
        make(options.output, version, options.key)
    except NotReady as error:
        print(f"no release: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {len(list(options.output.iterdir()))} files of {options.tag}")
    return 0


# ---------------------------------------------------------------- is it one?


def check(root: Path, tag: str) -> str:
    """Return the version of a tag, once the tree is what was tagged.

    Raises:
        NotReady: something does not fit.
    """
    match = _TAG.fullmatch(tag)
    if match is None:
        raise NotReady(f"{tag!r} is no tag of a release, such as v0.1.0")
    version = match[1]
    changed = _git(root, "status", "--porcelain", "--untracked-files=all")
    if changed:
        raise NotReady(f"the tree is not clean: {changed.splitlines()[0].strip()}: commit or stash")
    if tag not in _git(root, "tag", "--points-at", "HEAD").split():
        raise NotReady(f"this commit has no tag {tag}: git tag --sign {tag}")
    for project in PROJECTS.values():
        path = root / project / "pyproject.toml"
        found = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"]
        if found != version:
            raise NotReady(f"{path.relative_to(root)} has version {found}, the tag {version}")
    heading = re.search(
        rf"(?m)^## {re.escape(version)} \((.*)\)$", (root / "CHANGELOG.md").read_text()
    )
    if heading is None or not re.fullmatch(r"\d{4}-\d\d-\d\d", heading[1]):
        raise NotReady(f"CHANGELOG.md has no section '## {version} (<date>)': write when it is")
    return version


def run_tests(root: Path) -> None:
    """Run what runs on a clean checkout.

    Raises:
        NotReady: it fails.
    """
    if subprocess.run([root / ".ci/run"], cwd=root, check=False).returncode:
        raise NotReady(".ci/run has failed (see above)")


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# ---------------------------------------------------------------- build


def make(output: Path, version: str, key: Path | None) -> None:
    """Build everything of a version into the new folder `output`."""
    if output.exists():
        raise NotReady(f"{output} is there already: name a new folder")
    epoch = _git(ROOT, "log", "-1", "--format=%ct").strip()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        first, second = Path(folder, "first"), Path(folder, "second")
        for target in (first, second):
            source = Path(folder, f"source-of-the-{target.name}")
            _run("git", "clone", "--quiet", str(ROOT), str(source), environment=dict(os.environ))
            build(source, target, epoch, to_compare=target == second)
            shutil.rmtree(source)
        differ = [one.name for one in first.iterdir() if not same(one, second / one.name)]
        if differ:
            raise NotReady(f"two builds differ in {', '.join(sorted(differ))}")
        write_bills(first, version, int(epoch))
        write_sums(first)
        if key is not None:
            sign(first / "SHA256SUMS", key)
        shutil.move(str(first), output)


def build(source: Path, target: Path, epoch: str, *, to_compare: bool = False) -> None:
    """Build all wheels and Debian packages of the checkout `source` into `target`.

    The packages hold the very wheels that are published. Those `to_compare` are not compressed, but
    for the one for all architectures.
    """
    environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
    begun, wheels = time.monotonic(), {}
    for package, project in PROJECTS.items():
        _say(begun, f"{target.name} build: wheel of {project}")
        wheels[package] = build_wheel(source / project, target, environment)
    built = [*itertools.product(LOCKS, RELEASES, ARCHITECTURES), (*NATIVE[:2], "all")]
    for package, release, architecture in built:
        _say(begun, f"{target.name} build: {package}, {release}, {architecture}")
        _run(
            *(sys.executable, str(source / f"packaging/deb/build_{package}.py")),
            *("--release", release, "--architecture", architecture),
            *("--output", str(target), "--wheel", str(wheels[package])),
            *(["--uncompressed"] if to_compare and architecture != "all" else []),
            environment=environment,
        )
    _say(begun, f"{target.name} build: done")


def _say(begun: float, what: str) -> None:
    print(f"{time.monotonic() - begun:6.0f} s  {what}", flush=True)


def build_wheel(
    project: Path, target: Path, environment: dict[str, str], *, isolated: bool = True
) -> Path:
    """Build the wheel of a project into `target`; its bytes depend on nothing but its sources.

    Without `isolated` with the hatchling that is installed here, and without the network.
    """
    before = set(target.glob("*.whl"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += [] if isolated else ["--no-build-isolation"]
    _run(*command, "--wheel-dir", str(target), str(project), environment=environment)
    (made,) = set(target.glob("*.whl")) - before
    return made


def same(one: Path, other: Path) -> bool:
    """Say whether two files are the same; `other` may be a package that is not compressed."""
    if not other.exists():
        return False
    if one.suffix != ".deb" or _compressed(other):
        return one.read_bytes() == other.read_bytes()
    parts = ("--ctrl-tarfile", "--fsys-tarfile")
    return all(_digest_of(part, one) == _digest_of(part, other) for part in parts)


def _compressed(package: Path) -> bool:
    """Say whether the archives of a package are compressed: the second member's name, deb(5)."""
    with package.open("rb") as file:
        name = file.read(_SECOND_NAME.stop)[_SECOND_NAME]
    return name.rstrip(b"/ ") != b"control.tar"


def _digest_of(part: str, package: Path) -> str:
    """Return the digest of one of the two archives in a package."""
    with subprocess.Popen(["dpkg-deb", part, str(package)], stdout=subprocess.PIPE) as unpacked:
        assert unpacked.stdout is not None
        digest = hashlib.file_digest(unpacked.stdout, "sha256").hexdigest()
    if unpacked.returncode:
        raise NotReady(f"{package} cannot be read (see above)")
    return digest


def _run(*command: str, environment: dict[str, str]) -> None:
    if subprocess.run(command, env=environment, check=False).returncode:
        raise NotReady(f"{' '.join(command[:3])} has failed (see above)")


# ---------------------------------------------------------------- say what it is


def write_bills(folder: Path, version: str, epoch: int) -> None:
    """Write the bill of materials of each Debian package."""
    wanted = [
        (package, release, lock.format(release), "")
        for package, lock in LOCKS.items()
        for release in RELEASES
    ]
    for package, release, lock, architecture in [*wanted, (*NATIVE, "_all")]:
        full, path = version + SUFFIX[release], ROOT / "packaging/deb" / lock
        content = bill_of_materials(f"edgectl-{package}", full, path, epoch)
        (folder / f"edgectl-{package}_{full}{architecture}.cdx.json").write_bytes(content)


def write_sums(folder: Path) -> Path:
    """Write the digests of all files, as ``sha256sum --check`` reads them."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
    ]
    path = folder / "SHA256SUMS"
    path.write_text("".join(lines))
    return path


def sign(path: Path, key: Path) -> Path:
    """Sign a file with an OpenSSH key; the signature is beside it."""
    command: Sequence[str] = ("ssh-keygen", "-q", "-Y", "sign", "-n", NAMESPACE, "-f", str(key))
    if subprocess.run([*command, str(path)], check=False).returncode:
        raise NotReady(f"{key} does not sign (see above)")
    return path.with_name(f"{path.name}.sig")


if __name__ == "__main__":
    raise SystemExit(main())
