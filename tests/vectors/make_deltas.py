"""Write deltas.json: ``python tests/vectors/make_deltas.py``, from the root of the repository."""

import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from edgectl_protocol.deltas import Codec  # noqa: E402
from edgectl_server.deltas import encoder, tensor_codec  # noqa: E402
from server.deltas.pairs import model, retrained, stepped, weights  # noqa: E402


def tensors(before, after, **options):
    """Return a case of the tensor codec."""
    base, target = model(before), model(after, **options)
    made = tensor_codec.encode_tensors(base, target)
    assert made is not None
    return base, target, encoder.write_delta(Codec.TENSOR, base, target, *made)


def cases():
    """Yield name, base, target and delta."""
    rng = np.random.default_rng(31)
    text = b"one version of a file, and then the next version of that file. " * 3
    for codec, limits in (("whole", encoder.DeltaLimits(patch_bytes_max=0)), ("patch", None)):
        target = text.replace(b"next", b"last")
        yield codec, text, target, encoder.encode(text, target, limits).content
    for kind in ("f32", "f16", "i8", "u8", "i32"):
        before = {"w": weights(rng, kind, (24, 20)), "same": weights(rng, kind, (30,))}
        after = before | {"w": retrained(rng, before["w"])}
        yield f"rows {kind}", *tensors(before, after)
    for kind in ("f32", "i8"):
        before = weights(rng, kind, (40, 40))
        low = np.outer(*rng.standard_normal((2, 40))) * np.abs(before.astype(float)).mean() / 9
        after = (before + low).astype(before.dtype)
        yield f"sum of products {kind}", *tensors({"w": before}, {"w": after})
    real = rng.standard_normal((48, 10))
    old = (np.abs(real).max(axis=1) / 127).astype(np.float32)
    new = (old * rng.uniform(0.7, 1.0, 48)).astype(np.float32)

    def quantized(scale, step):
        codes = np.clip(np.round(real / scale[:, None]), -127, 127).astype(np.int8)
        return {"w_scale": scale, "w_quantized": codes, "b_scale": scale * np.float32(step)}

    yield "ratio and product", *tensors(quantized(old, 0.5), quantized(new, 0.3))
    layers = {f"l{n}": weights(rng, "f32", (9, 9)) for n in range(3)}
    moved = {f"m{n}": retrained(rng, layers[f"l{n}"]) for n in (2, 0, 1)}
    yield "renamed", *tensors(layers, moved, name="other", nodes=5)
    yield from steps(np.random.default_rng(35))


def steps(rng):
    """Yield what goes in steps: of every kind, by tensor and by row, and with a sum of products."""
    for kind, size in (("f32", 3 / 1024), ("f16", 1 / 256), ("i32", 96)):
        before = weights(rng, kind, (12, 20))
        yield f"steps {kind}", *tensors({"w": before}, {"w": stepped(rng, before, size)})
    before = weights(rng, "f32", (20, 18))
    sizes = np.ldexp(2.0 + rng.integers(0, 2, 20), rng.integers(-12, -6, 20))
    yield "steps by row", *tensors({"w": before}, {"w": stepped(rng, before, sizes)})
    for kind, size in (("f32", 1 / 512), ("i8", 3), ("u8", 4)):
        before = weights(rng, kind, (40, 40))
        if kind != "f32":
            before = rng.integers(50, 70, (40, 40)).astype(before.dtype)
        product = np.clip(np.round(np.outer(*rng.standard_normal((2, 40))) * 5), -12, 12) * size
        moved = (before.astype(np.float64) + product).astype(before.dtype)
        yield f"steps, a sum of products {kind}", *tensors({"w": before}, {"w": moved})
    yield "steps bf16", *bfloat16(rng)


def bfloat16(rng):
    """Return a case of bfloat16, which NumPy does not know: the upper half of float32."""
    before = (weights(rng, "f32", (12, 20)).view(np.uint32) & 0xFFFF0000).view(np.float32)
    moved = stepped(rng, before, 1 / 128)
    halves = [(array.view(np.uint32) >> 16).astype(np.uint16) for array in (before, moved)]
    return tensors(*({"w": half.view(ml_dtypes.bfloat16)} for half in halves))


def main():
    """Write the file."""
    found = [
        {
            "name": name,
            "base_hex": base.hex(),
            "target_hex": target.hex(),
            "delta_hex": delta.hex(),
        }
        for name, base, target, delta in cases()
    ]
    about = "Deltas, see docs/deltas.md: a decoder makes the target from the base, byte for byte."
    path = ROOT / "tests/vectors/deltas.json"
    path.write_text(json.dumps({"about": about, "cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
