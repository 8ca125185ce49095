"""Fetch MicroPython's port for Linux, from Debian 13, for a machine that does not have it.

    python firmware-examples/fetch_micropython.py FOLDER

Does nothing when it is there already. Debian 12 has no such package; so mmdebstrap, which has apt
check signatures, unpacks it with the libraries that it needs into a folder of its own, and
FOLDER/micropython starts it with those. Nothing is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RELEASE = "trixie"
_LAUNCHER = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
library=$(echo "$here"/root/usr/lib/*-linux-gnu)
exec "$library"/ld-linux-*.so.* --library-path "$library" "$here/root/usr/bin/micropython" "$@"
"""


def fetch(folder: Path) -> None:
    """Lay a program `micropython` into `folder`.

    Raises:
        SystemExit: mmdebstrap is not there, or fails.
    """
    if (folder / "micropython").is_file():
        return
    if shutil.which("mmdebstrap") is None:
        raise SystemExit("needs Debian's package mmdebstrap, or micropython itself")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        done = subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=extract", "--include=micropython",
             '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"',
             RELEASE, str(beside / "root")],
            capture_output=True, text=True, check=False,
            env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"mmdebstrap cannot unpack micropython: {done.stderr.strip()[-300:]}")
        launcher = beside / "micropython"
        launcher.write_text(_LAUNCHER)
        launcher.chmod(0o755)
        beside.chmod(0o755)
        try:
            beside.rename(folder)
        except OSError:  # another was faster
            assert (folder / "micropython").is_file()
    finally:
        shutil.rmtree(beside, ignore_errors=True)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
