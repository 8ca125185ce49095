"""Infer requests and answers in binary form, written and read by the letter of the extension."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from agent.inference.models import KINDS, Array, Client

LENGTH = "Inference-Header-Content-Length"


def raw_of(values: Array) -> bytes:
    """Return a tensor in binary form."""
    if values.dtype.kind not in "UO":
        return values.tobytes()
    texts = [str(value).encode() for value in values.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def tensor_of(name: str, datatype: str, values: Array) -> tuple[dict[str, Any], bytes]:
    """Return an input's description and its bytes."""
    raw = raw_of(values)
    described = {
        "name": name,
        "shape": list(values.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": len(raw)},
    }
    return described, raw


def body_of(*tensors: tuple[dict[str, Any], bytes], **changes: Any) -> tuple[bytes, dict[str, str]]:
    """Return a request's body and headers."""
    request = {"inputs": [described for described, _ in tensors], **changes}
    header = json.dumps(request).encode()
    return header + b"".join(raw for _, raw in tensors), {LENGTH: str(len(header))}


def ask(client: Client, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any, Any]:
    """Return status, the answer's JSON object and the arrays that follow it, by output."""
    status, answered, content = client.ask("POST", path, body, headers)
    if LENGTH not in answered:
        assert answered["Content-Type"] == "application/json"
        return status, json.loads(content), {}
    assert answered["Content-Type"] == "application/octet-stream"
    length = int(answered[LENGTH])
    found, rest = json.loads(content[:length]), content[length:]
    arrays = {}
    for output in found["outputs"]:
        if "data" in output:
            continue
        size = output["parameters"]["binary_data_size"]
        raw, rest = rest[:size], rest[size:]
        assert len(raw) == size
        arrays[output["name"]] = array_of(raw, output["datatype"]).reshape(output["shape"])
    assert rest == b""
    return status, found, arrays


def array_of(raw: bytes, datatype: str) -> Array:
    """Return the flat array of a tensor in binary form."""
    if datatype != "BYTES":
        return np.frombuffer(raw, KINDS[datatype][1])
    texts = []
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        texts.append(raw[4 : 4 + length].decode())
        raw = raw[4 + length :]
    return np.array(texts)
