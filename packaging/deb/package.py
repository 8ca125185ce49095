"""What the builders of the Debian packages share: wheels for the target in, the same bytes out.

Nothing is compiled and nothing is emulated: pip unpacks wheels for the target, with the hashes of
the lock file, into a virtual environment below ``/usr/lib`` that uses Debian's Python. Two builds
of one source give the same bytes: times are those of ``$SOURCE_DATE_EPOCH``, else of the last
commit, and what pip writes about its own work is left out. Needs pip, dpkg-deb and xz.

A package for all architectures holds nothing that is compiled: such libraries are Debian's, and
what is pure Python goes in where Debian's is too old.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from releases import ALL, ARCHITECTURES, RELEASES, Release, pip_target

__all__ = [
    "MAINTAINER",
    "PIP_LEAVINGS",
    "ROOT",
    "Native",
    "Package",
    "build",
    "epoch",
    "make_alike",
    "run",
    "write",
    "write_compressed",
]

ROOT = Path(__file__).parents[2]
MAINTAINER = "edgectl developers <edgectl@example.org>"

PIP_LEAVINGS = (
    "bin",
    "**/*.pyi",
    "**/*.dist-info/RECORD",  # of pip's own work: these differ from build to build
    "**/*.dist-info/INSTALLER",
    "**/*.dist-info/REQUESTED",
    "**/*.dist-info/direct_url.json",
)

CONTROL = """\
Package: {name}
Version: {version}
Architecture: {architecture}
Maintainer: {maintainer}
Installed-Size: {kilobytes}
Depends: {depends}
Pre-Depends: init-system-helpers (>= 1.54~)
Recommends: {recommends}
Section: net
Priority: optional
Homepage: https://github.com/edgectl/edgectl
Description: {description}
"""

SYSUSERS = "systemd | systemd-standalone-sysusers | systemd-sysusers"
"""What `postinst` makes users and groups with, on machines without systemd too."""
_CONTENTS = """\
 The Python packages that it needs are part of this package; nothing is fetched
 when it is installed."""


@dataclass(frozen=True)
class Native:
    """How a package for all architectures does with Debian's own libraries.

    Attributes:
        release: of Debian, the one whose libraries are known to do.
        wheels: that go in all the same; pure Python.
        lock: file with these, by hash.
        depends: Debian's packages in place of the others.
        description: what the control file says of that.
    """

    release: str
    wheels: tuple[str, ...]
    lock: Path
    depends: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class Package:
    """What is particular to one package.

    Attributes:
        name: of the package, and of its service.
        project: folder of the Python project whose wheel goes in.
        description: of the control file: one line, then lines that begin with a space.
        programs: programs of the package: Python module and function by name.
        install_files: puts settings, units and documents into the tree; gets the tree.
        lock: file with the wheels for a release.
        not_needed: what wheels bring and nobody uses, relative to site-packages.
        conffiles: settings that an administrator may change.
        depends: beside Python and its libraries.
        recommends: of the control file.
        architecture: that is built when nobody says another one.
        native: how it is made for all architectures; None: it is not.
    """

    name: str
    project: Path
    description: str
    programs: Mapping[str, tuple[str, str]]
    install_files: Callable[[Path], None]
    lock: Callable[[Release], Path]
    not_needed: tuple[str, ...]
    conffiles: tuple[str, ...]
    depends: tuple[str, ...] = ()
    recommends: str = "ca-certificates, systemd"
    architecture: str = "amd64"
    native: Native | None = None

    @property
    def folder(self) -> Path:
        """Files of the package, beside this one."""
        return Path(__file__).parent / self.name.removeprefix("edgectl-")

    @property
    def home(self) -> str:
        """Folder of the virtual environment, without the slash before it."""
        return f"usr/lib/{self.name}"


def run(package: Package, doc: str) -> int:
    """Build one package as the command line says; print where it is."""
    parser = argparse.ArgumentParser(
        description=doc.splitlines()[0],
        epilog=f"Example:\n  python packaging/deb/build_{package.folder.name}.py --release trixie "
        "--output dist",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--release", choices=RELEASES, default="bookworm", help="default: bookworm")
    parser.add_argument(
        "--architecture",
        choices=[*ARCHITECTURES, *([ALL] if package.native else [])],
        default=package.architecture,
        help=f"default: {package.architecture}",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder, default: dist")
    parser.add_argument("--version", default=_version(package), help="default: that of the project")
    parser.add_argument("--level", type=int, default=6, help="of xz, 0 to 9; default: 6")
    parser.add_argument("--uncompressed", action="store_true", help="only to be compared with")
    parser.add_argument("--wheel", type=Path, help="of the project; default: it is built")
    options = parser.parse_args()
    native = package.native
    if native and options.architecture == ALL and options.release != native.release:
        parser.error(
            f"--architecture {ALL} needs --release {native.release}: no other has all of it"
        )
    made = build(
        package,
        RELEASES[options.release],
        options.architecture,
        options.output,
        version=options.version,
        level=None if options.uncompressed else options.level,
        wheel=options.wheel,
    )
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    print(f"{made}: {made.stat().st_size / 1e6:.1f} MB, sha256:{digest}")
    return 0


def build(
    package: Package,
    release: Release,
    architecture: str,
    output: Path,
    *,
    version: str,
    level: int | None = 6,
    wheel: Path | None = None,
) -> Path:
    """Build the package, and return its path.

    Args:
        package: which one.
        release: Debian release of the machines.
        architecture: of the machines, Debian's name.
        output: folder that the package is written into.
        version: upstream version; the release's suffix is added.
        level: how hard xz tries, 0 to 9; None: it is not compressed.
        wheel: of the project, built before; None: it is built.
    """
    output.mkdir(parents=True, exist_ok=True)
    full_version = version + release.suffix
    made = output / f"{package.name}_{full_version}_{architecture}.deb"
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        _install_wheels(package, release, architecture, tree, wheel)
        _install_programs(package, release, architecture, tree)
        _install_documents(package, tree, full_version)
        package.install_files(tree)
        _write_control(package, release, architecture, tree, full_version)
        make_alike(tree, {tree / package.home / "bin" / name for name in package.programs})
        compression = ["-Znone"] if level is None else ["-Zxz", f"-z{level}"]
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", *compression, "--build", tree, made],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch())},
        )
    return made


def _version(package: Package) -> str:
    return str(
        tomllib.loads((package.project / "pyproject.toml").read_text())["project"]["version"]
    )


def epoch() -> int:
    """Return the time that every file gets, seconds since 1970."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


# ---------------------------------------------------------------- what goes in


def _install_wheels(
    package: Package, release: Release, architecture: str, tree: Path, wheel: Path | None
) -> None:
    packages = tree / package.home / "lib" / f"python{release.python}" / "site-packages"
    pip = [sys.executable, "-m", "pip"]
    native = package.native if architecture == ALL else None
    of_pip = package.architecture if native else architecture  # pure Python: any does
    target = ["install", "--quiet", "--no-deps", *pip_target(release, of_pip, packages)]
    lock = native.lock if native else package.lock(release)
    subprocess.run([*pip, *target, "--require-hashes", "--requirement", str(lock)], check=True)
    with tempfile.TemporaryDirectory() as wheels:
        if wheel is None:
            command = ["wheel", "--quiet", "--no-deps", "--wheel-dir", wheels]
            subprocess.run([*pip, *command, str(package.project)], check=True)
            (wheel,) = Path(wheels).glob("*.whl")
        shutil.rmtree(packages / "bin", ignore_errors=True)  # or pip says that it is there
        subprocess.run([*pip, *target, str(wheel)], check=True)
    for pattern in (*PIP_LEAVINGS, *package.not_needed):
        for path in list(packages.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if native:
        assert not list(packages.rglob("*.so")), "nothing that is compiled"


def _install_programs(package: Package, release: Release, architecture: str, tree: Path) -> None:
    programs = tree / package.home / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(f"../../../bin/python{release.python}")
    (tree / package.home / "pyvenv.cfg").write_text(
        "home = /usr/bin\n"
        f"include-system-site-packages = {str(architecture == ALL).lower()}\n"
        f"version = {release.python}\n"
    )
    (tree / "usr/bin").mkdir()
    for name, (module, function) in package.programs.items():
        write(
            programs / name,
            f"#!/{package.home}/bin/python3 -I\n"
            f"import sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n",
            mode=0o755,
        )
        (tree / "usr/bin" / name).symlink_to(f"../lib/{package.name}/bin/{name}")


def _install_documents(package: Package, tree: Path, version: str) -> None:
    unit = (package.folder / f"{package.name}.service").read_text()
    write(tree / f"usr/lib/systemd/system/{package.name}.service", unit)
    users = (package.folder / f"{package.name}.sysusers").read_text()
    write(tree / f"usr/lib/sysusers.d/{package.name}.conf", users)
    documents = tree / "usr/share/doc" / package.name
    write(documents / "copyright", (package.folder / "copyright").read_text())
    write_compressed(documents / "changelog.gz", _changelog(package, version))
    overrides = (package.folder / "lintian-overrides").read_text()
    write(tree / "usr/share/lintian/overrides" / package.name, overrides)


def _changelog(package: Package, version: str) -> str:
    date = subprocess.run(
        ["date", "--utc", "--rfc-email", f"--date=@{epoch()}"],
        check=True, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"},
    ).stdout.strip()  # fmt: skip
    return (
        f"{package.name} ({version}) stable; urgency=medium\n\n"
        f"  * See CHANGELOG.md of the project.\n\n -- {MAINTAINER}  {date}\n"
    )


def _write_control(
    package: Package, release: Release, architecture: str, tree: Path, version: str
) -> None:
    depends = [*_interpreter(package, release, architecture), "libseccomp2", SYSUSERS]
    depends += package.depends
    files = [path for path in sorted(tree.rglob("*")) if path.is_file() and not path.is_symlink()]
    control = tree / "DEBIAN"
    control.mkdir()
    of_all = package.native if architecture == ALL else None
    contents = of_all.description if of_all else _CONTENTS
    text = CONTROL.format(
        name=package.name,
        version=version,
        architecture=architecture,
        maintainer=MAINTAINER,
        kilobytes=sum(-(-path.stat().st_size // 1024) for path in files),
        depends=", ".join(depends),
        recommends=package.recommends,
        description=f"{package.description}\n .\n{contents}",
    )
    write(control / "control", text)
    write(control / "conffiles", "".join(f"{one}\n" for one in package.conffiles))
    sums = (f"{_md5(path)}  {path.relative_to(tree)}\n" for path in files)
    write(control / "md5sums", "".join(sums))
    for script in ("postinst", "prerm", "postrm"):
        text = (package.folder / script).read_text().replace("@PYTHON@", release.python)
        write(control / script, text, mode=0o755)


def _interpreter(package: Package, release: Release, architecture: str) -> list[str]:
    """Return the Python of a release, and what stands below the compiled libraries."""
    if package.native and architecture == ALL:
        major, minor = release.python.split(".")
        bounds = [f"python3 (>= {release.python})", f"python3 (<< {major}.{int(minor) + 1})"]
        return [*bounds, f"python{release.python}", *package.native.depends]
    return [
        *(f"python{release.python}", "python3:any"),  # the second has py3compile
        *(f"libc6 (>= 2.{release.glibc})", "libgcc-s1", "libstdc++6"),
    ]


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


# ---------------------------------------------------------------- the same bytes each time


def write(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file of the tree."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def write_compressed(path: Path, text: str) -> None:
    """Write a document of the tree as Debian wants it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def make_alike(tree: Path, programs: Collection[Path]) -> None:
    """Give every file the modes that Debian wants, and one time.

    Args:
        tree: of the package, with its ``DEBIAN``.
        programs: files in it that may be run, beside the scripts of the package.
    """
    runnable = {*programs, *(tree / "DEBIAN").glob("p*")}
    for path in sorted(tree.rglob("*"), reverse=True):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path in runnable else 0o644)
        os.utime(path, (epoch(), epoch()), follow_symlinks=False)
