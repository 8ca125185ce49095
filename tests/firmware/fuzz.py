"""Run the fuzzers of the C core: ``make fuzz-firmware SECONDS=60``; needs clang with libFuzzer."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from firmware.programs import monocypher

HOST = Path(__file__).parent / "host"
VECTORS = Path(__file__).parent.parent / "vectors/firmware.json"
SANITIZE = "-fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all"
LONGEST = 24 * 1024


def serial_conversation(bundle: bytes) -> bytes:
    """Return what a gateway says to install a bundle and to run it, as `fuzz_link.c` takes it."""
    requests = [(1, b""), (2, bundle[:224])]
    for start in range(0, len(bundle), 4096):
        sector = bundle[start : start + 4096]
        digest = hashlib.sha512(b"another" + sector).digest()[:32]
        requests.append((3, struct.pack("<II", start, len(sector)) + digest))
        for at in range(start or 224, start + len(sector), 512):
            piece = sector[at - start : at - start + 512]
            requests.append((4, struct.pack("<I", at) + piece))
    requests += [(5, b""), (6, b""), (1, b""), (7, struct.pack("<I", 0) + b"abcd"), (8, b"")]
    requests.append((9, struct.pack("<II", 0, 4)))
    return b"\1" + b"".join(
        struct.pack("<BH", kind, len(payload)) + payload for kind, payload in requests
    )


def main(seconds: int) -> int:
    """Run each fuzzer for some seconds, from the golden vectors on; 1: one has found something."""
    vectors = json.loads(VECTORS.read_text())
    corpora = {
        "model": ("models", "model"),
        "bundle": ("bundles", "bundle"),
        "journal": (),
        "json": (),
        "golden": (),
        "contract": (),
        "link": (),
    }
    with tempfile.TemporaryDirectory() as scratch:
        build = Path(scratch, "build")
        subprocess.run(
            ["make", "--silent", "fuzzers", "CC=clang", f"BUILD={build}",
             f"MONOCYPHER={monocypher()}", f"SANITIZE={SANITIZE}"],
            cwd=HOST, check=True,
        )  # fmt: skip
        for name, keys in corpora.items():
            corpus = Path(scratch, name)
            corpus.mkdir()
            for number, one in enumerate(vectors[keys[0]] if keys else ()):
                (corpus / str(number)).write_bytes(base64.b64decode(one[keys[1]]))
            if name == "link":
                for number, one in enumerate(vectors["bundles"]):
                    content = serial_conversation(base64.b64decode(one["bundle"]))
                    (corpus / str(number)).write_bytes(content)
            command: list[str | Path] = [
                build / f"fuzz_{name}", f"-max_total_time={seconds}", f"-max_len={LONGEST}",
                "-print_final_stats=1", f"-artifact_prefix=found-{name}-", corpus,
            ]  # fmt: skip
            if subprocess.run(command, check=False).returncode:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
