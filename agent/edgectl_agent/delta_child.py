"""The delta process: makes a file from an older one and a delta, says how it went, ends.

``python -m edgectl_agent.delta_child``, started by `edgectl_agent.deltas` only, perhaps before
there is a task. That comes on standard input, which then stays open: its end means that the
supervisor has died. The answer goes to standard output. NumPy, which this needs, never gets into
the supervisor.

After each block the target is synchronized and the progress written beside it, so that an
interrupted one goes on there. The progress is not believed: what has been written is digested anew,
and the digest of the whole is the signed one or the file is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from edgectl_agent.deltas import DeltaResult, DeltaTask, Progress
from edgectl_delta.decoder import Applier, Reader
from edgectl_protocol.errors import DeltaRefused

__all__ = ["main"]

_PIECE_BYTES = 256 * 1024
_CHECKPOINT_BYTES = 4 * 1024 * 1024
"""At most so much is made again after an interruption, beside one block."""


def main() -> int:
    """Carry out the task; the result goes to standard output."""
    line = sys.stdin.buffer.readline()
    if not line:
        return 1  # it was not needed after all, or the supervisor has died
    task = msgspec.json.decode(line, type=DeltaTask)
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    _limit(task)
    sys.stdout.buffer.write(msgspec.json.encode(_carry_out(task)) + b"\n")
    return 0


def _carry_out(task: DeltaTask) -> DeltaResult:
    try:
        made = _apply(task)
    except DeltaRefused as error:
        return DeltaResult(code=error.code, detail=str(error))
    except MemoryError:
        return DeltaResult(
            code="delta.memory", detail=f"more than {task.memory_bytes_max} bytes of memory"
        )
    except OSError as error:
        return DeltaResult(code="delta.unreadable", detail=f"cannot read or write: {error}")
    return DeltaResult(resumed_bytes=made)


def _apply(task: DeltaTask) -> int:
    """Make the target; return how many bytes of it were there already."""
    with (
        Path(task.delta).open("rb") as delta,
        contextlib.ExitStack() as opened,
        Path(task.target).open("r+b" if Path(task.target).exists() else "w+b") as target,
    ):
        base = [opened.enter_context(Path(one).open("rb")) for one in task.base]
        applier = Applier(_reader([delta]), _size(delta), _reader(base), sum(map(_size, base)))
        if applier.header.target_bytes != task.target_bytes:
            raise DeltaRefused("delta.target", "it is for a target of another length")
        if task.check_base:
            applier.check_base()
        progress = _progress(task, applier)
        digest = hashlib.sha256()
        done = progress.target_bytes
        if done and not _digest_start(target, done, digest):
            progress, done, digest = Progress(), 0, hashlib.sha256()
        target.seek(done)
        target.truncate(done)
        saved = done

        def checkpoint(blocks: int, length: int) -> None:
            nonlocal saved
            if length - saved >= _CHECKPOINT_BYTES:
                _save(task, target, Progress(blocks=blocks, target_bytes=length))
                saved = length

        applier.apply(
            target.write,
            bytes.fromhex(task.target_sha256),
            digest=digest,
            done_blocks=progress.blocks,
            checkpoint=checkpoint,
        )
        target.flush()
        os.fdatasync(target.fileno())
    _progress_file(task).unlink(missing_ok=True)
    return done


def _save(task: DeltaTask, target: IO[bytes], progress: Progress) -> None:
    """Write the progress once what it says is on the disk, whole or not at all."""
    target.flush()
    os.fdatasync(target.fileno())
    beside = Path(task.target + ".progress-new")
    beside.write_bytes(msgspec.json.encode(progress))
    beside.replace(_progress_file(task))


def _progress(task: DeltaTask, applier: Applier) -> Progress:
    """Return where an earlier try has come, if it was of this delta and ended behind a block."""
    try:
        found = msgspec.json.decode(_progress_file(task).read_bytes(), type=Progress)
    except (OSError, msgspec.MsgspecError):
        return Progress()
    return found if applier.target_bytes_after(found.blocks) == found.target_bytes else Progress()


def _progress_file(task: DeltaTask) -> Path:
    return Path(task.target + ".progress")


def _digest_start(target: IO[bytes], length: int, digest: hashlib._Hash) -> bool:
    """Digest what has been written; say whether all of it is there."""
    while length:
        piece = target.read(min(_PIECE_BYTES, length))
        if not piece:
            return False
        digest.update(piece)
        length -= len(piece)
    return True


def _reader(files: Sequence[IO[bytes]]) -> Reader:
    """Return what reads from files that follow one another."""
    lengths = [_size(one) for one in files]

    def read(offset: int, length: int) -> bytes:
        pieces = []
        for file, size in zip(files, lengths, strict=True):
            here = min(length, size - offset)
            if here > 0:
                pieces.append(os.pread(file.fileno(), here, offset))
                length -= here
            offset = max(0, offset - size)
        return b"".join(pieces)

    return read


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _limit(task: DeltaTask) -> None:
    seconds = max(1, round(task.timeout_s)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = 0
    with contextlib.suppress(OSError, StopIteration, IndexError, ValueError):
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        used = 1024 * int(next(line for line in lines if line.startswith("VmData")).split()[1])
    if used:
        data = used + task.memory_bytes_max
        resource.setrlimit(resource.RLIMIT_DATA, (data, data))


def _end_with_supervisor() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
