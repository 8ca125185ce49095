"""Local inference: processor time of a request beside the runtime's own on the same input.

The inference process is the one that serves on a device; its processor time is read from the
kernel, so that the client's does not count. Raw onnxruntime is a session with the same options in
this process. Both see the same real input, in turns, in the same run. Then the activity model is
swapped for another version of itself while clients ask without a pause.

    python -m benchmarks.inference
"""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import numpy as np
import onnxruntime

from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.runtime import Model
from edgectl_protocol.manifest import (
    BundleConfig,
    Golden,
    Lineage,
    Quantization,
    Scores,
    TensorSpec,
    Tolerance,
)
from edgectl_protocol.names import digest_of

ACTIVITY = Path(__file__).parents[1] / "server" / "edgectl" / "demo" / "activity"
ROUNDS = 5
REQUESTS = 2000
WARM_UP = 200
SWAPS = 10
CLIENTS = 2
_TICKS = os.sysconf("SC_CLK_TCK")


class Case(NamedTuple):
    """A model and one input for it."""

    name: str
    bundle: Bundle
    inputs: dict[str, np.ndarray[Any, Any]]


def activity_bundle(folder: Path) -> Bundle:
    """Return a bundle of the activity model that comes with edgectl, with real golden inputs."""
    return _bundle(folder, "activity", ACTIVITY / "har_v1.onnx", activity_window())


def activity_window() -> np.ndarray[Any, Any]:
    """Return one real window of acceleration, (1, 6, 128) float32."""
    with np.load(ACTIVITY / "eval.npz") as data:
        window: np.ndarray[Any, Any] = data["input"][:1]
    return window


def main() -> int:
    """Measure, print the comparison, end with one line of JSON."""
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as name:
        folder = Path(name)
        process = InferenceProcess(host="127.0.0.1", port=0, socket=folder / "inference.sock")
        process.start()
        try:
            cases = [
                Case("activity", activity_bundle(folder), {"input": activity_window()}),
                _tiny(folder),
            ]
            results = [_measure(process, folder, case) for case in cases]
            swaps = _swap(process, cases[0])
        finally:
            process.stop()
    print(
        f"CPU microseconds of one request, median of {ROUNDS} rounds of {REQUESTS} in turns;\n"
        f"onnxruntime {onnxruntime.__version__}, 1 thread, {platform.machine()}, "
        f"Python {platform.python_version()}\n"
    )
    print(f"{'model':<10}{'body':>8}{'raw run':>10}{'TCP':>8}{'ratio':>8}{'Unix':>8}{'ratio':>8}")
    for row in results:
        print(
            f"{row['model']:<10}{row['request_bytes']:>8}{row['raw_us']:>10.0f}"
            f"{row['tcp_us']:>8.0f}{row['tcp_us'] / row['raw_us']:>8.1f}"
            f"{row['unix_us']:>8.0f}{row['unix_us'] / row['raw_us']:>8.1f}"
        )
    print("\nbeyond the run itself, TCP: " + ", ".join(
        f"{row['model']} {row['tcp_us'] - row['raw_us']:.0f} us" for row in results
    ))  # fmt: skip
    print(
        f"\n{SWAPS} hot swaps under {CLIENTS} clients: {swaps['failed']} of {swaps['requests']} "
        f"requests failed; slowest {swaps['slowest_ms']:.1f} ms, "
        f"median {swaps['median_ms']:.2f} ms; loading took {swaps['load_ms']:.0f} ms"
    )
    print(json.dumps({"benchmark": "inference", "models": results, "swaps": swaps}))
    return 0


def _measure(process: InferenceProcess, folder: Path, case: Case) -> dict[str, Any]:
    process.load(case.bundle)
    raw = Model(case.bundle, threads=1)
    request = _request(case)
    port = urlsplit(process.endpoint).port
    assert port is not None
    tcp = socket.create_connection(("127.0.0.1", port))
    unix = socket.socket(socket.AF_UNIX)
    unix.connect(str(folder / "inference.sock"))
    assert process._child is not None  # noqa: SLF001  # whose time is measured
    pid = process._child.pid  # noqa: SLF001
    sides: dict[str, tuple[Callable[[], object], Callable[[], float]]] = {
        "raw_us": (lambda: raw.run(case.inputs), time.process_time),
        "tcp_us": (lambda: _ask(tcp, request), lambda: _processor_s(pid)),
        "unix_us": (lambda: _ask(unix, request), lambda: _processor_s(pid)),
    }
    seen: dict[str, list[float]] = {name: [] for name in sides}
    with tcp, unix:
        for work, _ in sides.values():
            for _ in range(WARM_UP):
                work()
        for _ in range(ROUNDS):
            for name, (work, clock) in sides.items():
                before = clock()
                for _ in range(REQUESTS):
                    work()
                seen[name].append((clock() - before) / REQUESTS * 1e6)
    return {
        "model": case.name,
        "model_bytes": Path(case.bundle.model).stat().st_size,
        "request_bytes": len(request),
        **{name: round(statistics.median(values), 1) for name, values in seen.items()},
    }


def _swap(process: InferenceProcess, case: Case) -> dict[str, Any]:
    """Swap under load and return what the clients saw."""
    request = _request(case)
    port = urlsplit(process.endpoint).port
    stop = threading.Event()
    seconds: list[float] = []
    failures: list[str] = []

    def client() -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            while not stop.is_set():
                started = time.perf_counter()
                try:
                    _ask(connection, request)
                except (OSError, AssertionError) as error:
                    failures.append(repr(error))
                    return
                seconds.append(time.perf_counter() - started)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    loads = []
    for number in range(SWAPS):
        asked = len(seconds)
        while len(seconds) < asked + 100 and not failures:
            time.sleep(0.001)
        version = msgspec.structs.replace(
            case.bundle, version=f"swap-{number}", manifest=digest_of(str(number).encode())
        )
        loads.append(process.load(version))
    stop.set()
    for thread in threads:
        thread.join()
    return {
        "requests": len(seconds) + len(failures),
        "failed": len(failures),
        "slowest_ms": round(max(seconds) * 1000, 2),
        "median_ms": round(statistics.median(seconds) * 1000, 3),
        "load_ms": round(statistics.median(loads), 2),
    }


def _ask(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), received
    length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)


def _processor_s(pid: int) -> float:
    """Return user and system time of a process, all of its threads, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _request(case: Case) -> bytes:
    body = json.dumps(
        {
            "inputs": [
                {
                    "name": name,
                    "shape": list(values.shape),
                    "datatype": "FP32",
                    "data": values.ravel().tolist(),
                }
                for name, values in case.inputs.items()
            ]
        }
    ).encode()
    head = f"POST /v2/models/{case.bundle.slot}/infer HTTP/1.1\r\nHost: localhost\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _tiny(folder: Path) -> Case:
    """A dense layer, 64 to 10: what is left is the cost of asking."""
    from onnx import TensorProto, helper, numpy_helper, save

    random = np.random.default_rng(1)
    weight = numpy_helper.from_array(random.normal(size=(64, 10)).astype(np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weight"], ["logits"])],
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, folder / "tiny.onnx")
    values = random.normal(size=(1, 64)).astype(np.float32).round(3)
    return Case("tiny", _bundle(folder, "tiny", folder / "tiny.onnx", values), {"input": values})


def _bundle(folder: Path, slot: str, model: Path, values: np.ndarray[Any, Any]) -> Bundle:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": values})
    golden = folder / f"{slot}.npz"
    np.savez(golden, **{"input.input": values, "output.logits": logits})
    return Bundle(
        slot=slot,
        version="1",
        variant="fp32",
        manifest=digest_of(model.read_bytes()),
        model=str(model),
        golden=str(golden),
        config=BundleConfig(
            model=slot,
            version="1",
            variant="fp32",
            runtime="onnxruntime",
            format="onnx",
            precision="fp32",
            inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, *values.shape[1:])),),
            outputs=(TensorSpec(name="logits", datatype="FP32", shape=(-1, logits.shape[1])),),
            golden=Golden(cases=1, tolerances={"logits": Tolerance(atol=1e-4, rtol=1e-4)}),
            quantization=Quantization(recipe="fp32"),
            lineage=Lineage(source=digest_of(model.read_bytes())),
            scores=Scores(output="logits", kind="logits"),
        ),
    )


if __name__ == "__main__":
    raise SystemExit(main())
