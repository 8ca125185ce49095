"""A client that costs little: one keep-alive connection, requests made once, answers read whole."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from benchmarks.device.cases import Case

__all__ = ["ask", "binary_request", "connect", "json_request", "processor_s"]

_READ_BYTES = 262_144


def connect(where: str | int) -> socket.socket:
    """Return a connection to a port on loopback, or to a Unix socket."""
    if isinstance(where, int):
        connection = socket.create_connection(("127.0.0.1", where), timeout=30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30)
    connection.connect(where)
    return connection


def ask(connection: socket.socket, request: bytes) -> bytes:
    """Send a request and return the answer's body; anything but 200 is an AssertionError."""
    connection.sendall(request)
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += _read(connection)
    head = bytes(received[:end]).lower()
    assert head.startswith(b"http/1.1 200"), bytes(received[:500])
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(received) < end + 4 + length:
        received += _read(connection)
    return bytes(received[end + 4 :])


def json_request(case: Case) -> bytes:
    """Return an infer request with the tensor as JSON."""
    tensor = {**_tensor(case), "data": case.input.ravel().tolist()}
    return _request(case, json.dumps({"inputs": [tensor]}).encode(), "")


def binary_request(case: Case) -> bytes:
    """Return an infer request with the tensor, and that of the answer, in binary."""
    data = case.input.tobytes()
    tensor = {**_tensor(case), "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return _request(case, head + data, f"Inference-Header-Content-Length: {len(head)}\r\n")


def processor_s(pid: int) -> float:
    """Return the processor time of a process, all of its present threads, in seconds.

    Source: the kernel's ``Documentation/scheduler/sched-stats.rst``: the first number, nanoseconds.
    """
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(one.read_text("ascii").split()[0]) for one in threads) / 1e9


def _tensor(case: Case) -> dict[str, object]:
    return {"name": "input", "shape": list(case.input.shape), "datatype": "FP32"}


def _request(case: Case, body: bytes, headers: str) -> bytes:
    head = f"POST /v2/models/{case.name}/infer HTTP/1.1\r\nHost: localhost\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _read(connection: socket.socket) -> bytes:
    part = connection.recv(_READ_BYTES)
    assert part, "the server has closed the connection"
    return part
