"""A linear layer fitted anew, near to the one that serves: softmax regression with a prior.

What is minimised over the change (dW, db) of the layer, in units of each feature's spread::

    sum of w_i * cross entropy(t_i, softmax((W + dW) f_i + b + db)) + strength / 2 * |dW|^2

It is the maximum of the posterior under a Gaussian prior whose mean is the layer in service, so
that what the new rows say nothing about stays as it is. Rows are of two kinds: new ones with the
labels of people, and replayed ones of old data with the scores of the layer in service as targets
(Li and Hoiem, "Learning without Forgetting", IEEE TPAMI 40, 2018). SciPy's L-BFGS-B does the work:
scikit-learn's LogisticRegression has no other prior than zero, and no targets but classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from edgectl_server.training.heads import Weights

__all__ = ["Rows", "class_weights", "refit", "softmax"]

Floats = npt.NDArray[np.float64]
_ITERATIONS_MAX = 200
_SPREAD_FLOOR = 0.5
_WEIGHT_MAX = 5.0


class Rows(NamedTuple):
    """What a layer is fitted to.

    Attributes:
        features: [N, D].
        targets: [N, K], each row a distribution.
        weights: [N].
    """

    features: Floats
    targets: Floats
    weights: Floats


def softmax(logits: Floats) -> Floats:
    """Return the distribution of each row of `logits` [N, K]."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return result


def class_weights(labels: npt.NDArray[np.int64], classes: int) -> Floats:
    """Return a weight a row that has rare classes count as much as common ones, within bounds."""
    counts = np.bincount(labels, minlength=classes)
    present = counts[counts > 0]
    each = np.minimum(_WEIGHT_MAX, present.mean() / np.maximum(counts, 1))
    result: Floats = each[labels]
    return result


def refit(rows: Rows, before: Weights, strength: float) -> Weights:
    """Fit a layer.

    Args:
        rows: new and replayed ones together.
        before: the layer in service.
        strength: of the prior, greater than 0.

    Returns:
        The layer, float64.
    """
    features, targets, weights = rows
    classes, width = before.matrix.shape
    spread = features.std(axis=0)
    scale = spread + _SPREAD_FLOOR * max(float(spread.mean()), 1e-6)
    share = (weights / weights.sum())[:, None]
    scaled = features / scale
    base = features @ before.matrix.T + before.bias

    def loss(flat: Floats) -> tuple[float, Floats]:
        change = flat.reshape(classes, width + 1)
        likely = softmax(base + scaled @ change[:, :width].T + change[:, width])
        entropy = -(share * targets * np.log(likely + 1e-12)).sum()
        wrong = share * (likely - targets)
        slope = np.empty_like(change)
        slope[:, :width] = wrong.T @ scaled + strength * change[:, :width]
        slope[:, width] = wrong.sum(axis=0)
        return float(entropy + strength / 2 * (change[:, :width] ** 2).sum()), slope.ravel()

    found = minimize(
        loss,
        np.zeros(classes * (width + 1)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _ITERATIONS_MAX},
    )
    change = found.x.reshape(classes, width + 1)
    return Weights(before.matrix + change[:, :width] / scale, before.bias + change[:, width])
