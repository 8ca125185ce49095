"""What an update takes when it is released in small steps, beside what was trained.

    python -m benchmarks.distribution.small_steps [ASSETS] [--only WORD] [--budget 0.5]

ASSETS is a folder of families, see `benchmarks.distribution.model_pairs`, with the data that the
update is for: ``eval_shifted*.npz`` for what was trained on shifted data, ``eval*.npz`` for the
rest. Those of `benchmarks.distribution.held_out`, on which nothing was tuned, are measured too and
counted by themselves. The released model is made in fp32, fp16 and int8 by the real pipeline, and
each successor is pushed as ``edgectl push --parent --update-budget`` does it. Every other sample
chooses the steps; the accuracy is also that of the samples in between, which have chosen nothing.
The best standard tool is the smallest of ``zstd -19 --patch-from``, ``xdelta3 -9`` and ``bsdiff``
from the parent to what was trained. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from benchmarks.distribution.held_out import make_held_out
from benchmarks.distribution.model_pairs import Family, as_input, families
from edgectl_server.deltas.encoder import encode
from edgectl_server.pipeline.runner import run_pipeline
from edgectl_server.pipeline.spec import (
    ParentVariant,
    PipelineResult,
    PipelineSpec,
    SmallSteps,
)

__all__ = ["main"]

_INT8 = "int8-static-minmax-per-channel-reduced"
_MAX_DROP_POINTS = 5.0
"""Of quantization itself, which is not what is measured here."""
_GOAL_SHARE, _GOAL_POINTS = 0.15, 0.5
_ROUNDING = 1e-6
_CALIBRATION_MAX = 256


@dataclass(frozen=True)
class Row:
    """One variant of one successor; accuracies in points of those that have chosen nothing."""

    name: str
    held_out: bool
    change: str
    full: int
    tool: int
    ordinary: int
    released: int
    steps: str
    lost: float
    trained_elsewhere: float
    released_elsewhere: float

    @property
    def share(self) -> float:
        """Of the file."""
        return self.released / self.full

    @property
    def lost_elsewhere(self) -> float:
        """On the samples in between."""
        return self.trained_elsewhere - self.released_elsewhere


@dataclass(frozen=True)
class _Data:
    choosing: Path
    others: tuple[Any, Any]


def measure(family: Family, folder: Path, *, held_out: bool, budget: float) -> Iterator[Row]:
    """Push a family and yield what came of it."""
    calibration = folder / "calibration.npz"
    input_name = onnx.load(family.released).graph.input[0].name
    with np.load(family.calibration) as data:
        values = next(data[name] for name in data if data[name].ndim > 1)
    np.savez(calibration, **{input_name: as_input(values[:_CALIBRATION_MAX])})
    parents: dict[str, tuple[ParentVariant, ...]] = {}
    for successor in family.successors:
        change = successor.stem.rsplit("_", 1)[1]
        data_name = "eval" if change == "more" else "eval_shifted"
        data = _data(family, data_name, input_name, folder)
        common = {"calibration": calibration, "evaluation": data.choosing}
        if data_name not in parents:
            place = folder / f"released-{data_name}"
            made = _push(place, source=family.released, **common)
            parents[data_name] = tuple(
                ParentVariant(
                    variant=one.variant,
                    precision=one.precision,
                    model=place / one.variant / "model.onnx",
                )
                for one in made.candidates
            )
        known = parents[data_name]
        int8 = next((one.model for one in known if one.precision == "int8"), None)
        place = folder / change
        made = _push(
            place,
            source=successor,
            parent=int8,
            parent_recipe=_INT8,
            parents=known,
            update_budget_points=budget,
            **common,
        )
        by_variant = {one.variant: one.model for one in known}
        for steps in made.report.small_steps:
            yield _row(
                f"{family.name} {steps.variant} {change}",
                steps,
                by_variant[steps.variant],
                place,
                data=data,
                held_out=held_out,
            )
        shutil.rmtree(place)


def _push(place: Path, **fields: Any) -> PipelineResult:
    place.mkdir()
    spec = PipelineSpec(
        model="m",
        version="1",
        precisions=("fp16", "fp32", "int8"),
        recipes=(_INT8, "fp16"),
        max_drop_points=_MAX_DROP_POINTS,
        allowed=("data",),
        **fields,
    )
    return run_pipeline(spec, place, on_progress=lambda _: None, cancelled=lambda: False)


def _data(family: Family, name: str, input_name: str, folder: Path) -> _Data:
    """Return the samples that choose, in a file, and those in between."""
    found = sorted(family.released.parent.glob(f"{name}*.npz"))
    if not found:
        found = sorted(family.released.parent.glob("eval*.npz"))
    with np.load(found[0]) as data:
        values = as_input(next(data[key] for key in data if data[key].ndim > 1))
        label = next(data[key] for key in data if data[key].ndim == 1 and data[key].dtype != bool)
    path = folder / f"{name}.npz"
    np.savez(path, **{input_name: values[::2], "label": label[::2]})
    return _Data(path, (values[1::2], label[1::2]))


def _row(
    name: str, steps: SmallSteps, parent: Path, place: Path, *, data: _Data, held_out: bool
) -> Row:
    trained = place / f"{steps.trained}.onnx"
    if steps.trained == "fp32":
        trained = next(
            place / file for file in ("cleaned.onnx", "source.onnx") if (place / file).exists()
        )
    released = place / steps.variant / "model.onnx"
    ordinary = steps.trained_bytes
    if ordinary is None:
        ordinary = len(encode(parent.read_bytes(), trained.read_bytes()).content)
    lost = 0.0
    if steps.released_value is not None and steps.trained_value is not None:
        lost = 100 * (steps.trained_value - steps.released_value)
    return Row(
        name=name,
        held_out=held_out,
        change=name.rsplit(" ", 1)[1],
        full=trained.stat().st_size,
        tool=_best_tool(parent, trained, place),
        ordinary=ordinary,
        released=steps.released_bytes if steps.released and steps.released_bytes else ordinary,
        steps=steps.released.rsplit("-steps-", 1)[-1] or f"as trained: {steps.reason}",
        lost=lost,
        trained_elsewhere=_accuracy(trained, *data.others),
        released_elsewhere=_accuracy(released, *data.others),
    )


def _accuracy(path: Path, values: Any, label: Any) -> float:
    """Return the percentage of right answers."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    named = [
        session.run(None, {name: values[start : start + 128]})[0].argmax(axis=1)
        for start in range(0, len(values), 128)
    ]
    return 100 * float((np.concatenate(named) == label).mean())


def _best_tool(base: Path, target: Path, scratch: Path) -> int:
    """Return the bytes of the smallest of the standard tools that are there."""
    made = scratch / "by-tool"
    commands = (
        ["zstd", "-q", "-f", "-19", "--long=27", f"--patch-from={base}", str(target), "-o"],
        ["xdelta3", "-9", "-e", "-f", "-s", str(base), str(target)],
        ["bsdiff", str(base), str(target)],
    )
    sizes = []
    for command in commands:
        if shutil.which(command[0]):
            subprocess.run([*command, str(made)], check=True, stderr=subprocess.DEVNULL)
            sizes.append(made.stat().st_size)
    if not sizes:
        raise RuntimeError("none of zstd, xdelta3 and bsdiff is installed")
    return min(sizes)


def figures(rows: list[Row]) -> dict[str, float | int | bool | None]:
    """Return what the last line says of some rows."""
    rest = [row for row in rows if row.change != "head"]
    within = [row for row in rows if row.lost <= _GOAL_POINTS + _ROUNDING]
    return {
        "pairs": len(rows),
        "within_goal": sum(row.share <= _GOAL_SHARE for row in within),
        "share_max": max((round(row.share, 4) for row in rows), default=None),
        "share_mean_without_heads": round(float(np.mean([row.share for row in rest])), 4)
        if rest
        else None,
        "best_tool_share_mean_without_heads": round(
            float(np.mean([row.tool / row.full for row in rest])), 4
        )
        if rest
        else None,
        "lost_points_max": max((round(row.lost, 3) for row in rows), default=None),
        "lost_points_mean_elsewhere": round(float(np.mean([row.lost_elsewhere for row in rows])), 3)
        if rows
        else None,
        "lost_points_max_elsewhere": max(
            (round(row.lost_elsewhere, 3) for row in rows), default=None
        ),
    }


def line(row: Row) -> str:
    """Return the line of a table."""
    tool, ordinary, released = (
        f"{100 * size / row.full:.2f}" for size in (row.tool, row.ordinary, row.released)
    )
    return (
        f"| {row.name} | {row.full} | {tool} | {ordinary} | **{released}** | {row.steps} | "
        f"{row.lost:+.2f} | {row.trained_elsewhere:.2f} | {row.released_elsewhere:.2f} |"
    )


def main(arguments: list[str]) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distribution.small_steps")
    parser.add_argument("assets", type=Path, nargs="?", help="folder of model families")
    parser.add_argument("--budget", type=float, default=0.5, help="points that it may cost")
    parser.add_argument("--only", default="", help="families whose name has this in it")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    print(
        "| pair | file, bytes | best tool, % | delta as trained, % | in small steps, % | steps |"
        " points lost | elsewhere as trained | as released |\n|---|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory(prefix="edgectl-small-steps-") as scratch:
        held_out = make_held_out(Path(scratch) / "held-out")
        for folder, own in ((held_out, True), (options.assets, False)):
            for family in families(folder) if folder else ():
                if options.only not in family.name:
                    continue
                place = Path(scratch) / family.name
                place.mkdir()
                for row in measure(family, place, held_out=own, budget=options.budget):
                    rows.append(row)
                    print(line(row), flush=True)
                shutil.rmtree(place)
    if not rows:
        print("no pairs of models there", file=sys.stderr)
        return 1
    found = {
        "budget_points": options.budget,
        "pairs": figures([row for row in rows if not row.held_out]),
        "held_out": figures([row for row in rows if row.held_out]),
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
