"""Build python3-msgspec for 32-bit ARM, which Debian 13 and PyPI have for others only.

    python packaging/deb/build_msgspec.py --output dist

The agent's package for all architectures depends on it. The sources are those of PyPI, by hash,
the compiler is Debian's for that processor (gcc-arm-linux-gnueabihf), the headers are those of its
Python in Debian 13, which mmdebstrap unpacks. Nothing is emulated; two builds by one compiler are
the same bytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from package import MAINTAINER, epoch, make_alike, write, write_compressed
from releases import RELEASES

VERSION = "0.23.0"
SDIST = "a0d57d3ca7734542eb6861e72d974ab051e6cf73ea6b01b263f77170593362be"
"""SHA-256 of the sources of that version on PyPI."""
NAME = "python3-msgspec"
ARCHIVE = "http://deb.debian.org/debian"
"""Signatures are checked; without updates, which are not needed for headers."""
RELEASE = RELEASES["trixie"]
ARCHITECTURE, TRIPLET = "armhf", "arm-linux-gnueabihf"
_PACKAGES = "usr/lib/python3/dist-packages"
_CONTROL = f"""\
Package: {NAME}
Version: {VERSION}{RELEASE.suffix}
Architecture: {ARCHITECTURE}
Maintainer: {MAINTAINER}
Installed-Size: {{kilobytes}}
Depends: python3 (>= {RELEASE.python}), python3 (<< 3.14), libc6 (>= 2.36)
Section: python
Priority: optional
Homepage: https://jcristharif.com/msgspec/
Description: fast serialization and validation library for Python
 Built by the edgectl project for 32-bit ARM, from the sources of its makers.
"""
_SCRIPTS = {
    "postinst": f'#!/bin/sh\nset -e\n[ "$1" != configure ] || py3compile -p {NAME}\n',
    "prerm": f"#!/bin/sh\nset -e\npy3clean -p {NAME}\n",
}


def main() -> int:
    """Build the package as the command line says; print where it is."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="Example:\n  python packaging/deb/build_msgspec.py --output dist",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("dist"), help="folder, default: dist")
    options = parser.parse_args()
    missing = [one for one in (f"{TRIPLET}-gcc", "mmdebstrap") if shutil.which(one) is None]
    if missing:
        print(f"it needs {' and '.join(missing)}", file=sys.stderr)
        print(
            "  try: sudo apt-get install gcc-arm-linux-gnueabihf libc6-dev-armhf-cross mmdebstrap",
            file=sys.stderr,
        )
        return 1
    print(build(options.output))
    return 0


def build(output: Path) -> Path:
    """Build the package, and return its path."""
    output.mkdir(parents=True, exist_ok=True)
    made = output / f"{NAME}_{VERSION}{RELEASE.suffix}_{ARCHITECTURE}.deb"
    with tempfile.TemporaryDirectory() as folder:
        sources, headers, tree = (Path(folder) / name for name in ("sources", "headers", "tree"))
        _fetch_sources(sources)
        _fetch_headers(headers)
        _fill(tree, sources, headers)
        make_alike(tree, ())
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", tree, made],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch())},
        )
    return made


def _fetch_sources(folder: Path) -> None:
    """Unpack the sources of PyPI, when they are those that are meant."""
    folder.mkdir()
    wanted = folder / "wanted.txt"
    wanted.write_text(f"msgspec=={VERSION} --hash=sha256:{SDIST}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary", ":all:", "--require-hashes"]
    subprocess.run([*command, "--dest", str(folder), "--requirement", str(wanted)], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def _fetch_headers(folder: Path) -> None:
    """Unpack what Debian's Python for that processor is compiled against."""
    root = folder / "root"
    folder.mkdir()
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=extract", f"--architectures={ARCHITECTURE}"),
            *('--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"'),
            *(
                f"--include=base-files,libpython{RELEASE.python}-dev",
                RELEASE.name,
                str(root),
                ARCHIVE,
            ),
        ],
        check=True,
        env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    shutil.copytree(root / f"usr/include/python{RELEASE.python}", folder / "python")
    own = f"{TRIPLET}/python{RELEASE.python}"
    shutil.copytree(root / "usr/include" / own, folder / own)
    subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=True)


def _fill(tree: Path, sources: Path, headers: Path) -> None:
    """Compile, and put all that belongs to the package into the tree."""
    (core,) = sources.glob("*/**/msgspec/_core.c")
    target = tree / _PACKAGES / "msgspec"
    target.mkdir(parents=True)
    for module in [*core.parent.glob("*.py"), *core.parent.glob("*.pyi"), core.parent / "py.typed"]:
        if module.exists():
            shutil.copy(module, target)
    minor = RELEASE.python.replace(".", "")
    subprocess.run(
        [
            *(f"{TRIPLET}-gcc", "-shared", "-fPIC", "-O2", "-g0", "-s", "-DNDEBUG", "-fwrapv"),
            *("-D_FILE_OFFSET_BITS=64", "-D_TIME_BITS=64", "-Wl,-z,relro", "-Wl,-z,now"),
            *(f"-ffile-prefix-map={core.parent}=.", "-I", str(headers / "python")),
            *("-I", str(headers), str(core)),
            *("-o", str(target / f"_core.cpython-{minor}-{TRIPLET}.so")),
        ],
        check=True,
    )
    (metadata,) = sources.glob("*/PKG-INFO")
    described = tree / _PACKAGES / f"msgspec-{VERSION}.dist-info"
    write(described / "METADATA", metadata.read_text())
    documents = tree / "usr/share/doc" / NAME
    (license_,) = sources.glob("*/LICENSE")
    write(documents / "copyright", license_.read_text())
    write_compressed(documents / "changelog.gz", f"{NAME} ({VERSION}{RELEASE.suffix})\n")
    files = [path for path in tree.rglob("*") if path.is_file()]
    kilobytes = sum(-(-path.stat().st_size // 1024) for path in files)
    write(tree / "DEBIAN/control", _CONTROL.format(kilobytes=kilobytes))
    for name, text in _SCRIPTS.items():
        write(tree / "DEBIAN" / name, text, mode=0o755)


if __name__ == "__main__":
    raise SystemExit(main())
