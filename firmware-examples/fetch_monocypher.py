"""Fetch monocypher's two C files, from the source package of its Python binding, by pip.

    python firmware-examples/fetch_monocypher.py FOLDER

Does nothing when they are there already. Only what has the pinned digest is unpacked, into a folder
that is renamed when it is whole: others may want it at the same time.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "4.0.3.4"
SHA256 = "5e56e3d3eb770a53e0b9f6274146663c11a11f3d0de5cd48e3be0428d1b07a4a"
FILES = ("monocypher.c", "monocypher.h")
_ARCHIVE_BYTES_MAX = 4 * 1024 * 1024


def fetch(folder: Path) -> None:
    """Lay the files into `folder`.

    Raises:
        SystemExit: pip fails, or what came is something else.
    """
    if all((folder / name).is_file() for name in FILES):
        return
    with tempfile.TemporaryDirectory() as scratch:
        # pip asks the package for its metadata on the way, which its own build tool answers.
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
            "--no-binary", "pymonocypher", "--dest", scratch, f"pymonocypher=={VERSION}",
        ]  # fmt: skip
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"pip cannot fetch pymonocypher {VERSION}, which holds monocypher")
        archive = Path(scratch) / f"pymonocypher-{VERSION}.tar.gz"
        digest = hashlib.sha256(archive.read_bytes()[: _ARCHIVE_BYTES_MAX + 1]).hexdigest()
        if digest != SHA256:
            raise SystemExit(f"{archive.name} has the SHA-256 {digest}, pinned is {SHA256}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        with tarfile.open(archive) as opened:
            for name in FILES:
                member = opened.extractfile(f"pymonocypher-{VERSION}/{name}")
                assert member is not None, name
                (beside / name).write_bytes(member.read())
        try:
            beside.rename(folder)
        except OSError:  # another was faster
            shutil.rmtree(beside)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
