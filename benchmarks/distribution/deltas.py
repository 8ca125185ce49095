"""Bytes on the wire from one version of a model to the next: ours beside what others offer.

    python -m benchmarks.distribution.deltas ASSETS [--scratch FOLDER] [--only WORD]

ASSETS is a folder of families, see `benchmarks.distribution.model_pairs`; pairs of
`benchmarks.distribution.held_out`, on which nothing was tuned, come behind and are counted by
themselves. Debian's tools are used
as their manuals recommend for a small result: ``zstd -19``, ``zstd -19 --long=27 --patch-from``,
``xdelta3 -9``, ``bsdiff``, ``casync`` with chunks of 16 KiB, ``zchunk``; one that is not installed
is left out, and named. Time is processor time, and memory the largest resident set, of processes
of their own, ours included, with all that they import. The last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.distribution.held_out import make_held_out
from benchmarks.distribution.model_pairs import Pair, families, make_pairs
from edgectl_agent.deltas import DeltaResult, DeltaTask
from edgectl_server.deltas.encoder import encode

__all__ = ["main"]

_LINK_BITS_PER_S = 10_000_000
_CHUNK = re.compile(r"(\d+) of (\d+) bytes")


@dataclass(frozen=True)
class Run:
    """What a process took."""

    cpu_s: float
    rss_mb: float
    output: str


@dataclass
class Row:
    """One pair: bytes by tool, and what ours took."""

    pair: Pair
    full: int
    sizes: dict[str, int] = field(default_factory=dict)
    make: Run | None = None
    apply: Run | None = None
    others: dict[str, Run] = field(default_factory=dict)

    @property
    def best(self) -> int:
        """The smallest of the others."""
        return min(size for name, size in self.sizes.items() if name != "ours")

    @property
    def ratio(self) -> float:
        """Ours over that."""
        return self.sizes["ours"] / self.best

    @property
    def saved_s(self) -> float:
        """What the link needs less than for the file as zstd packs it."""
        return (self.sizes["zstd"] - self.sizes["ours"]) * 8 / _LINK_BITS_PER_S


_LAUNCH = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
code = os.waitstatus_to_exitcode(status)
found = [code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]
open(sys.argv[1], "w").write(json.dumps(found))
"""
"""A child's resident set begins with that of whoever starts it: so a small process starts it."""


def run(command: list[str], text: bytes = b"") -> Run:
    """Run a command to its end; raise if it fails.

    Args:
        command: what to run.
        text: for its standard input, which stays open.
    """
    with tempfile.NamedTemporaryFile("r") as usage:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCH, usage.name, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process:
            process.stdin.write(text)
            process.stdin.flush()
            said = process.stdout.read().decode("utf-8", "replace")
        code, cpu_s, rss_mb = json.loads(usage.read())
    if code:
        raise RuntimeError(f"{command[0]} failed: {said[-400:]}")
    return Run(cpu_s, rss_mb, said)


def measure(pair: Pair, scratch: Path, tools: set[str]) -> Row:
    """Measure one pair."""
    row = Row(pair, pair.target.stat().st_size)
    base, target = str(pair.base), str(pair.target)
    single = {
        "zstd": ["zstd", "-q", "-f", "-19", target, "-o"],
        "patch-from": [
            "zstd", "-q", "-f", "-19", "--long=27", f"--patch-from={base}", target, "-o",
        ],
        "xdelta3": ["xdelta3", "-9", "-e", "-f", "-s", base, target],
        "bsdiff": ["bsdiff", base, target],
    }  # fmt: skip
    for name, command in single.items():
        if command[0] in tools:
            made = scratch / name
            row.others[name] = run([*command, str(made)])
            row.sizes[name] = made.stat().st_size
    if "casync" in tools:
        row.sizes["casync"] = _casync(pair, scratch)
    if "zck" in tools:
        row.sizes["zchunk"] = _zchunk(pair, scratch)
    made, result = scratch / "delta", scratch / "result"
    row.make = run([sys.executable, "-m", __spec__.name, "--encode", base, target, str(made)])
    row.sizes["ours"] = made.stat().st_size
    result.unlink(missing_ok=True)
    content = pair.target.read_bytes()
    task = DeltaTask(
        delta=str(made),
        base=base,
        target=str(result),
        target_sha256=hashlib.sha256(content).hexdigest(),
        target_bytes=len(content),
    )
    row.apply = _apply(task)
    assert result.read_bytes() == content
    return row


def _apply(task: DeltaTask) -> Run:
    """Run the device's process."""
    command = [sys.executable, "-P", "-m", "edgectl_agent.delta_child"]
    done = run(command, msgspec.json.encode(task) + b"\n")
    result = msgspec.json.decode(done.output, type=DeltaResult)
    if result.code:
        raise RuntimeError(f"not applied: {result}")
    return done


def _casync(pair: Pair, scratch: Path) -> int:
    """Return the bytes of new chunks and of the index."""
    store = scratch / "store"
    shutil.rmtree(store, ignore_errors=True)
    options = [f"--store={store}", "--chunk-size=16384"]
    run(["casync", "make", *options, str(scratch / "base.caibx"), str(pair.base)])
    before = set(store.rglob("*.cacnk"))
    index = scratch / "target.caibx"
    run(["casync", "make", *options, str(index), str(pair.target)])
    new = [path for path in store.rglob("*.cacnk") if path not in before]
    return sum(path.stat().st_size for path in new) + index.stat().st_size


def _zchunk(pair: Pair, scratch: Path) -> int:
    """Return what zchunk would fetch."""
    for name, path in (("base", pair.base), ("target", pair.target)):
        run(["zck", "-o", str(scratch / f"{name}.zck"), str(path)])
    said = run(["zck_delta_size", str(scratch / "base.zck"), str(scratch / "target.zck")]).output
    found = _CHUNK.search(said.replace(",", ""))
    if found is None:
        raise RuntimeError(f"zck_delta_size said: {said}")
    return int(found.group(1))


def report(rows: list[Row]) -> dict[str, Any]:
    """Return the figures of the last line."""
    heads = [row for row in rows if row.pair.change == "head"]
    rest = [row for row in rows if row.pair.change != "head"]
    mean = math.exp(sum(math.log(row.ratio) for row in rest) / max(len(rest), 1))
    applied = [row.apply.cpu_s - row.saved_s for row in rows if row.apply]
    return {
        "pairs": len(rows),
        "geometric_mean_ratio": round(mean, 4) if rest else None,
        "worst_ratio": max((round(row.ratio, 4) for row in rest), default=None),
        "worst_head_ratio": max((round(row.ratio, 4) for row in heads), default=None),
        "smaller_on_all_but_heads": all(row.ratio < 1 for row in rest),
        "applied_sooner_than_saved": sum(seconds < 0 for seconds in applied),
        "apply_cpu_s_max": round(max((row.apply.cpu_s for row in rows if row.apply), default=0), 3),
        "apply_rss_mb_max": round(
            max((row.apply.rss_mb for row in rows if row.apply), default=0), 1
        ),
        "make_cpu_s_max": round(max((row.make.cpu_s for row in rows if row.make), default=0), 2),
        "make_rss_mb_max": round(max((row.make.rss_mb for row in rows if row.make), default=0), 1),
    }


def lines(row: Row) -> Iterator[str]:
    """Yield the line of a table."""
    assert row.make is not None
    assert row.apply is not None
    shares = " | ".join(f"{name} {100 * size / row.full:.1f}" for name, size in row.sizes.items())
    took = f"make {row.make.cpu_s:.1f} s, {row.make.rss_mb:.0f} MB"
    took += f" | apply {row.apply.cpu_s:.2f} s, {row.apply.rss_mb:.0f} MB"
    yield (
        f"| {row.pair.name} | {row.full} | {shares} | **{row.ratio:.3f}** | {took}"
        f" | saves {row.saved_s:.2f} s |"
    )


def main(arguments: list[str]) -> int:
    """Run the benchmark, or be one of its processes."""
    if arguments[:1] == ["--encode"]:
        base, target, made = (Path(name) for name in arguments[1:])
        made.write_bytes(encode(base.read_bytes(), target.read_bytes()).content)
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distribution.deltas")
    parser.add_argument("assets", type=Path, help="folder of model families")
    parser.add_argument("--scratch", type=Path, help="where made models are kept; else nowhere")
    parser.add_argument("--only", default="", help="pairs whose name has this in it")
    options = parser.parse_args(arguments)
    named = ("zstd", "xdelta3", "bsdiff", "casync", "zck")
    tools = {name for name in named if shutil.which(name)}
    for name in named:
        if name not in tools:
            print(f"left out, not installed: {name}")
    print("in percent of the file; ratio: ours by the smallest other")
    rows: list[Row] = []
    held_out: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="edgectl-deltas-") as folder:
        models = options.scratch or Path(folder) / "models"
        models.mkdir(exist_ok=True)
        own = make_held_out(models / "held-out")
        for assets, into in ((options.assets, rows), (own, held_out)):
            for family in families(assets):
                for pair in make_pairs(family, models):
                    if options.only in pair.name:
                        into.append(measure(pair, Path(folder), tools))
                        print(*lines(into[-1]), flush=True)
    if not rows and not held_out:
        print("no pairs of models there", file=sys.stderr)
        return 1
    found = report(rows)
    print(json.dumps(found | {"held_out": report(held_out)} if held_out else found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
