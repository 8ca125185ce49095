"""Build the server's image with buildah, from its Debian package.

    python packaging/deb/build_server.py --output dist
    python packaging/container/build.py dist/edgectl-server_*.deb

With ``--own-base`` no registry is needed: the base is made by mmdebstrap from Debian's archive, and
is what is shipped. Two images of one package and base have the same layers: times are those of
``$SOURCE_DATE_EPOCH``, else of the last commit.

Nothing is emulated. The image is for the architecture of the package; where that is not this
machine's, its base is unpacked only, and what Debian's scripts would make there is taken from a
base of this machine's: accounts, authorities and Python's bytecode are the same on both.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RELEASE = "bookworm"
PACKAGES = ("ca-certificates", "libseccomp2", "libstdc++6", "python3.11")
"""Beside those that every Debian has: its scripts count on them."""
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
MADE_BY_SCRIPTS = ("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/ssl/certs/")
DEBIAN_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
COMPILE = (
    'chroot "$1" env PYTHONHASHSEED=0 python3.11 -m compileall -q -f '
    "--invalidation-mode unchecked-hash /usr/lib/python3.11"
)
TIDY = 'rm -rf "$1"/var/log/* "$1"/var/cache/*'  # when it was made, and what the linker remembers


def main() -> int:
    """Build one image; print its name."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="Example:\n  python packaging/container/build.py dist/edgectl-server_*.deb "
        "--own-base",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("package", type=Path, help="Debian package of the server, for bookworm")
    parser.add_argument("--tag", default="edgectl-server", help="default: edgectl-server")
    parser.add_argument("--own-base", action="store_true", help="make the base with mmdebstrap")
    parser.add_argument("--base", help="an image with Debian's Python 3.11, instead")
    parser.add_argument("--output", type=Path, help="write an archive for docker load, too")
    parser.add_argument("--storage", type=Path, help="folder of buildah's images")
    options = parser.parse_args()
    missing = [name for name in _needed(options.own_base) if shutil.which(name) is None]
    if missing:
        print(f"{', '.join(missing)} missing: apt install {' '.join(missing)}", file=sys.stderr)
        return 1
    buildah = ["buildah"]
    if options.storage:
        buildah += ["--root", str(options.storage), "--runroot", f"{options.storage}-run"]
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:  # noqa: S108 - hundreds of MB, which /tmp may keep in memory
        context = Path(folder)
        shutil.copy(options.package, context / "edgectl-server.deb")
        shutil.copy(HERE / "healthy.py", context)
        arguments: list[str] = []
        if options.base:
            arguments = _arguments(options.base, options.base)
        elif options.own_base:
            arguments = _own_bases(buildah, options.package, context)
        run(
            *(*buildah, "bud", "--isolation", "chroot", "--format", "docker"),
            *("--timestamp", epoch(), "--tag", options.tag, *arguments),
            *("--file", str(HERE / "Containerfile"), str(context)),
        )
    if options.output:
        # An archive of OCI has no place for the health check.
        options.output.unlink(missing_ok=True)
        run(*buildah, "push", options.tag, f"docker-archive:{options.output}:{options.tag}")
    print(options.tag)
    return 0


def _needed(own_base: bool) -> tuple[str, ...]:
    return ("buildah", "dpkg-deb", "mmdebstrap") if own_base else ("buildah",)


def _own_bases(buildah: list[str], package: Path, folder: Path) -> list[str]:
    """Make the bases that an image of `package` needs; return the arguments of its build."""
    here = _said("dpkg", "--print-architecture")
    there = _said("dpkg-deb", "--field", str(package), "Architecture")
    tar = _bootstrap(here, folder, "essential", PACKAGES)
    _import(buildah, tar, here, folder)
    if there != here:
        other = _bootstrap(there, folder, "extract", _packages(tar))
        _add_what_scripts_make(tar, other)
        _import(buildah, other, there, folder)
        other.unlink()
    tar.unlink()
    return _arguments(_base(here), _base(there))


def _arguments(base: str, runtime: str) -> list[str]:
    return ["--build-arg", f"BASE={base}", "--build-arg", f"RUNTIME={runtime}"]


def _base(architecture: str) -> str:
    return f"localhost/edgectl-base:{RELEASE}-{architecture}"


def _bootstrap(architecture: str, folder: Path, variant: str, packages: tuple[str, ...]) -> Path:
    """Make a file system of Debian with Python, as an archive; `extract` runs nothing in it."""
    tar = folder / f"{architecture}.tar"
    run(
        *("mmdebstrap", "--quiet", f"--architectures={architecture}"),
        *(f"--variant={variant}", f"--include={','.join(packages)}"),
        *('--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"'),
        *(f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT),
        *(() if variant == "extract" else (f"--customize-hook={COMPILE}",)),
        *(f"--customize-hook={TIDY}", RELEASE, str(tar)),
        # Debian's programs, and its folder for temporary files: one of a single user keeps apt out.
        environment={"SOURCE_DATE_EPOCH": epoch(), "PATH": DEBIAN_PATH, "TMPDIR": "/var/tmp"},  # noqa: S108 - see above
    )
    return tar


def _packages(tar: Path) -> tuple[str, ...]:
    """Return the names of the packages that are installed in an archive."""
    with tarfile.open(tar) as archive:
        status = archive.extractfile("./var/lib/dpkg/status")
        assert status is not None
        return tuple(re.findall(r"(?m)^Package: (.*)$", status.read().decode()))


def _add_what_scripts_make(source: Path, target: Path) -> None:
    """Add to an archive that was only unpacked what is the same on every architecture."""
    with tarfile.open(source) as configured, tarfile.open(target, "a") as unpacked:
        there = {member.name for member in unpacked.getmembers()}
        for member in configured.getmembers():
            name = member.name.removeprefix("./")
            made = name.startswith(MADE_BY_SCRIPTS) or "__pycache__" in name
            if made and member.name not in there:
                content = configured.extractfile(member) if member.isfile() else None
                unpacked.addfile(member, content)


def _import(buildah: list[str], tar: Path, architecture: str, folder: Path) -> None:
    """Make an image of an archive."""
    file = folder / "Base"
    file.write_text(f"FROM scratch\nADD {tar.name} /\n")
    run(
        *(*buildah, "bud", "--isolation", "chroot", "--timestamp", epoch()),
        *("--arch", architecture, "--tag", _base(architecture)),
        *("--file", str(file), str(folder)),
    )


def epoch() -> str:
    """Return the time that every file gets, seconds since 1970."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return given or _said("git", "-C", str(ROOT), "log", "-1", "--format=%ct")


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def run(*command: str, environment: dict[str, str] | None = None) -> None:
    """Run a command; what it prints is seen."""
    subprocess.run(command, check=True, env={**os.environ, **(environment or {})})


if __name__ == "__main__":
    raise SystemExit(main())
