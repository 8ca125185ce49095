"""The built-in trainer: the head of a classifier fitted anew on features of the model in service.

Steps: find the head in the graph (`heads`), compute the features of new rows and of replayed ones
(the calibration data of the last push, with the model's own answers as targets), fit with several
strengths of the prior and of the replay (`refit`), take the most cautious one that is as good as
the best, and write the weights into the same graph.

How good a fit is on new rows is told by cross-validation: of a few hundred labels none can be
spared, and a tenth of them would tell too little.

Nothing is fitted to the evaluation data; the choice between the few fits looks at the first half of
it, so that what old rows would lose is known. The dataset's test split is for the gates alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.data import Samples
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.execution import Runner
from edgectl_server.pipeline.scoring import find_scores
from edgectl_server.pipeline.spec import Progress
from edgectl_server.training.choice import Tried, choose
from edgectl_server.training.heads import (
    Head,
    Weights,
    find_head,
    read_weights,
    with_features,
    write_weights,
)
from edgectl_server.training.inputs import load_optional, read_dataset, read_model, read_splits
from edgectl_server.training.refit import Rows, class_weights, refit, softmax
from edgectl_server.training.spec import (
    CALIBRATION,
    DATASET,
    EVALUATION,
    MODEL,
    OUT,
    SOURCE,
    Trained,
    TrainSpec,
)

__all__ = ["train_head"]

_LABELS_MIN = 20
_REPLAY_MAX = 2000
_GUARD_EVERY = 3
"""Each third replayed row is not learned from, and tells what changes for old data."""
_STRENGTHS: tuple[float, ...] = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
_REPLAYS: tuple[float, ...] = (16.0, 4.0, 1.0)
"""How much all old rows count, of what all new ones do."""
_FOLDS = 5
_LARGE = 5_000
"""Weights above which fewer combinations are tried, in fewer folds."""
_STRENGTHS_LARGE, _REPLAYS_LARGE, _FOLDS_LARGE = _STRENGTHS[::2], _REPLAYS[1:], 3
_FEATURES_FILE = "features.onnx"


class _Part(NamedTuple):
    """Rows as the head sees them: features [N, D], logits [N, K], and labels [N] of new ones."""

    features: npt.NDArray[np.float64]
    logits: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64] | None


def train_head(spec: TrainSpec, directory: Path, tell: Callable[[Progress], None]) -> Trained:
    """Train, and leave ``out/model.onnx``.

    Args:
        spec: of the run.
        directory: of the run, see `spec`.
        tell: told how far it is.

    Raises:
        PipelineRefused: ``training.no_head``, ``training.too_few``, ``training.dataset``,
            ``model.…``.
    """
    model, inputs = read_model(directory / SOURCE, spec.limits)
    new = _new_rows(read_splits(read_dataset(directory / DATASET, inputs), inputs))
    plain = Runner(directory / SOURCE, inputs)
    few = new.take(np.arange(_LABELS_MIN))
    scores = find_scores(plain.run(few), few.inputs)
    if scores is None:
        raise PipelineRefused(
            "training.no_head",
            "The model has no output of class scores.",
            "Name a trainer of your own: docs/training.md says what it gets and leaves.",
        )
    head = find_head(model, scores.output)
    before = read_weights(model, head)
    _check_labels(new, len(before.bias))
    tell(Progress(stage="features", message=head.features))
    features = directory / _FEATURES_FILE
    opened, seen = with_features(model, head)
    features.write_bytes(opened.SerializeToString())
    runner = Runner(features, inputs)
    old = load_optional(directory / CALIBRATION, "calibration", inputs, spec.limits)
    old = None if old is None else old.choose(_REPLAY_MAX, spec.seed)
    part = _part(runner, seen, new)
    replay = None if old is None else _part(runner, seen, old)
    guard = _guard(replay, _half(runner, seen, spec, directory, inputs))
    served = Tried(before, _right(before, part), _kept(before, guard))
    tried = list(_search(before, part, replay, guard, tell))
    best = choose(served, tried, spec.head.old_drop_points_max)
    write_weights(model, head, best.weights)
    (directory / OUT / MODEL).write_bytes(model.SerializeToString())
    return Trained(metrics=_metrics(served, best, replay))


def _new_rows(splits: dict[str, Samples]) -> Samples:
    """Return all that may be learned from: what would validate, cross-validation needs not."""
    given = [splits[name] for name in ("train", "validation") if name in splits]
    count = sum(one.count for one in given)
    if count < _LABELS_MIN:
        raise PipelineRefused(
            "training.too_few",
            f"The dataset has {count} labelled rows to learn from, {_LABELS_MIN} are needed.",
            "Label more samples and make a new dataset.",
        )
    return Samples(
        role="evaluation",
        inputs={
            name: np.concatenate([one.inputs[name] for one in given]) for name in given[0].inputs
        },
        labels=np.concatenate([one.labels for one in given if one.labels is not None]),
    )


def _check_labels(new: Samples, classes: int) -> None:
    assert new.labels is not None
    if new.labels.max() >= classes:
        raise PipelineRefused(
            "training.dataset",
            f"The dataset has a row of class {new.labels.max()}, the model has {classes}.",
            "Make a dataset with the classes of this model.",
        )


def _half(
    runner: Runner, head: Head, spec: TrainSpec, directory: Path, inputs: tuple[TensorSpec, ...]
) -> _Part | None:
    """Return the first half of the evaluation data, if it has classes as labels."""
    found = load_optional(directory / EVALUATION, "evaluation", inputs, spec.limits)
    if found is None or found.labels is None or found.labels.dtype != np.int64:
        return None
    return _part(runner, head, found.take(np.arange(max(1, min(found.count // 2, _REPLAY_MAX)))))


def _part(runner: Runner, head: Head, samples: Samples) -> _Part:
    found = runner.run(samples)
    return _Part(
        found[head.features].astype(np.float64),
        found[head.logits].astype(np.float64),
        samples.labels,
    )


def _search(
    before: Weights,
    new: _Part,
    replay: _Part | None,
    guard: _Part | None,
    tell: Callable[[Progress], None],
) -> Iterator[Tried]:
    """Yield a fit for each strength of the prior and of the replay, the most cautious first."""
    large = before.matrix.size > _LARGE
    replays = _REPLAYS_LARGE if large else _REPLAYS
    grid = [
        (strength, share)
        for strength in (_STRENGTHS_LARGE if large else _STRENGTHS)
        for share in (replays if replay is not None else (0.0,))
    ]
    folds = _FOLDS_LARGE if large else _FOLDS
    for number, (strength, share) in enumerate(grid):
        tell(Progress(stage="fit", message=f"prior {strength:g}, replay {share:g}",
                      done=number, total=len(grid)))  # fmt: skip
        right = np.zeros(len(new.features), np.bool_)
        for fold in range(folds):
            held = np.arange(len(right)) % folds == fold
            weights = refit(_rows(_take(new, ~held), replay, share), before, strength)
            right[held] = _right(weights, _take(new, held))
        weights = refit(_rows(new, replay, share), before, strength)
        yield Tried(weights, right, _kept(weights, guard))


def _take(part: _Part, chosen: npt.NDArray[np.bool_]) -> _Part:
    assert part.labels is not None
    return _Part(part.features[chosen], part.logits[chosen], part.labels[chosen])


def _rows(learn: _Part, replay: _Part | None, share: float) -> Rows:
    """Put new and replayed rows together; the replayed ones count `share` of the new ones."""
    assert learn.labels is not None
    classes = learn.logits.shape[1]
    weights = class_weights(learn.labels, classes)
    new = Rows(learn.features, np.eye(classes)[learn.labels], weights / weights.sum())
    if replay is None:
        return new
    kept = np.arange(len(replay.features)) % _GUARD_EVERY != 0
    features, targets = replay.features[kept], softmax(replay.logits[kept])
    old = np.full(len(features), share / max(1, len(features)))
    return Rows(
        np.concatenate([new.features, features]),
        np.concatenate([new.targets, targets]),
        np.concatenate([new.weights, old]),
    )


def _guard(replay: _Part | None, old: _Part | None) -> _Part | None:
    """Return the old rows by which fits are chosen: labelled ones, or replayed ones held back."""
    if old is not None or replay is None:
        return old
    held = np.arange(len(replay.features)) % _GUARD_EVERY == 0
    logits = replay.logits[held]
    return _Part(replay.features[held], logits, logits.argmax(axis=1))


def _right(weights: Weights, part: _Part) -> npt.NDArray[np.bool_]:
    answers = (part.features @ weights.matrix.T + weights.bias).argmax(axis=1)
    result: npt.NDArray[np.bool_] = answers == part.labels
    return result


def _kept(weights: Weights, guard: _Part | None) -> npt.NDArray[np.bool_]:
    return np.zeros(0, np.bool_) if guard is None else _right(weights, guard)


def _metrics(served: Tried, best: Tried, replay: _Part | None) -> dict[str, float]:
    before = served.weights
    change = best.weights.matrix - before.matrix
    norm = float(np.linalg.norm(before.matrix)) or 1.0
    return {
        "train_rows": float(len(best.right)),
        "replayed_rows": 0.0 if replay is None else float(len(replay.features)),
        "validation_accuracy": _share(best.right),
        "validation_accuracy_before": _share(served.right),
        "old_right": _share(best.kept),
        "old_right_before": _share(served.kept),
        "change_of_weights": round(float(np.linalg.norm(change)) / norm, 6),
        "parameters": float(best.weights.matrix.size + best.weights.bias.size),
    }


def _share(rows: npt.NDArray[np.bool_]) -> float:
    """Return the share that is true; 1 of no rows."""
    return round(float(rows.mean()), 6) if len(rows) else 1.0
