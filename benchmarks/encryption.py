"""What encryption costs: loading an encrypted model beside the same one plain, memory and bytes.

Each load is in a process of its own, as the inference process does it: read, open, hand to the
runtime, run once. Times are taken inside the process; memory is what it holds then, and the most
that it has held. The two are loaded in turns, so that both meet the same machine.

    python -m benchmarks.encryption [FOLDER]

FOLDER holds ``<name>_v1.onnx``. Default: the activity model that comes with edgectl, of 444 KB.
"""

from __future__ import annotations

import base64
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.device.cases import ACTIVITY
from edgectl_agent.inference.process import child_environment
from edgectl_protocol.names import digest_of
from edgectl_server.pipeline.encryption import encrypt_layer, make_content_key
from edgectl_server.signing.content_keys import ContentKeys

RUNS = 9
SEALS = 2000
CHILD = """
import base64, json, sys, time
from types import SimpleNamespace
import numpy as np
from edgectl_agent import runtime
from edgectl_agent.onnx_session import _open
from edgectl_agent.decryption import refuse_dumps
refuse_dumps()
path, key = json.loads(sys.stdin.readline())
content = None if key is None else bytearray(base64.b64decode(key))
if content is not None:
    import cryptography.hazmat.primitives.ciphers.aead
def status(field):
    for row in open("/proc/self/status"):
        if row.startswith(field + ":"):
            return int(row.split()[1]) * 1024
before = status("VmRSS")
started = time.perf_counter()
source, size = runtime._source(
    SimpleNamespace(key=content, model=path, config=SimpleNamespace(model_file="model.onnx"))
)
opened = time.perf_counter()
session = _open(source, 1)
del source
loaded = time.perf_counter()
inputs = {node.name: np.zeros([n if isinstance(n, int) else 1 for n in node.shape], np.float32)
          for node in session.get_inputs()}
session.run(None, inputs)
print(json.dumps({"open_ms": (opened - started) * 1e3, "load_ms": (loaded - started) * 1e3,
                  "idle_bytes": before, "held_bytes": status("VmRSS"),
                  "peak_bytes": status("VmHWM")}))
"""


def main(arguments: list[str]) -> int:
    """Measure, print the comparison, end with one line of JSON."""
    source = ACTIVITY / "har_v1.onnx"
    if arguments:
        source = next(iter(sorted(Path(arguments[0]).glob("*_v1.onnx"))))
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as name:
        folder = Path(name)
        model, sealed = folder / "model.onnx", folder / "model.onnx+encrypted"
        model.write_bytes(source.read_bytes())
        key = make_content_key()
        started = time.perf_counter()
        encrypt_layer(model, sealed, content_key=key, file="model.onnx")
        encrypt_ms = (time.perf_counter() - started) * 1000
        sizes = (model.stat().st_size, sealed.stat().st_size)
        runs: dict[str, list[dict[str, float]]] = {"plain": [], "encrypted": []}
        for _ in range(RUNS):
            runs["plain"].append(_load(model, None))
            runs["encrypted"].append(_load(sealed, key))
        seal_us, open_us = _sealing(folder)
    rows = {kind: _median(seen) for kind, seen in runs.items()}
    print(
        f"{source.name}, {sizes[0]} bytes; median of {RUNS} loads in turns; "
        f"onnxruntime {onnxruntime.__version__}, {platform.machine()}\n"
    )
    print(f"{'':<12}{'read+open ms':>13}{'load ms':>9}{'held MB':>9}{'peak MB':>9}")
    for kind, row in rows.items():
        print(
            f"{kind:<12}{row['open_ms']:>13.2f}{row['load_ms']:>9.1f}"
            f"{row['held_bytes'] / 1e6:>9.1f}{row['peak_bytes'] / 1e6:>9.1f}"
        )
    more = sizes[1] - sizes[0]
    print(
        f"\nbytes: {more} more, {more / sizes[0]:.3%}; encrypting took {encrypt_ms:.1f} ms\n"
        f"one key: sealed to a device in {seal_us:.0f} us on the server, opened in {open_us:.0f} us"
    )
    result = {"benchmark": "encryption", "model_bytes": sizes[0], "more_bytes": more, **rows}
    print(json.dumps({**result, "seal_us": seal_us, "open_us": open_us}))
    return 0


def _load(path: Path, key: bytes | None) -> dict[str, float]:
    text = None if key is None else base64.b64encode(key).decode()
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHILD],
        input=json.dumps([str(path), text]) + "\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=child_environment(),
    )
    seen: dict[str, float] = json.loads(done.stdout)
    return seen


def _sealing(folder: Path) -> tuple[float, float]:
    """Return the microseconds of sealing a key for a device, from the database's form, and back."""
    from edgectl_agent.keyring import Keyring

    server, device = ContentKeys.open(folder / "server"), Keyring(folder / "device", "pi-1")
    manifest, target = digest_of(b"manifest"), "models/har/1/int8"
    kept, recipient = server.keep(make_content_key(), manifest), device.public_key().hex()
    bound: dict[str, Any] = {"manifest": manifest, "target": target}
    started = time.process_time()
    for _ in range(SEALS):
        sealed = server.seal(kept, device="pi-1", recipient=recipient, **bound)
    sealing = time.process_time() - started
    started = time.process_time()
    for _ in range(SEALS // 10):
        device.open(sealed, **bound)
    opening = time.process_time() - started
    return round(sealing / SEALS * 1e6, 1), round(opening / (SEALS // 10) * 1e6, 1)


def _median(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
