"""Fetch sources that examples are built of: archives from Debian's pool, by apt's own downloader.

    python firmware-examples/fetch_debian_sources.py FOLDER [NAME…]

NAME is lwip, mbedtls or pico-sdk; the first two where none is given. Lays each into FOLDER/NAME;
does nothing for what is there already. Only what has the pinned digest is unpacked, into a folder
that is renamed when it is whole. The one patch that Debian has for the code of lwIP beside its
build is of SNMP, which is not compiled here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

DOWNLOADER = "/usr/lib/apt/apt-helper"
POOL = "http://deb.debian.org/debian/pool/main"


class Source(NamedTuple):
    """One archive; its first folder is left out."""

    name: str
    path: str
    sha256: str
    folders: tuple[str, ...]
    """What of it is unpacked."""


SOURCES = (
    Source(
        "lwip",
        "l/lwip/lwip_2.2.1+dfsg1.orig.tar.xz",
        "83729c274c499d3348e9fbbe043a3113f3fa8953e7efddc7c21c7fcbb1f2b7b1",
        ("src",),
    ),
    Source(
        "mbedtls",
        "m/mbedtls/mbedtls_3.6.6.orig.tar.bz2",
        "8fb65fae8dcae5840f793c0a334860a411f884cc537ea290ce1c52bb64ca007a",
        ("include", "library"),
    ),
    Source(
        "pico-sdk",
        "p/pico-sdk/pico-sdk_2.1.1.orig.tar.gz",
        "179c5531e75ac7f82d0679e70b6e8881f871738dc0ef17baf3b4ff4679291c41",
        ("CMakeLists.txt", "cmake", "docs", "external", "pico_sdk_", "src", "tools"),
    ),
)
USUAL = ("lwip", "mbedtls")


def fetch(folder: Path, names: Sequence[str] = USUAL) -> None:
    """Lay the sources with these names into `folder`.

    Raises:
        SystemExit: there is no such source, no apt, it cannot fetch, or something else came.
    """
    unknown = set(names) - {one.name for one in SOURCES}
    if unknown:
        raise SystemExit(f"no source {', '.join(unknown)}: {', '.join(s.name for s in SOURCES)}")
    folder.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        if source.name in names and not (folder / source.name).is_dir():
            _fetch_one(source, folder)


def _fetch_one(source: Source, folder: Path) -> None:
    if not Path(DOWNLOADER).is_file():
        raise SystemExit(f"needs {DOWNLOADER}, of Debian's package apt, to fetch {source.name}")
    beside = Path(tempfile.mkdtemp(prefix=f".{source.name}-", dir=folder))
    try:
        archive = beside / "archive"
        # It compares the digest, and leaves nothing behind that has another one.
        done = subprocess.run(
            [DOWNLOADER, "-q", "download-file", f"{POOL}/{source.path}", archive,
             f"SHA256:{source.sha256}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"apt cannot fetch {source.path}: {done.stderr.strip()[-300:]}")
        with tarfile.open(archive) as opened:
            for member in opened:
                _, _, name = member.name.partition("/")
                if name.startswith(source.folders) and (member.isfile() or member.isdir()):
                    opened.extract(member, beside / "unpacked", filter="data")
        (root,) = (beside / "unpacked").iterdir()
        try:
            root.rename(folder / source.name)
        except OSError:  # another was faster
            assert (folder / source.name).is_dir()
    finally:
        shutil.rmtree(beside)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]), sys.argv[2:] or USUAL)
