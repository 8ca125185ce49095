"""A server and agents a test; each on free ports, in folders of its own."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from e2e.fleet import Agent, Server, stopping
from once import made_once

ACTIVITY = Path(__file__).parents[2] / "server/edgectl/demo/activity"


@pytest.fixture(scope="session")
def activity():
    """The activity model and its data."""
    with np.load(ACTIVITY / "eval.npz") as data:
        windows, labels = data["input"], data["label"]
    return {
        "model": ACTIVITY / "har_v1.onnx",
        "calibration": ACTIVITY / "calibration.npz",
        "evaluation": ACTIVITY / "eval.npz",
        "windows": windows,
        "labels": labels,
    }


def dense_model(path: Path, layers: int, seed: int) -> Path:
    """Write a chain of dense layers of 1024 x 1024 random weights, 4 MiB each."""
    random = np.random.default_rng(seed)
    nodes, weights, last = [], [], "input"
    for number in range(layers):
        values = (random.standard_normal((1024, 1024)) / 32).astype(np.float32)
        weights.append(
            helper.make_tensor(
                f"w{number}", TensorProto.FLOAT, values.shape, values.tobytes(), raw=True
            )
        )
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"h{number}"]))
        last = f"h{number}"
    nodes.append(helper.make_node("Softmax", [last], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1024])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 1024])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def large_model(tmp_path_factory):
    """A valid model of 32 MB, long enough on its way to be interrupted."""

    def make(folder):
        return dense_model(folder / "large.onnx", layers=8, seed=1)

    return made_once(tmp_path_factory, "large-model", make)


@pytest.fixture(scope="session")
def pushed(tmp_path_factory):
    """``pushed(name, {version: model}, **options)``: the data folder of a server that has these.

    For tests that begin with versions and are about what comes then: pushing is the same work
    every time. It is done once, and each test starts its server on a copy:
    ``start.server(data=pushed(…))``.
    """

    def pushed_once(name, models, **options):
        def make(folder):
            server = Server(folder / "server")
            with stopping(server):
                server.start()
                for version, model in models.items():
                    ended = server.push(name, model, version, **options)
                    assert ended.state == "succeeded", ended.error
            return server.data

        return made_once(tmp_path_factory, "pushed", make, of=(name, models, options))

    return pushed_once


@pytest.fixture
def pushed_har(pushed, activity):
    """The data folder of a server that has version 1 of the activity model, as fp32 and int8."""
    data = {role: activity[role] for role in ("calibration", "evaluation")}
    return pushed("har", {"1": activity["model"]}, **data)


@pytest.fixture
def pushed_large(pushed, large_model):
    """The data folder of a server that has version 1 of `large_model`, as it is."""
    return pushed("large", {"1": large_model}, precisions=["fp32"])


def first_start(tmp_path_factory):
    """Return the data folder of a server that has been started for the first time, and no more."""

    def make(folder):
        server = Server(folder / "server")
        with stopping(server):
            server.start()
        return server.data

    return made_once(tmp_path_factory, "started", make)


@pytest.fixture(scope="session")
def started_once(tmp_path_factory):
    """What `first_start` returns."""
    return first_start(tmp_path_factory)


@pytest.fixture
def start(tmp_path, tmp_path_factory):
    """Start servers and agents; all are stopped at the end, the last first."""
    started = []

    class Starter:
        def server(self, name="server", *, data=None, first=False, **options):
            """Start a server on a copy of `data`.

            Without `data` it has nothing yet, but tables, keys and an administrator, which are the
            same work every time; it makes them itself where this is to be its `first` start, and
            where it has another name than the first server of the test: then it is another one.
            """
            if data is None and not first and name == "server":
                data = first_start(tmp_path_factory)
            if data is not None:
                shutil.copytree(data, tmp_path / name)
            server = Server(tmp_path / name, **options)
            started.append(server)
            server.start()
            return server

        def agent(self, server, device, *, token=None, state=None, **settings):
            agent = Agent(
                server,
                device,
                state or tmp_path / device,
                server.enrol_token() if token is None else token,
                **settings,
            )
            started.append(agent)
            agent.start()
            return agent

    yield Starter()
    for process in reversed(started):
        process.stop()


@pytest.fixture(params=["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
def broker(request):
    """Both brokers that the server can start by itself."""
    if (
        request.param == "mosquitto"
        and shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin") is None
    ):
        pytest.skip("mosquitto is not installed; packaging/install_test_packages.py installs it")
    return request.param
