"""The agent's Debian packages on a booted Debian: size, memory, first inference, upgrades.

    python -m benchmarks.packages [--only deb12]... [--upgrades 3]

Each package is built as it is released, and installed on a Debian that has systemd and Python and
nothing else, booted by systemd-nspawn beside a server on this machine:

- *deb12*: for Debian 12 on amd64, which brings its libraries;
- *deb13*: for Debian 13 on any architecture, whose libraries are Debian's own.

Debian's packages are fetched before the clock runs, so that times say nothing of a network. An
application asks for predictions all the time while the service is restarted and while the package
is exchanged for another version of itself, there and back; what it waits then is beside each other.
Memory is the kernel's proportional set size (PSS) of all processes of the service.

Needs root and what packaging/install_test_packages.py installs. Says what others have published of
theirs: that is cited, not measured. What was seen: ``docs/device-figures.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import numpy as np

from benchmarks.packages.clients import Asking, Gap
from e2e.conftest import ACTIVITY
from e2e.fleet import Server, stopping
from installation.machine import ARCHIVE, Machine, booted, make_root, missing_programs, remove
from installation.packages import build, install, put, with_version
from installation.server_package import free_ports
from waiting import wait_for

UNIT = "edgectl-agent.service"
MODEL = "har"
STATE = "var/lib/private/edgectl-agent"
NOT_INSTALLED = ("var/cache", "var/lib/apt", "var/log", "var/tmp", "root", "run", "tmp", STATE)
"""Below the root: what an installation leaves for a while, and what a device writes later."""
_IDLE_S = 10.0
"""Longer than the verifying process is kept for."""
_ANSWERS = 100
"""Before something happens, and after it."""
_MEMORY = """\
import json, os, pathlib, subprocess, sys
group = subprocess.run(
    ["systemctl", "show", "--property=MainPID", "--value", sys.argv[1]],
    check=True, capture_output=True, text=True,
).stdout.strip()
found, left = {}, [group]
while left:
    pid = left.pop()
    folder = pathlib.Path("/proc", pid)
    for task in folder.glob("task/*/children"):
        left += task.read_text().split()
    words = (folder / "cmdline").read_bytes().decode().split("\\0")
    kind = "inference" if "edgectl_agent.inference" in words else "supervisor"
    rows = (folder / "smaps_rollup").read_text().splitlines()[1:]
    sizes = {row.split()[0]: int(row.split()[1]) * 1024 for row in rows}
    kind = kind if kind not in found else f"{kind} {pid}"
    found[kind] = sizes["Pss:"]
print(json.dumps(found))
"""


class Kind(NamedTuple):
    """A package, and the Debian that it is for."""

    release: str
    architecture: str
    says: str


KINDS = {
    "deb12": Kind("bookworm", "amd64", "Debian 12, libraries in the package"),
    "deb13": Kind("trixie", "all", "Debian 13, Debian's libraries"),
}
PUBLISHED = {
    "Greengrass nucleus lite 2.5.0": {
        "idle_pss_mb": "14.6 (x86-64, Pi 4), 12.3 (Pi 3); with components 14.8, 15.8, 12.4",
        "installed_mb": "1.1; 5 free, beside libraries of the system",
        "restart_s": "1.3 (x86-64), 1.7 (Pi 4), 2 to 3 (Pi 3), until its services are active",
        "models": "no runtime for models, no local inference",
        "source": "aws-greengrass/aws-greengrass-lite, docs/RESOURCE_LIMITS.md, July 2026",
    },
    "Greengrass nucleus 2": {
        "idle_pss_mb": "96 at least, 512 recommended",
        "installed_mb": "256 at least, beside Java",
        "restart_s": "no figure; a new version restarts it and all components",
        "models": "no runtime for models",
        "source": "AWS IoT blog on nucleus lite, 2025; developer guide, Greengrass nucleus",
    },
}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the comparison, end with one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=KINDS, help="may be repeated")
    parser.add_argument("--upgrades", type=int, default=3, help="and as many restarts (default: 3)")
    options = parser.parse_args(arguments)
    if missing_programs() or os.geteuid() != 0:
        wanted = ", ".join(missing_programs())
        print(f"needs root{f', and {wanted}' if wanted else ''}", file=sys.stderr)
        print("  try: sudo python packaging/install_test_packages.py", file=sys.stderr)
        return 1
    load_before = os.getloadavg()
    # Device nodes and programs must work there, which memory file systems may forbid.
    folder = Path(tempfile.mkdtemp(prefix="edgectl-bench-", dir="/var/tmp"))
    try:
        server = Server(folder / "server")
        with stopping(server):
            server.start()
            server.push(
                MODEL,
                ACTIVITY / "har_v1.onnx",
                calibration=ACTIVITY / "calibration.npz",
                evaluation=ACTIVITY / "eval.npz",
            )
            results = {
                name: measure(name, KINDS[name], server, folder / name, options.upgrades)
                for name in options.only or KINDS
            }
    finally:
        remove(folder)
    show(results)
    about = {"machine": platform.machine(), "processors": os.cpu_count(), "load": load_before}
    print(json.dumps({"benchmark": "packages", **about, **results, "published": PUBLISHED}))
    return 0


# ---------------------------------------------------------------- one package


def measure(name: str, kind: Kind, server: Server, folder: Path, upgrades: int) -> dict[str, Any]:
    """Return the figures of one package: bytes, seconds, and what applications saw."""
    folder.mkdir()
    print(f"{name}: building", flush=True)
    package = build(
        "agent",
        folder / "first",
        release=kind.release,
        architecture=kind.architecture,
        level=6,
    )
    other = with_version(package, "9.9.9", folder)
    print(f"{name}: making a machine", flush=True)
    with booted(make_root(folder, kind.release, archive=ARCHIVE)) as machine:
        paths = put(machine, package), put(machine, other)
        debian = fetch(machine, paths[0])
        before = (bytes_on_disk(machine.root), installed(machine))
        print(f"{name}: from the installation to an answer", flush=True)
        port, _ = free_ports()
        with Asking(port, MODEL, window()) as application:
            first = until_first_answer(machine, paths[0], server, name, application)
            server.wait_rollout(first.pop("rollout"))
        sizes = {
            "download_bytes": package.stat().st_size,
            "debian_download_bytes": sum(debian.values()),
            "package_bytes": bytes_of_package(machine),
            "on_disk_bytes": bytes_on_disk(machine.root) - before[0],
            "debian_packages": sorted(installed(machine) - before[1] - {"edgectl-agent"}),
        }
        time.sleep(_IDLE_S)
        memory = json.loads(machine.run("python3", "-c", _MEMORY, UNIT).splitlines()[-1])
        identity = (machine.root / STATE / "identity/enrolment.json").read_bytes()
        seen: dict[str, list[Gap]] = {"restart": [], "upgrade": []}
        for number in range(upgrades):
            print(f"{name}: restart and upgrade {number + 1} of {upgrades}", flush=True)
            seen["restart"].append(while_asking(machine, port, ("systemctl", "restart", UNIT)))
            wanted = paths[(number + 1) % 2]
            seen["upgrade"].append(while_asking(machine, port, wanted))
        assert (machine.root / STATE / "identity/enrolment.json").read_bytes() == identity
    gaps = {what: [one._asdict() for one in found] for what, found in seen.items()}
    return {"says": kind.says, **sizes, "idle_pss_bytes": memory, "seconds": first, **gaps}


def window() -> dict[str, Any]:
    """Return a window of the activity model's test set, as the endpoint takes it."""
    with np.load(ACTIVITY / "eval.npz") as data:
        values = data["input"][:1]
    shape = list(values.shape)
    return {"name": "input", "shape": shape, "datatype": "FP32", "data": values.ravel().tolist()}


def fetch(machine: Machine, path: str) -> dict[str, int]:
    """Have Debian's packages for the agent's there already; return their bytes by file."""
    machine.run("apt-get", "update", "--quiet=2")
    machine.run("apt-get", "install", "--quiet=2", "--yes", "--download-only", path)
    fetched = (machine.root / "var/cache/apt/archives").glob("*.deb")
    return {one.name: one.stat().st_size for one in fetched}


def until_first_answer(
    machine: Machine, path: str, server: Server, device: str, application: Asking
) -> dict[str, Any]:
    """Install, set up, roll out, wait for an answer; return seconds of each, and the rollout."""
    token = server.enrol_token()
    begun = time.monotonic()
    install(machine, path)
    there = time.monotonic()
    with (machine.root / "etc/edgectl/agent.toml").open("a") as settings:
        settings.write(f"port = {application.port}\n")
    words = ("--server", server.url, "--device", device, "--token-file", "-")
    machine.run("edgectl-agent", "setup", *words, given=token)
    connected = time.monotonic()
    rollout = server.roll_out(MODEL, "1", device)
    wait_for(lambda: application.answered, "an answer", bound_s=120)
    answered = time.monotonic()
    return {
        "install": round(there - begun, 2),
        "setup": round(connected - there, 2),
        "rollout": rollout,
        "model": round(answered - connected, 2),
        "all": round(answered - begun, 2),
    }


def while_asking(machine: Machine, port: int, what: str | tuple[str, ...]) -> Gap:
    """Return what an application saw while a command ran there, or a package was installed."""
    process = machine.shows(UNIT, "MainPID")
    with Asking(port, MODEL, window()) as application:
        wait_for(lambda: application.answered >= _ANSWERS, "answers before")
        if isinstance(what, str):
            install(machine, what)
        else:
            machine.run(*what)
        assert machine.shows(UNIT, "MainPID") not in {process, "0"}, "another process runs"
        enough = application.answered + _ANSWERS
        wait_for(lambda: application.answered >= enough, "answers after")
    served = [
        (one["model_version"], one["parameters"]["manifest"])
        for one in (application.first, application.last)
    ]
    assert served[0] == served[1], "the same model serves"
    return application.seen()


def installed(machine: Machine) -> set[str]:
    """Return the names of the packages there."""
    return set(machine.run("dpkg-query", "--show", "--showformat=${Package}\n").split())


def bytes_of_package(machine: Machine) -> int:
    """Return the bytes of the files in the package, without bytecode that is made there."""
    listed = machine.run("dpkg-query", "--listfiles", "edgectl-agent").split("\n")
    paths = [machine.root / line.lstrip("/") for line in listed if line.startswith("/")]
    return sum(one.stat().st_size for one in paths if one.is_file() and not one.is_symlink())


def bytes_on_disk(root: Path) -> int:
    """Return the bytes of all files below the root that an installation leaves."""
    excluded = [f"--exclude={root / path}" for path in NOT_INSTALLED]
    command = ["du", "--summarize", "--bytes", "--one-file-system", *excluded, str(root)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(said.split()[0])


# ---------------------------------------------------------------- the comparison


def show(results: dict[str, dict[str, Any]]) -> None:
    """Print the figures of all packages, and what others have published."""
    for name, one in results.items():
        memory, seconds = one["idle_pss_bytes"], one["seconds"]
        parts = ", ".join(f"{kind} {size / 1e6:.1f}" for kind, size in sorted(memory.items()))
        print(f"\n{name}: {one['says']}")
        print(
            f"  download              {one['download_bytes'] / 1e6:8.1f} MB, and "
            f"{one['debian_download_bytes'] / 1e6:.1f} MB of {len(one['debian_packages'])} "
            "packages of Debian"
        )
        print(f"  installed, alone      {one['package_bytes'] / 1e6:8.1f} MB")
        print(f"  on disk, all of it    {one['on_disk_bytes'] / 1e6:8.1f} MB, bytecode too")
        print(f"  idle PSS              {sum(memory.values()) / 1e6:8.1f} MB: {parts}")
        print(
            f"  to the first answer   {seconds['all']:8.1f} s: apt install {seconds['install']}, "
            f"setup {seconds['setup']}, model {seconds['model']}"
        )
        for what in ("restart", "upgrade"):
            gaps = one[what]
            if not gaps:
                continue
            typical = statistics.median(gap["seconds"] for gap in gaps)
            worst = max(gap["seconds"] for gap in gaps)
            counts = [sum(gap[key] for gap in gaps) for key in ("answered", "failed", "refused")]
            print(
                f"  no answer, {what:<10} {typical:8.2f} s, worst {worst:.2f} of {len(gaps)}; "
                f"{counts[0]} answered, {counts[1]} failed, {counts[2]} connections refused"
            )
    print("\nas published by others, not measured here:")
    for name, published in PUBLISHED.items():
        print(f"  {name} ({published['source']})")
        for what in ("idle_pss_mb", "installed_mb", "restart_s", "models"):
            print(f"    {what:<14}{published[what]}")


if __name__ == "__main__":
    raise SystemExit(main())
