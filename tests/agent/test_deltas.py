"""The delta process: it makes the file, goes on after a kill, refuses by name, and stays small."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgectl_agent import deltas
from edgectl_agent.deltas import DeltaProcess, DeltaTask, Progress, apply_delta
from edgectl_delta.decoder import Applier
from edgectl_protocol.deltas import Codec
from edgectl_server.deltas import encoder, tensor_codec
from server.deltas.pairs import model, retrained, weights


@pytest.fixture(scope="module")
def made():
    """Return base, target and a delta of several blocks."""
    rng = np.random.default_rng(1)
    before = {f"l{n}": weights(rng, "i8", (500, 400)) for n in range(6)}
    base = model(before)
    target = model({name: retrained(rng, array, 0.1) for name, array in before.items()})
    found = tensor_codec.encode_tensors(base, target)
    assert found is not None
    return base, target, encoder.write_delta(Codec.TENSOR, base, target, *found)


@pytest.fixture
def task(tmp_path, made):
    base, target, delta = made
    for name, content in (("base", base), ("delta", delta)):
        (tmp_path / name).write_bytes(content)
    return DeltaTask(
        delta=str(tmp_path / "delta"),
        base=(str(tmp_path / "base"),),
        target=str(tmp_path / "target"),
        target_sha256=hashlib.sha256(target).hexdigest(),
        target_bytes=len(target),
        timeout_s=60.0,
    )


def test_the_file_is_made(task, made):
    assert apply_delta(task) is None
    assert Path(task.target).read_bytes() == made[1]
    assert not Path(task.target + ".progress").exists()


def test_the_process_may_wait_for_its_task(task, made):
    with DeltaProcess() as process:
        process.start()
        process.start()
        waiting = process._process
        assert waiting is not None
        assert waiting.poll() is None
        assert process.apply(task) is None
        assert waiting.returncode == 0, "it was the one that was started before"
    assert Path(task.target).read_bytes() == made[1]


def test_a_process_that_is_not_needed_ends(task):
    with DeltaProcess() as process:
        process.start()
        waiting = process._process
    assert waiting is not None
    assert waiting.returncode is not None
    assert not Path(task.target).exists()


def test_a_process_that_died_while_it_waited_is_told_of(task):
    with DeltaProcess() as process:
        process.start()
        assert process._process is not None
        process._process.kill()
        process._process.wait(30)
        reason = process.apply(task)
    assert reason is not None
    assert reason.code == "delta.crashed"


def test_memory_is_bounded(task):
    """Interpreter and libraries take about 30 MB; what is beside it is within the format's."""
    launch = (
        "import os, subprocess, sys\n"
        "process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "print(os.wait4(process.pid, 0)[2].ru_maxrss)\n"
    )

    def kilobytes(*command):
        """Return the largest resident set, as started by a small process."""
        with subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", launch, sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        ) as process:
            process.stdin.write(msgspec.json.encode(task) + b"\n")
            process.stdin.flush()
            return int(process.stdout.read())

    idle = kilobytes("-P", "-c", "import edgectl_agent.delta_child")
    busy = kilobytes("-P", "-m", "edgectl_agent.delta_child")
    assert Path(task.target).stat().st_size == task.target_bytes
    assert busy - idle < 32 * 1024


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_it_goes_on_after_a_whole_block(task, made, blocks):
    base, target, delta = made
    applier = Applier(
        lambda offset, length: delta[offset : offset + length],
        len(delta),
        lambda offset, length: base[offset : offset + length],
        len(base),
    )
    done = applier.target_bytes_after(blocks)
    Path(task.target).write_bytes(target[:done] + b"what was not synchronized")
    progress = Progress(blocks=blocks, target_bytes=done)
    Path(task.target + ".progress").write_bytes(msgspec.json.encode(progress))
    answer = subprocess.run(
        [sys.executable, "-P", "-m", "edgectl_agent.delta_child"],
        stdin=_open_task(task),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    assert json.loads(answer)["resumed_bytes"] == done
    assert Path(task.target).read_bytes() == target


def _open_task(task):
    """Return a pipe that holds the task and does not end."""
    reading, writing = os.pipe()
    os.write(writing, msgspec.json.encode(task) + b"\n")
    _OPEN.append(writing)
    return reading


_OPEN: list[int] = []


@pytest.mark.parametrize(
    "progress",
    [b"", b"{", b'{"blocks":3,"target_bytes":17}', b'{"blocks":-1,"target_bytes":-5}',
     b'{"blocks":9999999999,"target_bytes":0}'],
)  # fmt: skip
def test_progress_that_cannot_be_is_not_believed(task, made, progress):
    Path(task.target).write_bytes(made[1][:1000])
    Path(task.target + ".progress").write_bytes(progress)
    assert apply_delta(task) is None
    assert Path(task.target).read_bytes() == made[1]


def test_bytes_that_were_changed_meanwhile_are_found(task, made):
    base, target, delta = made
    applier = Applier(
        lambda offset, length: delta[offset : offset + length],
        len(delta),
        lambda offset, length: base[offset : offset + length],
        len(base),
    )
    done = applier.target_bytes_after(3)
    Path(task.target).write_bytes(bytes(done))
    progress = Progress(blocks=3, target_bytes=done)
    Path(task.target + ".progress").write_bytes(msgspec.json.encode(progress))
    reason = apply_delta(task)
    assert reason is not None
    assert reason.code == "delta.target"
    assert not Path(task.target).exists()
    assert apply_delta(task) is None
    assert Path(task.target).read_bytes() == target


def change(task, name, edit):
    path = Path(task.base[0] if name == "base" else getattr(task, name))
    content = bytearray(path.read_bytes())
    edit(content)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "edit", "code"),
    [
        ("base", lambda c: c.__setitem__(100, c[100] ^ 1), "delta.base"),
        ("base", lambda c: c.append(1), "delta.base"),
        ("delta", lambda c: c.__delitem__(slice(-1, None)), "delta.truncated"),
        ("delta", lambda c: c.clear(), "delta.truncated"),
        ("delta", lambda c: c.__setitem__(0, 1), "delta.malformed"),
        ("delta", lambda c: c.__setitem__(4, 9), "delta.version"),
    ],
)
def test_refused_by_name_and_nothing_is_left(task, name, edit, code):
    change(task, name, edit)
    reason = apply_delta(task)
    assert reason is not None
    assert reason.code == code
    assert not Path(task.target).exists()


def test_files_that_are_not_there(task):
    Path(task.base[0]).unlink()
    reason = apply_delta(task)
    assert reason is not None
    assert reason.code == "delta.unreadable"


def test_another_signed_length_or_digest(task):
    for changes in ({"target_bytes": 5}, {"target_sha256": "ab" * 32}):
        reason = apply_delta(msgspec.structs.replace(task, **changes))
        assert reason is not None
        assert reason.code == "delta.target"


def test_too_little_memory_and_time(task):
    reason = apply_delta(msgspec.structs.replace(task, memory_bytes_max=1024 * 1024))
    assert reason is not None
    assert reason.code == "delta.memory"
    reason = apply_delta(msgspec.structs.replace(task, timeout_s=0.01))
    assert reason is not None
    assert reason.code == "delta.timeout"


def test_nobody_waits_or_it_is_killed(task, made, monkeypatch):
    reason = apply_delta(task, cancelled=lambda: True)
    assert reason is not None
    assert reason.code == "delta.stopped"
    started = subprocess.Popen

    def shot(*arguments, **options):
        process = started(*arguments, **options)
        process.send_signal(signal.SIGKILL)
        return process

    monkeypatch.setattr(deltas.subprocess, "Popen", shot)
    reason = apply_delta(task)
    assert reason is not None
    assert reason.code == "delta.crashed"
    monkeypatch.undo()
    assert apply_delta(task) is None
    assert Path(task.target).read_bytes() == made[1]


def test_it_ends_with_the_supervisor(task):
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "edgectl_agent.delta_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    process.stdin.write(msgspec.json.encode(task) + b"\n")
    process.stdin.close()
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is not None


@pytest.fixture(autouse=True)
def _closed():
    yield
    while _OPEN:
        os.close(_OPEN.pop())
