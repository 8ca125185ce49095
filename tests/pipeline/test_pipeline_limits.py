"""What ends the child: memory, time, cancellation, a signal, the death of its parent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edgectl_server.confined import Isolation
from edgectl_server.pipeline import runner
from edgectl_server.pipeline.errors import PipelineCancelled, PipelineFailed
from edgectl_server.pipeline.runner import run_pipeline
from edgectl_server.pipeline.spec import PipelineLimits, PipelineSpec
from pipeline import crafted

GIB = 1024**3
CAP_DAC_READ_SEARCH = 2


def spec_of(model, directory, **limits):
    source = crafted.save(model, directory / "model.onnx")
    return PipelineSpec(model="m", version="1", source=source, limits=PipelineLimits(**limits))


@pytest.fixture(autouse=True)
def others():
    """Other tests may have children of their own, such as a broker for the whole session."""
    OTHERS.clear()
    OTHERS.update(psutil.Process().children(recursive=True))


OTHERS: set[psutil.Process] = set()


def children():
    return [one for one in psutil.Process().children(recursive=True) if one not in OTHERS]


def worker():
    """The process that does the work: the innermost."""
    (innermost,) = (process for process in children() if not process.children())
    return innermost


def failure(spec, directory, *, on_progress=lambda _: None, cancelled=lambda: False):
    with pytest.raises(PipelineFailed) as caught:
        run_pipeline(spec, directory, on_progress=on_progress, cancelled=cancelled)
    assert children() == [], "nothing is left behind"
    return caught.value


def test_a_memory_bomb_ends_at_the_limit(tmp_path):
    spec = spec_of(crafted.memory_bomb(), tmp_path, memory_bytes=2 * GIB)
    error = failure(spec, tmp_path)
    assert error.code == "pipeline.memory"
    assert "2048 MiB" in error.detail
    harmless = spec_of(crafted.relu(), tmp_path, memory_bytes=2 * GIB)
    run_pipeline(harmless, tmp_path, on_progress=print, cancelled=lambda: False)


@pytest.mark.parametrize(
    ("command", "wall_s", "code"),
    [("yes", 60.0, "pipeline.crashed"), ("yes >&2", 1.0, "pipeline.time")],
)
def test_a_child_that_floods_its_pipes(tmp_path, monkeypatch, command, wall_s, code):
    monkeypatch.setattr(runner, "_isolation", lambda: Isolation(("sh", "-c", command)))
    assert failure(spec_of(crafted.relu(), tmp_path, wall_s=wall_s), tmp_path).code == code


def test_an_endless_loop_ends_at_the_wall_clock(tmp_path):
    error = failure(spec_of(crafted.endless_loop(), tmp_path, wall_s=2.0), tmp_path)
    assert error.code == "pipeline.time"
    assert "2 s by the clock" in error.detail


def test_an_endless_loop_ends_at_the_processor_time(tmp_path):
    error = failure(spec_of(crafted.endless_loop(), tmp_path, cpu_s=2, wall_s=60), tmp_path)
    assert error.code == "pipeline.time"
    assert "processor time" in error.detail


def test_a_file_that_grows_too_long(tmp_path, activity):
    spec = PipelineSpec(
        model="m",
        version="1",
        source=activity / "har_v1.onnx",
        limits=PipelineLimits(file_bytes_max=100_000),
    )
    assert failure(spec, tmp_path).code == "pipeline.disk"


def test_cancelling(tmp_path):
    stages = []
    with pytest.raises(PipelineCancelled):
        run_pipeline(
            spec_of(crafted.endless_loop(), tmp_path, wall_s=60),
            tmp_path,
            on_progress=lambda progress: stages.append(progress.stage),
            cancelled=lambda: "clean" in stages,
        )
    assert children() == []


def test_an_error_of_the_listener_ends_the_child(tmp_path):
    def lost_the_lease(progress):
        raise ConnectionError(progress.stage)

    with pytest.raises(ConnectionError):
        run_pipeline(
            spec_of(crafted.endless_loop(), tmp_path, wall_s=60),
            tmp_path,
            on_progress=lost_the_lease,
            cancelled=lambda: False,
        )
    assert children() == []


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, "killed from outside"),
        (signal.SIGSEGV, "crashed (SIGSEGV)"),
        (signal.SIGABRT, "crashed (SIGABRT)"),
    ],
)
def test_a_killed_child(tmp_path, number, says):
    def kill(progress):
        if progress.stage == "clean":
            worker().send_signal(number)

    spec = spec_of(crafted.endless_loop(), tmp_path, wall_s=60)
    error = failure(spec, tmp_path, on_progress=kill)
    assert error.code == "pipeline.crashed"
    assert says in error.detail


def test_the_child_is_confined(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGECTL_SERVER_SECRET", "hunter2")
    seen = {}

    def look(progress):
        if progress.stage == "clean":
            child = worker()
            seen["environment"] = child.environ()
            seen["directory"] = child.cwd()
            rows = Path(f"/proc/{child.pid}/limits").read_text().splitlines()
            seen["limits"] = {
                name: tuple(int(value) for value in row.split()[length : length + 2])
                for name, length in ((name, len(name.split())) for name in wanted)
                for row in rows
                if row.startswith(name)
            }
            seen["group"] = os.getpgid(child.pid)
            seen["user"] = child.uids()
            status = Path(f"/proc/{child.pid}/status").read_text()
            seen["capabilities"] = int(status.split("CapPrm:")[1].split()[0], 16)
            seen["namespace"] = Path(f"/proc/{child.pid}/ns/pid").readlink()

    wanted = {
        "Max address space": 3 * GIB,
        "Max cpu time": 77,
        "Max file size": GIB,
        "Max open files": 100,
        "Max core file size": 0,
    }
    limits = {
        "memory_bytes": 3 * GIB,
        "cpu_s": 77,
        "file_bytes_max": GIB,
        "files_max": 100,
    }
    run_pipeline(
        spec_of(crafted.relu(), tmp_path, **limits),
        tmp_path,
        on_progress=look,
        cancelled=lambda: False,
    )
    assert "hunter2" not in " ".join(seen["environment"].values())
    assert set(seen["environment"]) <= {
        "PATH", "LANG", "HOME", "TMPDIR", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED",
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    }  # fmt: skip
    assert seen["directory"] == str(tmp_path)
    assert seen["limits"] == {kind: (value, value) for kind, value in wanted.items()}
    assert seen["group"] != os.getpgid(0)
    isolation = runner._isolation()
    user = os.getuid() if isolation.user is None else isolation.user
    assert set(seen["user"]) == {user}
    # As another user it may read and search what its folders are closed to; Landlock says which.
    assert seen["capabilities"] == (0 if isolation.user is None else 1 << CAP_DAC_READ_SEARCH)
    if "unshare" in isolation.command:
        assert seen["namespace"] != Path("/proc/self/ns/pid").readlink()


def test_the_runtime_reports_nothing_to_its_maker(tmp_path):
    """It would leave a device identifier and its queue below the home folder, then send."""
    run_pipeline(
        spec_of(crafted.relu(), tmp_path), tmp_path, on_progress=print, cancelled=lambda: False
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cleaned.onnx",
        "fp32",
        "model.onnx",
        "result.json",
        "source.onnx",
        "spec.json",
    ]


def test_modules_beside_the_upload_are_not_imported(tmp_path):
    (tmp_path / "onnx.py").write_text("raise SystemExit(99)")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit(99)")
    result = run_pipeline(
        spec_of(crafted.relu(), tmp_path), tmp_path, on_progress=print, cancelled=lambda: False
    )
    assert result.candidates[0].variant == "fp32"


PARENT = """
import sys
from pathlib import Path
from edgectl_server.pipeline.runner import run_pipeline
from edgectl_server.pipeline.spec import PipelineSpec

directory = Path(sys.argv[1])
spec = PipelineSpec(model="m", version="1", source=directory / "model.onnx")
run_pipeline(
    spec,
    directory,
    on_progress=lambda progress: print(progress.stage, flush=True),
    cancelled=lambda: False,
)
"""


@pytest.mark.parametrize("namespaces", [True, False])
def test_the_child_does_not_outlive_its_parent(tmp_path, namespaces):
    crafted.save(crafted.endless_loop(), tmp_path / "model.onnx")
    program = PARENT
    if not namespaces:
        program = program.replace(
            "\ndirectory =",
            "\nimport edgectl_server.pipeline.runner as runner"
            "\nfrom edgectl_server.confined import Isolation"
            "\nrunner._isolation = Isolation\ndirectory =",
        )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        while parent.stdout.readline().strip() != "clean":
            assert parent.poll() is None, "the parent ended early"
        family = psutil.Process(parent.pid).children(recursive=True)
        assert family
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
