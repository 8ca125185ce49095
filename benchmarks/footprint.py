"""Memory and start-up time of the agent's processes beside bare Python and the bare runtime.

Resident memory (RSS) counts pages that are shared with other processes in full; the proportional
set size (PSS) counts them by share. Both come from the kernel, once the process says that it is
ready. The inference process has loaded the activity model and answered one request by then. The
kernel shows its memory to root alone, because it may hold an encrypted model.

    python -m benchmarks.footprint
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.inference import activity_bundle, activity_window
from edgectl_agent.inference.process import InferenceProcess, child_environment

RUNS = 5
IMPORTS = {
    "python": "",
    "python + onnxruntime": "import onnxruntime",
    "supervisor, imported": "import edgectl_agent.supervisor",
}


class Seen(NamedTuple):
    """One start of a process."""

    start_ms: float
    rss_bytes: int
    pss_bytes: int


def main() -> int:
    """Measure, print the comparison, end with one line of JSON."""
    results = {
        name: _median([_imported(code) for _ in range(RUNS)]) for name, code in IMPORTS.items()
    }
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as folder:
        results["inference process, one model"] = _median(
            [_inference(Path(folder)) for _ in range(RUNS)]
        )
    bare = results["python + onnxruntime"]
    print(
        f"median of {RUNS} starts; ratio is RSS over python + onnxruntime; "
        f"{platform.machine()}, Python {platform.python_version()}\n"
    )
    print(f"{'process':<30}{'start ms':>10}{'RSS MB':>9}{'PSS MB':>9}{'ratio':>7}")
    for name, seen in results.items():
        print(
            f"{name:<30}{seen.start_ms:>10.0f}{seen.rss_bytes / 1e6:>9.1f}"
            f"{seen.pss_bytes / 1e6:>9.1f}{seen.rss_bytes / bare.rss_bytes:>7.2f}"
        )
    processes = [{"process": name, **seen._asdict()} for name, seen in results.items()]
    print(json.dumps({"benchmark": "footprint", "processes": processes}))
    return 0


def _imported(code: str) -> Seen:
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
        seen = _memory(process.pid, milliseconds)
        process.stdin.write(b"\n")
        process.stdin.flush()
    return seen


def _inference(folder: Path) -> Seen:
    bundle = activity_bundle(folder)
    window = activity_window()
    given: dict[str, Any] = {"name": "input", "shape": window.shape, "datatype": "FP32"}
    body = json.dumps({"inputs": [{**given, "data": window.ravel().tolist()}]}).encode()
    process = InferenceProcess(host="127.0.0.1", port=0, socket=None)
    started = time.perf_counter()
    process.start()
    try:
        process.load(bundle)
        url = f"{process.endpoint}/v2/models/{bundle.slot}/infer"
        with urllib.request.urlopen(url, body, timeout=30) as answer:  # noqa: S310  # http, ours
            answer.read()
        milliseconds = (time.perf_counter() - started) * 1000
        assert process._child is not None  # noqa: SLF001  # whose memory is measured
        return _memory(process._child.pid, milliseconds)  # noqa: SLF001
    finally:
        process.stop()


def _memory(pid: int, milliseconds: float) -> Seen:
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    sizes = {row.split()[0]: int(row.split()[1]) * 1024 for row in rows[1:]}
    return Seen(round(milliseconds, 1), sizes["Rss:"], sizes["Pss:"])


def _median(runs: list[Seen]) -> Seen:
    return Seen(*(statistics.median(column) for column in zip(*runs, strict=True)))


if __name__ == "__main__":
    raise SystemExit(main())
