"""1,000 damaged and twisted model files, each given to the pipeline as a push would give it.

Real models of the repository, as they are and quantized, are mutated: bytes flipped, cut or
repeated, and, what a parser lets through, dimensions, types, names, attributes and wiring changed.
Every file must end as accepted or as an error with a code, within its limits, whatever the runtime
does with it; no process may be left, and the parent's memory must not grow with the files.

    python -m benchmarks.hostile_models [COUNT] [SEED]
"""

from __future__ import annotations

import collections
import itertools
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil

from edgectl_server.pipeline.errors import PipelineError
from edgectl_server.pipeline.runner import run_pipeline
from edgectl_server.pipeline.spec import PipelineLimits, PipelineSpec

__all__ = [
    "LIMITS",
    "MUTATIONS",
    "OF_BYTES",
    "Mutated",
    "Outcome",
    "Source",
    "give",
    "mutated",
    "mutated_tflite",
    "sources",
]

ROOT = Path(__file__).parents[1]
ACTIVITY = ROOT / "server" / "edgectl" / "demo" / "activity"
DATA = ROOT / "tests" / "data"
TFLITE = DATA / "tflite"
TFLITE_SHARE = 4
"""One of so many files is no ONNX but ``.tflite``."""
SOURCES = (
    (ACTIVITY / "har_v1.onnx", ACTIVITY / "calibration.npz"),
    (DATA / "anomaly" / "ae.onnx", DATA / "anomaly" / "calibration.npz"),
    (DATA / "occupancy" / "occ_mlp.onnx", DATA / "occupancy" / "test.npz"),
    (DATA / "occupancy" / "occ_rf.onnx", DATA / "occupancy" / "test.npz"),
)
"""Real models, each with data: what survives its mutation goes through the whole search."""
SAMPLES = 16
QUANTIZED = 2
AT_ONCE = 2
MIB = 1024**2
LIMITS = PipelineLimits(memory_bytes=2048 * MIB, cpu_s=30, wall_s=60.0)
GRACE_S = 10.0
"""Beyond the wall clock's limit, for a busy machine to kill and collect."""


@dataclass(frozen=True)
class Source:
    """A sound model, and a file of a few samples for it."""

    content: bytes
    samples: Path


@dataclass(frozen=True)
class Mutated:
    """A changed model, what has been done to it, and samples for what it was."""

    mutation: str
    content: bytes
    samples: Path


def sources(folder: Path) -> list[Source]:
    """Return the models to mutate: real ones, and two of them quantized; files go to `folder`."""
    from onnxruntime.quantization import quantize_dynamic

    found = []
    for number, (path, data) in enumerate(SOURCES):
        samples = folder / f"{path.stem}.npz"
        with np.load(data) as arrays:
            np.savez(samples, **{name: arrays[name][:SAMPLES] for name in arrays})
        found.append(Source(path.read_bytes(), samples))
        if number < QUANTIZED:
            target = folder / f"{path.stem}_int8.onnx"
            quantize_dynamic(path, target)
            found.append(Source(target.read_bytes(), samples))
    return found


def mutated(models: list[Source], count: int, seed: int) -> Iterator[Mutated]:
    """Yield `count` changed files; the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311  # repeatable on purpose
    names = sorted(MUTATIONS)
    for number in range(count):
        name = names[number % len(names)]
        source = chance.choice(models)
        yield Mutated(name, MUTATIONS[name](source.content, chance), source.samples)


def mutated_tflite(folder: Path, count: int, seed: int) -> Iterator[Mutated]:
    """Yield `count` changed ``.tflite`` files; their samples go to `folder`."""
    chance = random.Random(seed)  # noqa: S311  # repeatable on purpose
    samples = folder / "tflite.npz"
    np.savez(samples, input=np.linspace(0, 6, SAMPLES, dtype=np.float32).reshape(-1, 1))
    models = [path.read_bytes() for path in sorted(TFLITE.glob("hello_world_*.tflite"))]
    for number in range(count):
        change = OF_BYTES[number % len(OF_BYTES)]
        yield Mutated(f"tflite{change.__name__}", change(chance.choice(models), chance), samples)


def _word(content: bytes, chance: random.Random) -> bytes:
    """Set offsets, lengths and enumerations, which are words of four bytes in a FlatBuffer."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 2, 4))):
        at = 4 * chance.randrange(len(changed) // 4)
        changed[at : at + 4] = (chance.choice(_NUMBERS) & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(changed)


def _flip(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 4, 32, 256))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _flip_head(content: bytes, chance: random.Random) -> bytes:
    """Flip where the structure is rather than in the weights: at the beginning or the end."""
    changed = bytearray(content)
    reach = min(len(changed), 4096)
    for _ in range(chance.choice((1, 2, 8))):
        at = chance.randrange(reach)
        changed[at if chance.random() < 0.5 else -1 - at] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def _repeat(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    piece = content[start : start + chance.choice((1, 16, 4096))]
    return content[:start] + piece * chance.randrange(2, 20) + content[start:]


def _on_model(change: Callable[[Any, random.Random], None]) -> Callable[..., bytes]:
    """Make a mutation of bytes from one of a parsed model, done one to three times."""

    def mutate(content: bytes, chance: random.Random) -> bytes:
        model = onnx.ModelProto.FromString(content)
        for _ in range(chance.randrange(1, 4)):
            change(model, chance)
        return bytes(model.SerializeToString())

    return mutate


_NUMBERS = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 255, 2**16, 2**31 - 1, 2**31, 2**40, 2**63 - 1)


def _tensor(model: Any, chance: random.Random) -> Any:
    if not model.graph.initializer:  # tree ensembles keep their numbers in attributes
        model.graph.initializer.add(name="w", data_type=1, dims=[4], raw_data=b"\0" * 16)
    return chance.choice(model.graph.initializer)


def _tensor_dims(model: Any, chance: random.Random) -> None:
    dims = _tensor(model, chance).dims
    if dims and chance.random() < 0.7:
        dims[chance.randrange(len(dims))] = chance.choice(_NUMBERS)
    else:
        dims.append(chance.choice(_NUMBERS))


def _tensor_data(model: Any, chance: random.Random) -> None:
    tensor = _tensor(model, chance)
    what = chance.randrange(3)
    if what == 0:
        tensor.data_type = chance.randrange(0, 26)
    elif what == 1:
        tensor.raw_data = tensor.raw_data[: chance.randrange(len(tensor.raw_data) + 1)]
    else:
        tensor.raw_data = bytes(chance.randrange(256) for _ in range(len(tensor.raw_data) % 4096))


def _interface(model: Any, chance: random.Random) -> None:
    value = chance.choice([*model.graph.input, *model.graph.output])
    kind = value.type.tensor_type
    what = chance.randrange(4)
    if what == 0:
        kind.elem_type = chance.randrange(0, 26)
    elif what == 1:
        kind.shape.dim.add(dim_value=chance.choice(_NUMBERS))
    elif what == 2 and kind.shape.dim:
        chance.choice(kind.shape.dim).dim_value = chance.choice(_NUMBERS)
    else:
        value.name = chance.choice(["", "x" * 5000, model.graph.node[0].output[0], "../../x"])


def _wiring(model: Any, chance: random.Random) -> None:
    values = [name for node in model.graph.node for name in (*node.input, *node.output)]
    node = chance.choice(model.graph.node)
    side = node.input if chance.random() < 0.7 and node.input else node.output
    if side:
        side[chance.randrange(len(side))] = chance.choice([*values, "", "nobody"])


def _operator(model: Any, chance: random.Random) -> None:
    node = chance.choice(model.graph.node)
    what = chance.randrange(4)
    if what == 0:
        node.op_type = chance.choice(_OPERATORS)
    elif what == 1:
        node.domain = chance.choice(["", "ai.onnx.ml", "com.microsoft", "com.evil"])
    elif what == 2:
        model.graph.node.remove(node)
        if not model.graph.node:
            model.graph.node.append(node)
    else:
        model.graph.node.insert(chance.randrange(len(model.graph.node)), node)


_OPERATORS = (
    "Conv", "Gemm", "MatMul", "Reshape", "Tile", "Expand", "Pad", "Gather", "ConstantOfShape",
    "Loop", "If", "Scan", "Resize", "Transpose", "Concat", "Split", "Range", "NonZero", "OneHot",
    "LSTM", "QLinearConv", "QuantizeLinear", "DequantizeLinear", "Attention", "FusedConv",
    "TreeEnsembleClassifier", "Scaler", "ZipMap", "",
)  # fmt: skip


def _attribute(model: Any, chance: random.Random) -> None:
    holders = [node for node in model.graph.node if node.attribute] or [model.graph.node[0]]
    node = chance.choice(holders)
    if not node.attribute:
        node.attribute.add(name="axis", type=onnx.AttributeProto.INT, i=chance.choice(_NUMBERS))
        return
    attribute = chance.choice(node.attribute)
    if attribute.ints and chance.random() < 0.8:
        attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(_NUMBERS)
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = chance.choice(_NUMBERS)
    elif attribute.floats:
        attribute.floats[chance.randrange(len(attribute.floats))] = chance.choice(
            [float("nan"), float("inf"), -1e38, 0.0]
        )
    else:
        attribute.type = chance.randrange(0, 15)


def _versions(model: Any, chance: random.Random) -> None:
    what = chance.randrange(3)
    if what == 0 and model.opset_import:
        chance.choice(model.opset_import).version = chance.choice((*_NUMBERS, 8, 13, 21))
    elif what == 1:
        model.ir_version = chance.choice(_NUMBERS)
    else:
        model.opset_import.add(domain=chance.choice(["", "com.evil"]), version=chance.randrange(30))


OF_BYTES = (_flip, _flip_head, _cut, _repeat, _word)
"""What can be done to a file of any format."""
MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bytes flipped": _flip,
    "bytes flipped at an end": _flip_head,
    "cut": _cut,
    "piece repeated": _repeat,
    "tensor dimensions": _on_model(_tensor_dims),
    "tensor data": _on_model(_tensor_data),
    "inputs and outputs": _on_model(_interface),
    "wiring": _on_model(_wiring),
    "operators": _on_model(_operator),
    "attributes": _on_model(_attribute),
    "versions": _on_model(_versions),
}
"""Name → the changed file of a file."""


@dataclass(frozen=True)
class Outcome:
    """How a file has ended: ``accepted``, or the code of the error; and after how long."""

    mutation: str
    code: str
    seconds: float


def give(one: Mutated, folder: Path) -> Outcome:
    """Run the pipeline on one file in an empty `folder`; raises what is no `PipelineError`."""
    source = folder / "model.onnx"
    source.write_bytes(one.content)
    spec = PipelineSpec(
        model="hostile", version="1", source=source, calibration=one.samples, limits=LIMITS
    )
    begun = time.monotonic()
    code = "accepted"
    try:
        run_pipeline(spec, folder, on_progress=lambda _: None, cancelled=lambda: False)
    except PipelineError as error:
        code = error.code
    return Outcome(one.mutation, code, time.monotonic() - begun)


def main(arguments: list[str]) -> int:
    """Give all, print tables, end with one line of JSON."""
    count = int(arguments[0]) if arguments else 1000
    seed = int(arguments[1]) if len(arguments) > 1 else 1
    me = psutil.Process()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as name:
        scratch = Path(name)
        models = sources(scratch)
        _give_all(iter([Mutated("none", models[0].content, models[0].samples)]), scratch)
        before = me.memory_info().rss
        of_tflite = count // TFLITE_SHARE
        files = itertools.chain(
            mutated(models, count - of_tflite, seed), mutated_tflite(scratch, of_tflite, seed)
        )
        outcomes, errors = _give_all(files, scratch)
        after = me.memory_info().rss
    left = [child.pid for child in me.children(recursive=True)]
    took = time.monotonic() - began
    result = {
        "benchmark": "hostile_models",
        "seed": seed,
        "files": count,
        "outcomes": dict(collections.Counter(one.code for one in outcomes).most_common()),
        "unexpected_errors": errors,
        "slowest_s": round(max(one.seconds for one in outcomes), 1),
        "wall_s_max": LIMITS.wall_s,
        "children_left": len(left),
        "parent_rss_before_mb": round(before / 1e6, 1),
        "parent_rss_after_mb": round(after / 1e6, 1),
        "seconds": round(took, 1),
    }
    _print(outcomes, result)
    print(json.dumps(result))
    hung = max(one.seconds for one in outcomes) > LIMITS.wall_s + GRACE_S
    return 1 if errors or left or hung else 0


def _give_all(files: Iterator[Mutated], scratch: Path) -> tuple[list[Outcome], list[str]]:
    """Give the files, some at a time; return the outcomes and what should never be raised."""
    outcomes: list[Outcome] = []
    errors: list[str] = []
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                one = next(files, None)
            if one is None:
                return
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                try:
                    outcomes.append(give(one, Path(folder)))
                except Exception as error:  # noqa: BLE001  # what must not happen is reported
                    errors.append(f"{one.mutation}: {type(error).__name__}: {error}"[:300])

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for thread in [pool.submit(work) for _ in range(AT_ONCE)]:
            thread.result()
    return outcomes, errors


def _print(outcomes: list[Outcome], result: dict[str, Any]) -> None:
    codes = [code for code, _ in collections.Counter(one.code for one in outcomes).most_common()]
    print(f"{len(outcomes)} files, {AT_ONCE} at a time, {os.cpu_count()} processors\n")
    for mutation in sorted({one.mutation for one in outcomes}):
        mine = collections.Counter(one.code for one in outcomes if one.mutation == mutation)
        shown = ", ".join(f"{code} {mine[code]}" for code in codes if mine[code])
        print(f"  {mutation:<24} {sum(mine.values()):>4}  {shown}")
    print(
        f"\nslowest {result['slowest_s']} s of at most {LIMITS.wall_s:g} s; "
        f"{result['children_left']} processes left; {len(result['unexpected_errors'])} unexpected "
        f"errors\nmemory of the parent {result['parent_rss_before_mb']} MB before, "
        f"{result['parent_rss_after_mb']} MB after; {result['seconds']} s in all"
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
