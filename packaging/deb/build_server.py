"""Build the server's Debian package for one release and architecture, on any machine.

    python packaging/deb/build_server.py --release bookworm --output dist

It holds the server with its web UI, the command line `edgectl`, and their Python packages, those
for PostgreSQL too. How it is built, and why two builds are the same bytes, says `package`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from package import ROOT, Package, run, write, write_compressed

_LIST_COMMANDS = (
    "from edgectl.reference import commands; "
    "print(', '.join(p.split()[1] for p, _ in commands() if p.count(' ') == 1))"
)


def install_files(tree: Path) -> None:
    """Put settings and documents into the tree."""
    write(tree / "etc/edgectl/server.toml", (SERVER.folder / "server.toml").read_text())
    (tree / "etc/edgectl/credentials").mkdir()
    documents = tree / "usr/share/doc/edgectl-server"
    write_compressed(documents / "server.toml.gz", (ROOT / "docs/server.toml").read_text())
    readme = (ROOT / "docs/operations/server.md").read_text()
    write_compressed(documents / "README.md.gz", readme)
    write_compressed(tree / "usr/share/man/man1/edgectl.1.gz", _manual_page())


def _manual_page() -> str:
    """Return the manual page with the commands as the program itself lists them."""
    command = [sys.executable, "-c", _LIST_COMMANDS]
    names = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT / "server")
    return (SERVER.folder / "edgectl.1").read_text().replace("@COMMANDS@", names.stdout.strip())


SERVER = Package(
    name="edgectl-server",
    project=ROOT,
    description="""\
push machine-learning models to a fleet of small devices
 The server of edgectl takes models, quantizes and measures them, signs what
 devices may run, rolls it out in phases over its own MQTT broker or another
 one, and watches what becomes of it. With a web page, and a command line.""",
    programs={"edgectl": ("edgectl.cli", "main")},
    install_files=install_files,
    lock=lambda release: release.server_lock,
    not_needed=(
        "onnxruntime/capi/libonnxruntime.so*",  # for C programs; the Python module has its own
        "numpy/**/tests",
        "numpy/_core/include",
        "numpy/_core/lib",
        "numpy/_core/*_tests.cpython*",
        "onnx/backend/test",
        "onnx/test",
        "securesystemslib/_vendor/**/test*",
        "securesystemslib/_vendor/**/.gitignore",
        "ai_edge_litert/libLiteRtWebGpuAccelerator.so",
        "ai_edge_litert/tools",
        "ai_edge_litert/vendors",  # compilers for accelerators of telephones
        "mpmath/tests",
        "scipy/**/tests",
        "sympy/**/tests",
        "sympy/benchmarks",
        "tqdm/completion.sh",
    ),
    conffiles=("/etc/edgectl/server.toml",),
    recommends="ca-certificates, systemd",
)


if __name__ == "__main__":
    raise SystemExit(run(SERVER, __doc__ or ""))
