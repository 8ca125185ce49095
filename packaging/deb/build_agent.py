"""Build the agent's Debian package for one release and architecture, on any machine.

    python packaging/deb/build_agent.py --release bookworm --architecture arm64 --output dist
    python packaging/deb/build_agent.py --release trixie --architecture all --output dist

The second is small: compiled libraries are Debian 13's own, on 64-bit and 32-bit ARM as on amd64.
How both are built, and why two builds are the same bytes, says `package`, which does it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from package import ROOT, Native, Package, run, write, write_compressed
from releases import RELEASES

_LIST_COMMANDS = (
    "from edgectl_agent.reference import command_names; print(', '.join(command_names()))"
)


def install_files(tree: Path) -> None:
    """Put settings and documents into the tree."""
    write(tree / "etc/edgectl/agent.toml", (AGENT.folder / "agent.toml").read_text())
    (tree / "etc/edgectl/hooks").mkdir()
    documents = tree / "usr/share/doc/edgectl-agent"
    write_compressed(documents / "agent.toml.gz", (ROOT / "docs/agent.toml").read_text())
    write_compressed(documents / "README.md.gz", (ROOT / "docs/device.md").read_text())
    write_compressed(tree / "usr/share/man/man1/edgectl-agent.1.gz", _manual_page())


def _manual_page() -> str:
    """Return the manual page with the commands as the program itself lists them."""
    command = [sys.executable, "-c", _LIST_COMMANDS]
    names = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT / "agent")
    page = (AGENT.folder / "edgectl-agent.1").read_text()
    return page.replace("@COMMANDS@", names.stdout.strip())


AGENT = Package(
    name="edgectl-agent",
    project=ROOT / "packaging/agent",
    description="""\
bring machine-learning models to this device, prove and serve them
 The agent of edgectl pulls signed models over MQTT or HTTP, tries each on this
 very device, swaps it in without dropping a request, and rolls back by itself
 when it misbehaves. Applications of the device ask it for predictions.""",
    programs={"edgectl-agent": ("edgectl_agent.cli", "main")},
    install_files=install_files,
    lock=lambda release: release.lock,
    not_needed=(
        "onnxruntime/capi/libonnxruntime.so*",  # for C programs; the Python module has its own
        "onnxruntime/datasets",
        "onnxruntime/quantization",
        "onnxruntime/tools",
        "onnxruntime/transformers",
        "numpy/**/tests",
        "numpy/f2py",
        "numpy/_core/include",
        "numpy/_core/lib",
        "numpy/_core/*_tests.cpython*",
        "securesystemslib/_vendor/**/test*",
        "securesystemslib/_vendor/**/.gitignore",
    ),
    conffiles=("/etc/edgectl/agent.toml",),
    architecture="arm64",
    native=Native(
        release="trixie",
        # python-tuf 5 takes no root to begin with; the signatures of 7 are what is tested.
        wheels=("securesystemslib", "tuf"),
        lock=RELEASES["trixie"].native_lock,
        depends=(
            "python3-cryptography (>= 43)",
            "python3-httptools (>= 0.1)",
            "python3-msgspec (>= 0.19)",
            "python3-numpy (>= 1:2)",
            "python3-onnxruntime (>= 1.21)",
            "python3-paho-mqtt (>= 2.1)",
            "python3-pyzstd (>= 0.16)",
            "python3-urllib3 (>= 2)",
        ),
        description="""\
 The runtime and all else that is compiled are packages of Debian; nothing is
 fetched from anywhere else.""",
    ),
)


if __name__ == "__main__":
    raise SystemExit(run(AGENT, __doc__ or ""))
