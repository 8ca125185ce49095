"""The sample process: redacts samples as the device's owner says, and seals them to a policy's key.

``python -m edgectl_agent.sample_child``, started by `edgectl_agent.sample_desk` only, when there is
something to do. In it, and in the process that runs the model, a sample is as it was taken; what it
answers is what may be written.

Rules:

1. Before the first sample it gives up network and files (`trust.confinement`), memory and dumps.
   What it runs inherits that.
2. The steps come first, then the program: it gets the file of the sample on its standard input and
   writes that of the redacted one to its standard output; nothing means that the sample is dropped.
   It must end in time with status 0, and give the same tensors, of the same datatype and shape, or
   the sample is dropped. What it says of the sample's origin is not believed: that stays as it was.
3. Whatever goes wrong drops the sample: nothing unredacted and nothing unsealed is answered.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from edgectl_agent.decryption import refuse_dumps
from edgectl_agent.redaction_steps import Step, StepsRefused, parse_steps, redact_tensors
from edgectl_agent.sample_frames import MARK, Begin, Outcome, Task, frame, read_frame
from edgectl_agent.trust.confinement import confine_program, limit
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.samples import (
    SAMPLE_BYTES_MAX,
    SampleNote,
    SampleTensor,
    encode_sample,
    read_sample_parts,
)
from edgectl_protocol.sealed_samples import seal_sample

__all__ = ["main"]

_PIECE_BYTES = 64 * 1024
_POLL_S = 0.05
_PROCESSOR_S = 60
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Tensors = list[tuple[SampleTensor, bytes]]


class _Dropped(Exception):
    """A sample must not leave; `code` says why."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def main() -> int:
    """Answer until the stream ends."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    found = read_frame(source.read, Begin)
    if found is None:
        return 0
    begin = found[0]
    steps = parse_steps(begin.steps)
    if steps:
        import numpy as np  # noqa: F401 - while its files are there to be read
    import edgectl_agent.hpke  # noqa: F401 - as well

    refuse_dumps()
    limit(
        processor_s=_PROCESSOR_S + round(begin.timeout_s * (os.cpu_count() or 1)),
        memory_bytes=begin.memory_bytes_max,
        file_bytes=0,
    )
    program = Path(begin.command[0]).resolve() if begin.command else None
    unconfined = confine_program(program, hidden=Path(begin.hidden).resolve())
    while (asked := read_frame(source.read, Task)) is not None:
        task, content = asked
        try:
            answer = _carry_out(begin, steps, task, content)
            sink.write(frame(Outcome(unconfined=unconfined), answer))
        except _Dropped as error:
            sink.write(frame(Outcome(code=error.code, detail=str(error)[:1000])))
        sink.flush()
    return 0


def _carry_out(begin: Begin, steps: tuple[Step, ...], task: Task, content: bytes) -> bytes:
    """Return what may be written in place of a sample; raise `_Dropped`."""
    try:
        note, tensors = read_sample_parts(content)
        if note is None:
            raise _Dropped("sample.malformed", "what was taken is no sample")
        redacted: Tensors = list(tensors)
        if steps:
            redacted = redact_tensors(note.model, redacted, steps)
        if begin.command:
            redacted = _run(begin, note, redacted)
        if steps or begin.command:
            content = encode_sample(msgspec.structs.replace(note, redacted="yes"), redacted)
        return content if task.key is None else _sealed(content, begin.device, task.key)
    except StepsRefused as error:
        raise _Dropped("redaction.step", str(error)) from error
    except ProtocolError as error:
        raise _Dropped("sample.malformed", str(error)) from error
    except MemoryError as error:
        raise _Dropped("redaction.memory", "there is not enough memory for it") from error


def _sealed(content: bytes, device: str, key: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    from edgectl_agent.hpke import seal

    try:
        public = X25519PublicKey.from_public_bytes(key)
        return seal_sample(
            content,
            device=device,
            key=key,
            encrypt=lambda plain, info: seal(plain, public, info),
        )
    except ValueError as error:  # such as a point of small order
        raise _Dropped("sample.key", "nothing can be sealed to the policy's key") from error


# ---------------------------------------------------------------- the owner's program


def _run(begin: Begin, note: SampleNote, tensors: Tensors) -> Tensors:
    """Have the owner's program redact tensors; return what it gives, in their order."""
    given = encode_sample(note, tensors)
    environment = {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "EDGECTL_MODEL": note.model,
        "EDGECTL_VERSION": note.version,
        "EDGECTL_REASON": note.reason,
        MARK: os.environ.get(MARK, ""),
    }
    try:
        process = subprocess.Popen(
            begin.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what it says may be of the sample, and logs are uploaded
            cwd="/",
            env=environment,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        raise _Dropped("redaction.failed", f"cannot run {begin.command[0]}: {error}") from error
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with process.stdin as sink, process.stdout as source:
            answer = _exchange(process, sink, source, given, begin.timeout_s)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode != 0:
        status = process.returncode
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise _Dropped("redaction.failed", f"the program {how}")
    if not answer:
        raise _Dropped("redaction.dropped", "the program wants it dropped")
    return _same(tensors, answer)


def _exchange(
    process: subprocess.Popen[bytes],
    sink: IO[bytes],
    source: IO[bytes],
    given: bytes,
    timeout_s: float,
) -> bytes:
    """Write what is given, and read what comes until the program has ended; raise `_Dropped`."""
    deadline_s = time.monotonic() + timeout_s
    left, answer = memoryview(given), bytearray()
    for pipe in (sink, source):
        os.set_blocking(pipe.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(sink, selectors.EVENT_WRITE)
        selector.register(source, selectors.EVENT_READ)
        while time.monotonic() < deadline_s:
            for key, _ in selector.select(_POLL_S):
                if key.fileobj is source:
                    piece = os.read(source.fileno(), _PIECE_BYTES)
                    answer += piece
                    if not piece:
                        selector.unregister(source)
                else:
                    left = left[_write(sink, left) :]
                    if not left:
                        selector.unregister(sink)
                        sink.close()
            if len(answer) > SAMPLE_BYTES_MAX:
                raise _Dropped("redaction.changed", "the program gives more than a sample may have")
            if not selector.get_map() or _has_ended(process):
                if source in [one.fileobj for one in selector.get_map().values()]:
                    continue  # what it has said last is in the pipe
                if _has_ended(process):
                    return bytes(answer)
                time.sleep(_POLL_S)
    raise _Dropped("redaction.timeout", f"the program did not end within {timeout_s:g} s")


def _write(sink: IO[bytes], left: memoryview) -> int:
    """Write a piece; return how much of it is dealt with."""
    try:
        return os.write(sink.fileno(), left[:_PIECE_BYTES])
    except BrokenPipeError:
        return len(left)  # it has seen enough
    except BlockingIOError:
        return 0


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    # Not reaped: its number, which is that of its group, must not go to somebody else.
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _same(tensors: Tensors, answer: bytes) -> Tensors:
    """Return the tensors of an answer, in the order of those given; raise `_Dropped`."""
    try:
        found = dict(read_sample_parts(answer).tensors)
    except ProtocolError as error:
        raise _Dropped("redaction.changed", f"the program gives no sample: {error}") from error
    wanted = [tensor for tensor, _ in tensors]
    if set(found) != set(wanted):
        raise _Dropped(
            "redaction.changed",
            f"the program gives {sorted(found)}, and was given {sorted(wanted)}"[:600],
        )
    return [(tensor, found[tensor]) for tensor in wanted]


if __name__ == "__main__":
    raise SystemExit(main())
