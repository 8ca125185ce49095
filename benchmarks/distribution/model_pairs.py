"""Pairs of model versions as a fleet meets them: fp32, and what the pipeline makes of it.

Each family is a released model and its successors. The fp16 and int8 files are made by the
pipeline's own functions: int8 once with ranges and scales of its own, and once with the scales of
the released version (``int8-parent``), as a push with a parent makes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgectl_server.pipeline.checks import check_model, parse_model
from edgectl_server.pipeline.cleaning import clean
from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.recipes import RECIPES, calibrate, make
from edgectl_server.pipeline.spec import PipelineLimits

__all__ = ["Family", "Pair", "as_input", "families", "make_pairs"]

_CALIBRATION_MAX = 256
_INT8 = "int8-static-minmax-per-channel-reduced"
_IMAGE_MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)[:, None, None]
_IMAGE_STD = np.array([0.247, 0.2435, 0.2616], np.float32)[:, None, None]


@dataclass(frozen=True)
class Family:
    """A released model, its successors, and inputs for calibration."""

    name: str
    released: Path
    successors: tuple[Path, ...]
    calibration: Path


@dataclass(frozen=True)
class Pair:
    """Two versions of one file; `change` is what was trained: ``head``, ``light``, ``full``, …."""

    family: str
    precision: str
    change: str
    base: Path
    target: Path

    @property
    def name(self) -> str:
        """Unique among pairs."""
        return f"{self.family} {self.precision} {self.change}"


def families(folder: Path) -> Iterator[Family]:
    """Yield the families below `folder`: ``<name>_v1.onnx`` beside ``<name>_<change>.onnx``."""
    for released in sorted(folder.glob("*/*_v1.onnx")):
        stem = released.name.removesuffix("_v1.onnx")
        others = [path for path in released.parent.glob(f"{stem}_*.onnx") if path != released]
        calibration = sorted(released.parent.glob("calibration*.npz"))
        if others and calibration:
            yield Family(stem, released, tuple(sorted(others)), calibration[0])


def make_pairs(family: Family, scratch: Path) -> Iterator[Pair]:
    """Write the files of a family into `scratch` and yield its pairs."""
    samples = _samples(family)
    made = _Maker(scratch, samples)
    base = made.variants(family.released, None)
    for successor in family.successors:
        change = successor.stem.rsplit("_", 1)[1]
        targets = made.variants(successor, base["int8"])
        for precision, target in targets.items():
            parent = base["int8" if precision == "int8-parent" else precision]
            yield Pair(family.name, precision, change, parent, target)


def _samples(family: Family) -> Samples:
    """Return calibration inputs as the released model takes them."""
    session_input = onnx.load(family.released).graph.input[0].name
    with np.load(family.calibration) as data:
        name = next(name for name in data if data[name].ndim > 1)
        values: Any = data[name][:_CALIBRATION_MAX]
    return Samples(role="calibration", inputs={session_input: as_input(values)})


def as_input(values: Any) -> Any:
    """Return data as the models take it: pictures normalized, all as float32."""
    if values.dtype == np.uint8:
        values = (values.astype(np.float32) / 255 - _IMAGE_MEAN) / _IMAGE_STD
    return values.astype(np.float32)


class _Maker:
    """Makes the variants of one family in a folder."""

    def __init__(self, scratch: Path, samples: Samples) -> None:
        self._scratch = scratch
        self._samples = samples

    def variants(self, model: Path, parent: Path | None) -> dict[str, Path]:
        """Return the file of each precision: fp32, fp16, int8, and int8-parent with a parent."""
        folder = self._scratch / model.stem
        folder.mkdir(exist_ok=True)
        cleaned, cache = folder / "cleaned.onnx", folder / "ranges"
        if not cleaned.exists():
            self._clean(model, folder)
        if not cache.exists():
            calibrate("minmax", cleaned, cache, self._samples)
        found = {"fp32": model}
        recipes = {recipe.name: recipe for recipe in RECIPES}
        wanted = {"fp16": recipes["fp16"], "int8": recipes[_INT8]}
        if parent is not None:
            wanted["int8-parent"] = recipes[_INT8].of_parent()
        for precision, recipe in wanted.items():
            found[precision] = folder / f"{precision}.onnx"
            if not found[precision].exists():
                make(recipe, cleaned, found[precision], cache, parent=parent)
        return found

    def _clean(self, model: Path, folder: Path) -> None:
        limits = PipelineLimits()
        loaded = parse_model(model.read_bytes(), limits)
        made = clean(loaded, folder, check_model(loaded, limits).inputs, self._samples)
        if made.path.name != "cleaned.onnx":
            (folder / "cleaned.onnx").write_bytes(made.path.read_bytes())
