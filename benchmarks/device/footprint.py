"""Memory, start-up time and disk of the agent beside bare Python, the bare runtime and others.

Resident memory (RSS) counts pages that are shared with other processes in full; the proportional
set size (PSS) counts them by share. Both come from the kernel. The runtime alone and the inference
process have loaded the activity model and answered once. The supervisor is that of a real device:
enrolled, connected by MQTT, with a model that a rollout has brought, and idle.

Two times are taken from the start of a process: until it is *ready*, which is the end of the import
for the bare runtime, and the open endpoint for the inference process; and until its first *answer*,
for which a model has been loaded and warmed up. All are started in turns. The agent's bytecode is
there already, as pip leaves it.

What others publish of their agents, for comparison:
Greengrass nucleus lite 2.5.0: aws-greengrass-lite, ``docs/RESOURCE_LIMITS.md``. Greengrass nucleus:
AWS's minimum requirements.

    python -m benchmarks.device.footprint
"""

from __future__ import annotations

import compileall
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from benchmarks import push
from benchmarks.device.asking import ask, connect, json_request
from benchmarks.device.cases import ACTIVITY, Case, activity
from edgectl.client import Client
from edgectl.demo.processes import Processes, command_of, environment_with
from edgectl.types import RolloutPolicy, RolloutRequest, Selector
from edgectl_agent.inference.process import InferenceProcess, child_environment

__all__ = ["main", "measure"]

RUNS = 5
_RAW = f"""
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(
    {str(ACTIVITY / "har_v1.onnx")!r}, options, providers=["CPUExecutionProvider"]
)
session.run(None, {{"input": numpy.zeros((1, 6, 128), numpy.float32)}})
"""
RUNTIME, RUNTIME_MODEL = "import onnxruntime", "onnxruntime alone, one model"
INFERENCE, SUPERVISOR = "inference process, one model", "supervisor, idle device"
PROGRAMS = {"python": "", RUNTIME: "import onnxruntime", RUNTIME_MODEL: _RAW}
PUBLISHED = {
    "Greengrass nucleus lite 2.5.0": "15.8 MB PSS on a Pi 4, 12.4 MB on a Pi 3; 1.1 MB of disk; "
    "no runtime for models, no local inference",
    "Greengrass nucleus": "96 MB of memory, 256 MB of disk at least; no runtime for models",
}
ROOT = Path(__file__).parents[2]
_IDLE_S = 8.0
"""Longer than the verifying process is kept for."""


class Seen(NamedTuple):
    """One process that is ready."""

    ready_ms: float
    answer_ms: float
    """0 where nothing is asked."""
    rss_bytes: int
    pss_bytes: int


def main() -> int:
    """Measure, print the comparison, end with one line of JSON."""
    results = measure()
    processes: dict[str, Seen] = results["processes"]
    bare = processes[RUNTIME_MODEL]
    print(
        f"median of {RUNS} starts (the supervisor: one device); ratio is RSS over the runtime "
        f"alone;\n{platform.machine()}, Python {platform.python_version()}\n"
    )
    print(f"{'process':<32}{'ready ms':>10}{'answer ms':>11}{'RSS MB':>9}{'PSS MB':>9}{'ratio':>7}")
    for name, seen in processes.items():
        times = [f"{one:.0f}" if one else "-" for one in (seen.ready_ms, seen.answer_ms)]
        print(
            f"{name:<32}{times[0]:>10}{times[1]:>11}{seen.rss_bytes / 1e6:>9.1f}"
            f"{seen.pss_bytes / 1e6:>9.1f}{seen.rss_bytes / bare.rss_bytes:>7.2f}"
        )
    for name, text in PUBLISHED.items():
        print(f"{name:<32}  as published: {text}")
    figures = results["figures"]
    print(f"\nsupervisor, idle: {figures['supervisor_mb']:.1f} MB (goal: 40)")
    print(f"inference process beyond the runtime alone: {figures['beyond_mb']:.1f} MB (goal: 12)")
    print(f"start to ready over `import onnxruntime`: {figures['ready_ratio']:.2f} (goal: 1.5)")
    print(f"start to the first answer over it: {figures['answer_ratio']:.2f}")
    print("\nwhat the thin wheel installs, MB by package:")
    for name, size in results["installed_bytes"].items():
        print(f"  {name:<24}{size / 1e6:>8.1f}")
    print(f"  {'all':<24}{sum(results['installed_bytes'].values()) / 1e6:>8.1f}")
    shown = {name: seen._asdict() for name, seen in processes.items()}
    print(json.dumps({"benchmark": "footprint", **results, "processes": shown}))
    return 0


def measure() -> dict[str, Any]:
    """Return what every process takes, and what is installed."""
    _compile()
    runs: dict[str, list[Seen]] = {name: [] for name in (*PROGRAMS, INFERENCE)}
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as folder:
        case = activity(Path(folder))
        for _ in range(RUNS):
            for name, code in PROGRAMS.items():
                runs[name].append(_program(code, answers=code is _RAW))
            runs[INFERENCE].append(_inference(case))
    processes = {name: _median(seen) for name, seen in runs.items()}
    processes[SUPERVISOR] = _supervisor()
    ours, bare = processes[INFERENCE], processes[RUNTIME]
    figures = {
        "supervisor_mb": processes[SUPERVISOR].rss_bytes / 1e6,
        "beyond_mb": (ours.rss_bytes - processes[RUNTIME_MODEL].rss_bytes) / 1e6,
        "ready_ratio": ours.ready_ms / bare.ready_ms,
        "answer_ratio": ours.answer_ms / bare.ready_ms,
    }
    sizes = sorted(_installed(), key=lambda item: -item[1])
    return {"processes": processes, "figures": figures, "installed_bytes": dict(sizes)}


def _compile() -> None:
    """Leave bytecode as an installation does, also where the environment forbids it."""
    for package in ("edgectl_agent", "edgectl_delta", "edgectl_protocol"):
        compileall.compile_dir(ROOT / "agent" / package, quiet=2)


def _program(code: str, *, answers: bool) -> Seen:
    program = f"{code}\nprint('ready', flush=True)\ninput()"
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-P", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        milliseconds = (time.perf_counter() - started) * 1000
        assert line == b"ready\n", f"{code} does not run"
        seen = _memory(process.pid, milliseconds, milliseconds if answers else 0.0)
        process.stdin.write(b"\n")
        process.stdin.flush()
    return seen


def _inference(case: Case) -> Seen:
    process = InferenceProcess(host="127.0.0.1", port=0, socket=None)
    started = time.perf_counter()
    process.start()
    ready_ms = (time.perf_counter() - started) * 1000
    try:
        process.load(case.bundle)
        with connect(int(process.endpoint.rpartition(":")[2])) as connection:
            ask(connection, json_request(case))
        answer_ms = (time.perf_counter() - started) * 1000
        assert process._child is not None  # noqa: SLF001  # whose memory is measured
        return _memory(process._child.pid, ready_ms, answer_ms)  # noqa: SLF001
    finally:
        process.stop()


def _supervisor() -> Seen:
    """Bring a model to a device with a real server, wait until all is quiet, and look."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgectl-bench-")))
        processes = stack.enter_context(Processes(scratch / "logs"))
        _, ready = push.start_server(processes, scratch)
        password = (scratch / "server" / "admin-password").read_text().strip()
        with Client(ready["url"]) as anonymous:
            token = anonymous.login("admin", password, name="benchmark").token
        client = stack.enter_context(Client(ready["url"], token))
        settings = environment_with(
            EDGECTL_AGENT_SERVER=ready["url"],
            EDGECTL_AGENT_DEVICE="pi-1",
            EDGECTL_AGENT_TOKEN=client.create_enrol_token(uses=1, expires_in_s=600).token,
            EDGECTL_AGENT_STATE=str(scratch / "pi-1"),
            EDGECTL_AGENT_PORT="0",
        )
        keeper = processes.start("pi-1", command_of("edgectl_agent", "run"), settings)
        push.until("the device online", lambda: [d for d in client.devices().items if d.online])
        push.push(client, {}, *push.inputs(None, scratch))
        asked = RolloutRequest("har", "1", Selector(devices=["pi-1"]), RolloutPolicy(observe_s=1.0))
        rollout = client.start_rollout(asked).id
        push.until("the rollout", lambda: client.rollout(rollout).state == "completed")
        time.sleep(_IDLE_S)
        return _memory(_child_of(keeper.pid), 0.0, 0.0)


def _child_of(keeper: int) -> int:
    """Return the process that a keeper has started."""
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    return int(children[0])


def _installed() -> Iterator[tuple[str, int]]:
    """Yield what the agent needs, and what that needs, with the size of its files."""
    thin = tomllib.loads((ROOT / "packaging" / "agent" / "pyproject.toml").read_text())
    yield "the agent itself", _size((ROOT / "agent").rglob("*.py"))
    wanted = [Requirement(text) for text in thin["project"]["dependencies"]]
    seen = set()
    while wanted:
        requirement = wanted.pop()
        name = requirement.name.lower().replace("_", "-")
        extras = requirement.extras or {""}
        if name in seen:
            continue
        seen.add(name)
        found = metadata.distribution(name)
        for text in found.requires or ():
            needed = Requirement(text)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(needed)
        yield name, _size(Path(str(found.locate_file(file))) for file in found.files or ())


def _size(paths: Iterator[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def _memory(pid: int, ready_ms: float, answer_ms: float) -> Seen:
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    sizes = {row.split()[0]: int(row.split()[1]) * 1024 for row in rows[1:]}
    return Seen(round(ready_ms, 1), round(answer_ms, 1), sizes["Rss:"], sizes["Pss:"])


def _median(runs: list[Seen]) -> Seen:
    return Seen(*(statistics.median(column) for column in zip(*runs, strict=True)))


if __name__ == "__main__":
    raise SystemExit(main())
