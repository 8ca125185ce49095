"""An operator's own trainers that crash, hang, fill the disk, or look where they may not."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgectl_server.pipeline.confinement import landlock_version
from edgectl_server.pipeline.errors import PipelineCancelled, PipelineRefused
from edgectl_server.pipeline.spec import Progress
from edgectl_server.training.own_trainer import run_own_trainer
from edgectl_server.training.said import LOG_MAX, Said
from edgectl_server.training.spec import (
    CALIBRATION,
    DATASET,
    EVALUATION,
    METRICS_MAX,
    MODEL,
    OUT,
    SOURCE,
    Trained,
)
from edgectl_server.training.trainers import OwnTrainer, TrainersInvalid, load_trainers

MiB = 1024**2


class Bench:
    """A run's folder, and a trainer that is a few lines of Python."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "run"
        (self.directory / DATASET).mkdir(parents=True)
        (self.directory / DATASET / "dataset.json").write_text("{}")
        (self.directory / SOURCE).write_bytes(b"model")
        self.secret = directory / "secret"
        self.secret.write_text("key")
        self.scripts = directory / "scripts"
        self.scripts.mkdir()
        self.log: list[bytes] = []
        self.figures: list[Mapping[str, float]] = []
        self.told: list[Progress] = []
        self.stop = False

    def run(self, code: str, **limits: object) -> Trained:
        script = self.scripts / "train.py"
        script.write_text("import os, json, sys, time\n" + textwrap.dedent(code))
        own = OwnTrainer(
            command=(sys.executable, "-I", str(script)),
            reads=(str(self.scripts), sys.prefix, sys.base_prefix),
            **{"wall_s": 30, "memory_bytes": 1024 * MiB, "disk_bytes": 64 * MiB, **limits},  # type: ignore[arg-type]
        )
        return run_own_trainer(
            own,
            self.directory,
            on_progress=self.told.append,
            on_log=self.log.append,
            on_metrics=self.figures.append,
            cancelled=lambda: self.stop,
        )

    @property
    def text(self) -> str:
        return b"\n".join(self.log).decode()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    tmp_path.chmod(0o755)
    return Bench(tmp_path)


def test_a_trainer_gets_its_inputs_and_leaves_a_model(bench: Bench) -> None:
    trained = bench.run(
        """
        assert os.getcwd() == os.environ["EDGECTL_OUTPUT"]
        assert open(os.path.join(os.environ["EDGECTL_DATASET"], "dataset.json")).read() == "{}"
        model = open(os.environ["EDGECTL_MODEL"], "rb").read()
        assert "EDGECTL_CALIBRATION" not in os.environ
        open(os.path.join(os.environ["TMPDIR"], "scratch"), "w").write("x")
        print(json.dumps({"message": "epoch 1", "done": 1, "total": 2}), flush=True)
        for odd in ({"loss": "x"}, {"a\\x00b": 1}, {"": 1}, {str(n): n for n in range(300)}, [1]):
            print(json.dumps({"message": "odd", "metrics": odd}), flush=True)
        print('{"metrics": {"loss": NaN}}', flush=True)
        print(json.dumps({"message": "epoch 2", "metrics": {"loss": 0.7}}), flush=True)
        print("plain words", file=sys.stderr, flush=True)
        open("model.onnx", "wb").write(model + b"2")
        open("metrics.json", "w").write('{"loss": 0.5}')
        """
    )
    assert trained.metrics == {"loss": 0.5}
    out = bench.directory / OUT
    assert [path.name for path in out.iterdir()] == [MODEL]
    assert (out / MODEL).read_bytes() == b"model2"
    assert (bench.told[0].message, bench.told[0].done, bench.told[0].total) == ("epoch 1", 1, 2)
    assert "plain words" in bench.text
    assert bench.figures == [{"loss": 0.7}], "only lines whose figures are numbers with names"


@pytest.mark.skipif(not landlock_version(), reason="the kernel has no Landlock")
def test_a_trainer_does_not_get_what_it_is_judged_by(bench: Bench) -> None:
    for name in (CALIBRATION, EVALUATION):
        (bench.directory / name).write_bytes(name.encode())
    bench.run(
        """
        calibration = os.environ["EDGECTL_CALIBRATION"]
        assert open(calibration).read() == "calibration.npz"
        assert "EDGECTL_EVALUATION" not in os.environ
        try:
            open(os.path.join(os.path.dirname(calibration), "evaluation.npz"))
        except OSError:
            open("model.onnx", "w").write("x")
        """
    )


LIES = "open('model.onnx', 'w').write('x')\nopen('metrics.json', 'w').write('{}')"
REFUSED = [
    ("raises", "raise SystemExit(3)", {}, "training.crashed"),
    ("dies", "os.kill(os.getpid(), 11)", {}, "training.crashed"),
    ("hangs", "time.sleep(60)", {"wall_s": 2}, "training.time"),
    ("spins", "while True: pass", {"cpu_s": 1}, "training.time"),
    ("eats memory", "x = bytearray(2**31)", {}, "training.memory"),
    ("one large file", "f = open('big', 'wb')\nwhile True: f.write(bytes(2**20))",
     {"disk_bytes": 8 * MiB}, "training.crashed"),
    ("many files", "for n in range(10**6):\n  open(str(n), 'wb').write(bytes(2**16))",
     {"disk_bytes": 8 * MiB}, "training.disk"),
    ("files without a name",
     ("import tempfile\nkept = []\nwhile True:\n"
     "  kept.append(tempfile.TemporaryFile(dir='.', buffering=0))\n"
     "  kept[-1].write(bytes(2**20))\n  time.sleep(0.02)"),
     {"disk_bytes": 8 * MiB}, "training.disk"),
    ("talks without end", "while True: print('x' * 10000)", {}, "training.output"),
    ("leaves nothing", "pass", {}, "training.no_model"),
    ("leaves a folder", "os.mkdir('model.onnx')", {}, "training.no_model"),
    ("leaves a link", "os.symlink(os.environ['EDGECTL_MODEL'], 'model.onnx')", {},
     None),
    ("leaves a pipe", "os.mkfifo('model.onnx')", {}, None),
    ("figures that are none", LIES.format("[1]"),
     {}, "training.metrics"),
    ("figures of text", LIES.format('{"a": "b"}'),
     {}, "training.metrics"),
    ("is not there", None, {"command": ("/nowhere/at/all",)}, "training.crashed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "limits", "expected"), [one[1:] for one in REFUSED], ids=[one[0] for one in REFUSED]
)
def test_what_goes_wrong_is_named(
    bench: Bench, code: str | None, limits: dict[str, object], expected: str | None
) -> None:
    with pytest.raises(PipelineRefused) as caught:  # noqa: PT012 - two ways to start one
        if "command" in limits:
            own = OwnTrainer(command=limits["command"], wall_s=30)  # type: ignore[arg-type]
            run_own_trainer(
                own, bench.directory, on_progress=bench.told.append, on_log=bench.log.append,
                on_metrics=bench.figures.append, cancelled=lambda: False,
            )  # fmt: skip
        else:
            assert code is not None
            bench.run(code, **limits)
    if code is not None and code.startswith(("raise", "os.kill")):
        assert "exit code 3" in caught.value.detail or "SIGSEGV" in caught.value.detail
    # The sandbox may refuse to make a pipe at all: a crash then, and no model in any case.
    assert caught.value.code == expected or (
        expected is None and caught.value.code in {"training.crashed", "training.no_model"}
    )


@pytest.mark.skipif(not landlock_version(), reason="the kernel has no Landlock")
def test_a_trainer_reads_and_writes_nothing_else(bench: Bench) -> None:
    trained = bench.run(
        f"""
        def tried(what):
            try:
                what()
            except OSError:
                return 0
            return 1
        secret, dataset = {str(bench.secret)!r}, os.environ["EDGECTL_DATASET"]
        import socket
        found = {{
            "read": tried(lambda: open(secret).read()),
            "write": tried(lambda: open(secret, "w").write("x")),
            "dataset": tried(lambda: open(os.path.join(dataset, "dataset.json"), "w")),
            "beside": tried(lambda: open("../result.json", "w")),
            "network": tried(lambda: socket.create_connection(("127.0.0.1", 1), 1)),
        }}
        open("model.onnx", "w").write("x")
        open("metrics.json", "w").write(json.dumps(found))
        """
    )
    assert set(trained.metrics.values()) == {0.0}
    assert bench.secret.read_text() == "key"


def test_what_a_trainer_says_is_written_down_while_it_works() -> None:
    noted: list[Mapping[str, Any]] = []
    seconds = [0.0]
    said = Said(noted.append, monotonic=lambda: seconds[0])
    said.look()
    assert noted == [], "nothing is new"
    for number in range(40):  # ten looks a second
        seconds[0] = number / 10
        said.add(b"epoch %d \xff\x00" % number)
        said.take({"loss": 1 / (1 + number)})
        said.look()
    assert [one["log"].count("\n") for one in noted] == [1, 11, 21, 31]
    assert noted[1]["metrics"] == {"loss": 1 / 11}
    assert "\x00" not in noted[-1]["log"]
    for number in range(2 * METRICS_MAX):
        said.take({str(number): 1.0})
    said.take({"loss": 0.5})
    said.add(b"x" * 10 * LOG_MAX)
    assert (len(said.metrics), said.metrics["loss"]) == (METRICS_MAX, 0.5)
    assert len(said.text) == LOG_MAX


def test_a_trainer_is_cancelled(bench: Bench) -> None:
    bench.stop = True
    with pytest.raises(PipelineCancelled):
        bench.run("time.sleep(60)")


def test_the_file_of_trainers(tmp_path: Path) -> None:
    path = tmp_path / "trainers.toml"
    assert load_trainers("") == {}
    path.write_text('[trainer.finetune]\ncommand = ["/bin/true"]\nreads = ["/opt"]\n')
    assert load_trainers(str(path))["finetune"].command == ("/bin/true",)
    for text in (
        '[trainer.head]\ncommand = ["/bin/true"]',
        '[trainer.x]\ncommand = ["true"]',
        "[trainer.x]\ncommand = []",
        '[trainer.x]\ncommand = ["/bin/true"]\nshell = true',
        '[trainer."../x"]\ncommand = ["/bin/true"]',
        '[trainer.x]\ncommand = ["/bin/true"]\nreads = ["opt"]',
        "[trainer",
    ):
        path.write_text(text)
        with pytest.raises(TrainersInvalid):
            load_trainers(str(path))
    with pytest.raises(TrainersInvalid):
        load_trainers(str(tmp_path / "absent"))
