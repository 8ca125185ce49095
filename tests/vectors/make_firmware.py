"""Write firmware.json: ``python tests/vectors/make_firmware.py``, from the root of the repository.

The key is made of a fixed seed: for tests alone.
"""

import base64
import json
import sys
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from edgectl_server.pipeline.flat_bundle import (  # noqa: E402
    HEADER_BYTES,
    MicrocontrollerBundle,
    make_microcontroller_bundle,
)
from edgectl_server.pipeline.flat_reference import run_flat  # noqa: E402
from edgectl_server.pipeline.flat_writing import encode_flat  # noqa: E402
from firmware.crafted_flat import random_model, tiny_model  # noqa: E402

SEED = bytes(range(32))
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
NAME = "tiny"


def text(content):
    """Return bytes as JSON has them."""
    return base64.b64encode(content).decode()


def answers(model, count, seed):
    """Return inputs at random, and the outputs to them."""
    first = model.tensors[model.input]
    shape = (count, first.channels, first.height, first.width)
    values = np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)
    return values, run_flat(model, values)


def bundle(model, counter, *, wrong=False, name=NAME):
    """Return a bundle of a tiny model; wrong: its golden outputs are not the model's."""
    values, outputs = answers(model, 4, counter)
    cases = tuple(
        (one.tobytes(), (two ^ 1 if wrong else two).tobytes())
        for one, two in zip(values, outputs, strict=True)
    )
    content = MicrocontrollerBundle(name, counter, cases, encode_flat(model))
    return make_microcontroller_bundle(content, KEY.sign)


def models():
    """Yield flat models with inputs and outputs."""
    for seed in range(24):
        model = random_model(seed)
        values, outputs = answers(model, 3, seed)
        yield {
            "name": f"random {seed}",
            "model": text(encode_flat(model)),
            "inputs": text(values.tobytes()),
            "outputs": text(outputs.tobytes()),
        }


def bundles():
    """Yield bundles, with what a device that runs nothing yet says of them (core/status.h)."""
    good = bundle(tiny_model(1), 1)
    yield "v1", good, "EDGECTL_OK"
    yield "v2", bundle(tiny_model(2), 2), "EDGECTL_OK"
    yield "bad", bundle(tiny_model(3), 2, wrong=True), "EDGECTL_NO_MODEL"
    yield "of another model", bundle(tiny_model(1), 1, name="tinier"), "EDGECTL_OTHER_MODEL"
    for what, at, status in (
        ("magic", 0, "EDGECTL_BAD_BUNDLE"),
        ("counter", 8, "EDGECTL_BAD_SIGNATURE"),
        ("digest", 96, "EDGECTL_BAD_SIGNATURE"),
        ("signature", 160, "EDGECTL_BAD_SIGNATURE"),
        ("golden case", HEADER_BYTES, "EDGECTL_BAD_PAYLOAD"),
        ("model", len(good) - 1, "EDGECTL_BAD_PAYLOAD"),
    ):
        damaged = bytearray(good)
        damaged[at] ^= 1
        yield f"a bit of the {what} is wrong", bytes(damaged), status
    yield "cut off", good[:-1], "EDGECTL_BAD_PAYLOAD"
    yield "header alone", good[:HEADER_BYTES], "EDGECTL_BAD_PAYLOAD"


def main():
    """Write the file."""
    document = {
        "about": "docs/firmware-format.md; bytes are base64, values int8, sample behind sample",
        "key": text(KEY.public_key().public_bytes_raw()),
        "name": NAME,
        "models": list(models()),
        "bundles": [
            {"name": name, "bundle": text(content), "status": status}
            for name, content, status in bundles()
        ],
    }
    path = ROOT / "tests/vectors/firmware.json"
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
