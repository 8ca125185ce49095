"""An operator's own trainer: a command in a sandbox, held to its limits, believed in nothing.

The contract (docs/training.md): environment ``EDGECTL_DATASET``, ``EDGECTL_MODEL``, and where it
is there ``EDGECTL_CALIBRATION``, to be read; ``EDGECTL_OUTPUT``, the working directory and all that
may be written, for ``model.onnx`` and ``metrics.json``. Lines that it writes are its log; one that
is a JSON object says how far it is, and how well (`_Said`).

The samples of the dataset's test split (`held_back`) and the evaluation data of the version in
service are out of its reach: by them the gates judge, and whoever has learned them by heart would
pass.

What it leaves is taken by reading two regular files within bounds; the folder is removed then,
with everything else in it, before another process looks at them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from edgectl_datasets.folders import BLOBS, open_folder
from edgectl_protocol.chunks import BLOB_BYTES_MAX
from edgectl_server import confined
from edgectl_server.pipeline.child import environment
from edgectl_server.pipeline.errors import PipelineCancelled, PipelineRefused
from edgectl_server.pipeline.spec import Progress
from edgectl_server.training.spec import (
    CALIBRATION,
    DATASET,
    METRICS,
    MODEL,
    OUT,
    SOURCE,
    Metrics,
    Trained,
)
from edgectl_server.training.trainers import OwnTrainer

__all__ = ["Sandbox", "held_back", "run_own_trainer"]

_SANDBOX_FILE = "sandbox.json"
_HELD = "held"
_STDOUT_BYTES_MAX = 64 * 1024**2
_LINE_MAX = 300
_LAST_BYTES = 4096
_METRICS_BYTES_MAX = 64 * 1024
_FILES_MAX = 20_000
_LOOK_S = 0.5
_MiB = 1024**2


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """What the sandbox does before it becomes the command."""

    command: tuple[str, ...]
    reads: tuple[str, ...]
    work: str
    memory_bytes: int
    cpu_s: int
    disk_bytes: int


class _Said(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the log that says how far it is."""

    message: str = ""
    done: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    total: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    metrics: Metrics = {}


class _DiskFull(Exception):
    """It has written more than it may."""


@contextlib.contextmanager
def held_back(directory: Path) -> Iterator[None]:
    """Keep the samples of the test split out of a trainer's reach; its rows stay listed.

    Args:
        directory: of this run alone, see `spec`; with its dataset.
    """
    dataset = directory / DATASET
    rows = open_folder(dataset).rows
    held = {row.blob for row in rows} - {row.blob for row in rows if row.split != "test"}
    (directory / _HELD).mkdir()
    places = [
        (dataset / BLOBS / f"{blob}.safetensors", directory / _HELD / blob) for blob in sorted(held)
    ]
    for inside, outside in places:
        inside.rename(outside)
    try:
        yield
    finally:
        for inside, outside in places:
            outside.rename(inside)


def run_own_trainer(
    own: OwnTrainer,
    directory: Path,
    *,
    on_progress: Callable[[Progress], None],
    on_log: Callable[[bytes], None],
    on_metrics: Callable[[Mapping[str, float]], None],
    cancelled: Callable[[], bool],
) -> Trained:
    """Run a trainer; ``out/model.onnx`` is left in `directory`, and nothing else of it.

    Args:
        own: the trainer.
        directory: of this run alone, see `spec`.
        on_progress: called for every line, in this thread.
        on_log: called with every line.
        on_metrics: called with the figures of a line that has some.
        cancelled: asked several times a second.

    Raises:
        PipelineRefused: ``training.crashed``, ``training.time``, ``training.memory``,
            ``training.disk``, ``training.output``, ``training.no_model``, ``training.metrics``.
        PipelineCancelled: `cancelled` has said so.
    """
    directory = directory.resolve()
    out = directory / OUT
    (out / "tmp").mkdir(parents=True)
    inputs = {
        "EDGECTL_DATASET": directory / DATASET,
        "EDGECTL_MODEL": directory / SOURCE,
        "EDGECTL_CALIBRATION": directory / CALIBRATION,
    }
    there = {name: str(path) for name, path in inputs.items() if path.exists()}
    sandbox = Sandbox(
        command=own.command,
        reads=(*own.reads, *there.values()),
        work=str(out),
        memory_bytes=own.memory_bytes,
        cpu_s=own.cpu_s,
        disk_bytes=own.disk_bytes,
    )
    (directory / _SANDBOX_FILE).write_bytes(msgspec.json.encode(sandbox))
    isolation = confined.isolation()
    if isolation.user is not None:
        confined.hand_over(out, isolation.user)

    last = b""

    def on_line(line: bytes) -> None:
        nonlocal last
        last = (last + line)[-_LAST_BYTES:]
        on_log(line)
        said = _read(line)
        on_progress(Progress(stage="train", message=said.message, done=said.done, total=said.total))
        if said.metrics:
            on_metrics(said.metrics)

    ended = _run(
        own,
        [*isolation.command, sys.executable, "-s", "-P", "-m", "edgectl_server.training.sandbox",
         str(directory / _SANDBOX_FILE)],
        out,
        environment={
            **environment(out / "tmp"), **there, "EDGECTL_OUTPUT": str(out), **own.environment
        },
        on_line=on_line,
        cancelled=_watching(out, own.disk_bytes, cancelled),
    )  # fmt: skip
    _check(dataclasses.replace(ended, stderr=last), own)  # the log has both outputs
    return _take(out)


def _run(
    own: OwnTrainer,
    command: list[str],
    out: Path,
    *,
    environment: dict[str, str],
    on_line: Callable[[bytes], None],
    cancelled: Callable[[], bool],
) -> confined.Ended:
    try:
        return confined.run(
            command,
            out,
            environment=environment,
            wall_s=own.wall_s,
            stdout_bytes_max=_STDOUT_BYTES_MAX,
            on_line=on_line,
            cancelled=cancelled,
        )
    except confined.CommandCancelled as error:
        raise PipelineCancelled("pipeline.cancelled", "The training was cancelled.") from error
    except _DiskFull as error:
        raise PipelineRefused(
            "training.disk",
            f"The trainer wrote more than {own.disk_bytes // _MiB} MiB or {_FILES_MAX} files.",
            "Have it keep less, or raise disk_bytes of the trainer.",
        ) from error
    except confined.CommandOverrun as error:
        if error.of == "wall":
            raise _too_slow(f"{own.wall_s} s by the clock") from error
        raise PipelineRefused(
            "training.output",
            f"The trainer wrote more than {_STDOUT_BYTES_MAX // _MiB} MiB of log.",
            "Have it say less.",
        ) from error


def _watching(out: Path, bytes_max: int, cancelled: Callable[[], bool]) -> Callable[[], bool]:
    """Return `cancelled`, which also looks now and then at what has been written."""
    due = time.monotonic()

    def look() -> bool:
        nonlocal due
        now = time.monotonic()
        if now >= due:
            taken = _written(out) + _nameless(out)
            due = time.monotonic() + max(_LOOK_S, 10 * (time.monotonic() - now))
            if taken > bytes_max:
                raise _DiskFull
        return cancelled()

    return look


def _written(out: Path) -> int:
    """Return the bytes on disk below a folder; raise `_DiskFull` for too many files."""
    total, count = 0, 0
    for folder, _, files in os.walk(out):
        for name in files:
            count += 1
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118
        if count > _FILES_MAX:
            raise _DiskFull
    return total


def _nameless(out: Path) -> int:
    """Return the bytes on disk of files below a folder that are open and have no name any more.

    Temporary files are such ones at once. Whose processes cannot be looked into is none of ours.
    """
    sizes: dict[tuple[int, int], int] = {}
    for process in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - thousands of names
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{process}/fd"):  # noqa: PTH208
                with contextlib.suppress(OSError):
                    link = f"/proc/{process}/fd/{name}"
                    target = os.readlink(link)  # noqa: PTH115
                    if target.startswith(f"{out}/") and target.endswith(" (deleted)"):
                        found = os.stat(link)  # noqa: PTH116
                        sizes[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(sizes.values())


def _check(ended: confined.Ended, own: OwnTrainer) -> None:
    """Raise what says why a trainer has not ended well."""
    if ended.code == 0:
        return
    if ended.out_of_memory:
        raise PipelineRefused(
            "training.memory",
            f"The trainer needs more than {own.memory_bytes // _MiB} MiB of address space.",
            "Have it take less at a time, or raise memory_bytes of the trainer.",
        )
    if ended.out_of_processor_time(own.cpu_s):
        raise _too_slow(f"{own.cpu_s} s of processor time")
    raise PipelineRefused(
        "training.crashed",
        f"The trainer ended by {ended.how}.",
        "Its log is in the retraining: `edgectl retrainings show ID --log`.",
    )


def _take(out: Path) -> Trained:
    """Return its figures, and leave its model alone in the folder."""
    try:
        model = confined.read_regular(out / MODEL, BLOB_BYTES_MAX)
    except OSError as error:
        raise PipelineRefused(
            "training.no_model",
            f"The trainer left no {MODEL}: {error.strerror or error}.",
            f"Have it write {MODEL} into the folder that EDGECTL_OUTPUT names.",
        ) from error
    metrics: dict[str, float] = {}
    if os.path.lexists(out / METRICS):
        try:
            content = confined.read_regular(out / METRICS, _METRICS_BYTES_MAX)
            metrics = msgspec.convert({"metrics": msgspec.json.decode(content)}, Trained).metrics
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise PipelineRefused(
                "training.metrics",
                f"{METRICS} is no object of at most 256 numbers: {error}"[:500],
                'Write such as {"loss": 0.12, "accuracy": 0.93}.',
            ) from error
    shutil.rmtree(out)
    out.mkdir()
    (out / MODEL).write_bytes(model)
    return Trained(metrics=metrics)


def _read(line: bytes) -> _Said:
    """Return what a line says of how far it is; any other line is its message."""
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = msgspec.json.decode(line, type=_Said)
        return msgspec.structs.replace(said, message=said.message.replace("\x00", "")[:_LINE_MAX])
    return _Said(message=line.decode(errors="replace").strip().replace("\x00", "")[:_LINE_MAX])


def _too_slow(limit: str) -> PipelineRefused:
    return PipelineRefused(
        "training.time",
        f"The trainer took more than {limit}.",
        "Have it train for less, or raise wall_s or cpu_s of the trainer.",
    )
