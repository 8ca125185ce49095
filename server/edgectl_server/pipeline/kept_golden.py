"""Golden inputs of the parent version: kept where they show a wrong model as well as new ones.

Golden inputs are most of what devices fetch beside a model. Where a version has those of its
parent, only the outputs are new, and devices fetch no more than these. They are kept if

- they are inputs of the same names, types and shapes, and as many as would be chosen now;
- all answers of the new fp32 model to them are numbers;
- with class scores: those of every class spread over at least half of what they do for the ones
  that would be chosen, so that a class that is damaged shows as well; and no call is so close that
  another processor would turn a good model down;
- without: what it answers to them spreads over at least half of what it answers to those.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from edgectl_protocol.manifest import Scores
from edgectl_server.pipeline.data import Array, Samples
from edgectl_server.pipeline.execution import Outputs
from edgectl_server.pipeline.golden_cases import (
    answer_spread,
    score_spreads,
    some_are_too_close,
)

__all__ = ["Cases", "Judged", "judge_kept", "read_kept"]

_SPREAD_MIN = 0.5
_INPUT = "input."


class Cases(NamedTuple):
    """Golden inputs, and what the new fp32 model answers to them, one row a case."""

    samples: Samples
    answers: Outputs


class Judged(Struct, frozen=True):
    """Why the inputs are not kept; empty: they are."""

    problem: str = ""


def read_kept(path: Path, samples: Samples, *, count: int, bytes_max: int) -> Samples | None:
    """Return the parent's golden inputs, if the new version takes them and there are enough.

    Args:
        path: ``golden.npz`` of the parent.
        samples: of the new version.
        count: how many cases there are to be.
        bytes_max: the most that the file may hold, unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(one.file_size for one in archive.infolist()) > bytes_max:
                return None
        with np.load(path, allow_pickle=False) as arrays:
            names = {one.removeprefix(_INPUT) for one in arrays.files if one.startswith(_INPUT)}
            if names != set(samples.inputs):
                return None
            inputs: Mapping[str, Array] = {name: arrays[_INPUT + name] for name in samples.inputs}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    for name, array in inputs.items():
        own = samples.inputs[name]
        if array.dtype != own.dtype or array.shape[1:] != own.shape[1:] or len(array) != count:
            return None
    return Samples(role=samples.role, inputs=dict(inputs), digest=samples.digest)


def judge_kept(kept: Cases, chosen: Cases, scores: Scores | None) -> Judged:
    """Say whether inputs are kept.

    Args:
        kept: the parent's.
        chosen: what would be chosen now.
        scores: the output of class scores, if there is one.
    """
    answers = kept.answers
    for name, array in answers.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return Judged(f"output {name} is no number for some of them")
    if scores is not None:
        if some_are_too_close(answers, scores):
            return Judged("some calls are too close for another processor")
        shown, wanted = (score_spreads(one.answers, scores) for one in (kept, chosen))
        alike = np.flatnonzero(shown < _SPREAD_MIN * wanted)
        if len(alike):
            return Judged(f"scores of class {alike[0]} are too much alike")
        return Judged()
    before, now = (answer_spread(one.samples.inputs, one.answers) for one in (kept, chosen))
    if before < _SPREAD_MIN * now:
        return Judged("answers to them are too much alike")
    return Judged()
