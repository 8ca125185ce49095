"""Trials that are known: what was made before, of the same files in the same way, is not repeated.

The parent lays what it remembers into the folder ``known`` of the run, and takes from there what is
new. A trial is two files: ``<recipe>.json``, what was measured with the digest of the model, and
``<recipe>.onnx``; only the first where the recipe had nothing to do. What does not fit together is
made anew. Without that folder nothing is remembered: the models of an encrypted push are not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path

import msgspec
from msgspec import Struct

from edgectl_server.pipeline.gates import Evidence
from edgectl_server.pipeline.processor import saturates
from edgectl_server.pipeline.spec import PipelineSpec

__all__ = ["KNOWN_FOLDER", "Measured", "recall", "remember", "trial_key"]

KNOWN_FOLDER = "known"
_TOOLS = ("edgectl", "numpy", "onnx", "onnxruntime")
_OF_THE_CHOICE = frozenset(
    {
        *("model", "version", "max_drop_points", "precisions", "labels", "recipes", "objective"),
        *("requirements", "allowed", "allowed_by", "replaced", "part", "parts"),
        *("runtimes", "converted"),
        *("update_budget_points", "parents", "kept"),
    }
)
"""What a trial does not depend on; of requirements it has the readings, and not the bounds."""


class Measured(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a trial gives; `skipped` says why there was nothing to do."""

    size_bytes: int = 0
    evidence: Evidence | None = None
    update_bytes: int | None = None
    skipped: str = ""
    digest: str = ""
    """Of the model, of a trial that is remembered."""
    known: bool = False


def trial_key(spec: PipelineSpec) -> str:
    """Return what the results of trials depend on, besides the recipe, as one digest.

    That is every field of the spec but those that are about the choice, files by their content.
    """
    fields: dict[str, object] = {}
    for name in set(spec.__struct_fields__) - _OF_THE_CHOICE - {"limits"}:
        value = getattr(spec, name)
        fields[name] = _digest(value) if isinstance(value, Path) else msgspec.to_builtins(value)
    limits = spec.limits
    replaced = None if spec.replaced is None else spec.replaced.model
    facts = {
        "fields": fields,
        "samples": [limits.calibration_samples_max, limits.evaluation_samples_max],
        "readings": sorted({one.name for one in spec.requirements}),
        "replaced": None if replaced is None else _digest(replaced),
        "saturates": saturates(),
        "tools": {name: version(name) for name in _TOOLS},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def recall(directory: Path, recipe: str, target: Path) -> Measured | None:
    """Return what is known of a trial and write its model to `target`; None if it is not known."""
    known = directory / KNOWN_FOLDER
    try:
        measured = msgspec.json.decode((known / f"{recipe}.json").read_bytes(), type=Measured)
        if not measured.skipped:
            shutil.copyfile(known / f"{recipe}.onnx", target)
    except (OSError, msgspec.MsgspecError):
        return None
    if not measured.skipped and _digest(target) != measured.digest:
        target.unlink()
        return None
    return msgspec.structs.replace(measured, known=True)


def remember(directory: Path, recipe: str, target: Path, measured: Measured) -> Measured:
    """Lay a trial into the folder, where there is one, and return it."""
    known = directory / KNOWN_FOLDER
    if known.is_dir():
        digest = ""
        if not measured.skipped:
            digest = _digest(target)
            shutil.copyfile(target, known / f"{recipe}.onnx")
        kept = msgspec.structs.replace(measured, digest=digest)
        (known / f"{recipe}.json").write_bytes(msgspec.json.encode(kept))
    return measured


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
