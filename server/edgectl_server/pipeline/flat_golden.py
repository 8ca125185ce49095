"""Golden cases of a microcontroller's variant, as values; and the file that the server signs."""

from __future__ import annotations

from pathlib import Path

from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.flat_bundle import MicrocontrollerBundle, make_microcontroller_bundle
from edgectl_server.pipeline.flat_reading import decode_flat
from edgectl_server.pipeline.flat_reference import quantize, run_flat

__all__ = ["CASES_MAX", "write_unsigned"]

CASES_MAX = 4
"""Each is computed at the boot that is the trial, and takes room in flash."""
_NAME, _COUNTER = "unsigned", 1
_NO_SIGNATURE = bytes(64)


def write_unsigned(path: Path, file: bytes, cases: Samples) -> None:
    """Write model and golden cases as a bundle that nobody has signed: name and counter come later.

    Args:
        path: where.
        file: the flat model.
        cases: inputs; of many the first.
    """
    model = decode_flat(file)
    (numbers,) = cases.inputs.values()
    values = quantize(numbers[:CASES_MAX], model.tensors[model.input])
    pairs = tuple(
        (one.tobytes(), two.tobytes())
        for one, two in zip(values, run_flat(model, values), strict=True)
    )
    bundle = MicrocontrollerBundle(_NAME, _COUNTER, pairs, file)
    path.write_bytes(make_microcontroller_bundle(bundle, lambda _: _NO_SIGNATURE))
