"""Fetch onnxruntime for programs in C: the header from Debian's pool, the library from PyPI.

    python firmware-examples/fetch_onnxruntime.py FOLDER
    python firmware-examples/fetch_onnxruntime.py FOLDER --architecture arm64

Lays FOLDER/include/onnxruntime_c_api.h and FOLDER/lib/libonnxruntime.so.1; does nothing when they
are there. For Debian 12, which has no onnxruntime; Debian 13 has libonnxruntime-dev. The header is
older than the library: its functions are numbered, and the library keeps the old ones. Only what
has a pinned digest is unpacked, into a folder that is renamed when it is whole.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

DOWNLOADER = "/usr/lib/apt/apt-helper"
POOL = "http://deb.debian.org/debian/pool/main"
HEADER_PACKAGE = "o/onnxruntime/libonnxruntime-dev_1.21.0+dfsg-1_amd64.deb"
HEADER_SHA256 = "14f7d959d5deacbcf1504830d4189f91fc67382b399ed9ae9d3aa9c4050ced08"
HEADER = "onnxruntime_c_api.h"
LIBRARY = "libonnxruntime.so.1"
WHEELS = Path(__file__).parents[1] / "packaging/deb/wheels-bookworm.txt"
"""Lists the wheel of each architecture by its digest."""
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_LIBRARY_BYTES_MAX = 256 * 1024 * 1024


def fetch(folder: Path, architecture: str) -> None:
    """Lay header and library into `folder`.

    Raises:
        SystemExit: apt or pip cannot fetch, or what came is something else.
    """
    if (folder / "include" / HEADER).is_file() and (folder / "lib" / LIBRARY).is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _lay_header(beside)
        _lay_library(beside, architecture)
        beside.chmod(0o755)
        beside.rename(folder)
    except OSError:  # another was faster
        if not (folder / "lib" / LIBRARY).is_file():
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _lay_header(folder: Path) -> None:
    if not Path(DOWNLOADER).is_file():
        raise SystemExit(f"needs {DOWNLOADER}, of Debian's package apt, to fetch {HEADER}")
    package = folder / "package.deb"
    # It compares the digest, and leaves nothing behind that has another one.
    done = subprocess.run(
        [DOWNLOADER, "-q", "download-file", f"{POOL}/{HEADER_PACKAGE}", package,
         f"SHA256:{HEADER_SHA256}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"apt cannot fetch {HEADER_PACKAGE}: {done.stderr.strip()[-300:]}")
    files = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True
    ).stdout
    (folder / "include").mkdir()
    with tarfile.open(fileobj=io.BytesIO(files)) as opened:
        for member in opened:
            if member.isfile() and Path(member.name).name == HEADER:
                content = opened.extractfile(member)
                assert content is not None
                (folder / "include" / HEADER).write_bytes(content.read())
    package.unlink()


def _lay_library(folder: Path, architecture: str) -> None:
    pinned = re.search(r"^onnxruntime==.*?(?=^\S)", WHEELS.read_text(), re.MULTILINE | re.DOTALL)
    assert pinned is not None, WHEELS
    scratch = folder / "wheel"
    scratch.mkdir()
    (scratch / "wanted.txt").write_text(pinned.group())
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
         "--require-hashes", "--python-version", "3.11", "--implementation", "cp",
         "--platform", f"manylinux_2_27_{MACHINES[architecture]}",
         "--platform", f"manylinux_2_28_{MACHINES[architecture]}",
         "--dest", scratch, "--requirement", scratch / "wanted.txt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"pip cannot fetch onnxruntime: {done.stderr.strip()[-300:]}")
    (wheel,) = scratch.glob("*.whl")
    (folder / "lib").mkdir()
    with zipfile.ZipFile(wheel) as opened:
        (inside,) = (one for one in opened.infolist() if "/capi/libonnxruntime.so." in one.filename)
        assert inside.file_size < _LIBRARY_BYTES_MAX
        (folder / "lib" / LIBRARY).write_bytes(opened.read(inside))
    shutil.rmtree(scratch)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fetch onnxruntime for programs in C.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--architecture", choices=sorted(MACHINES), default="amd64")
    arguments = parser.parse_args()
    fetch(arguments.folder, arguments.architecture)
