"""What a model has answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np

from edgectl_agent.inference.hub_messages import CLASSES_MAX, ROWS_MAX
from edgectl_agent.sdk.errors import SdkError
from edgectl_agent.session import Tensor
from edgectl_protocol.manifest import Scores, TensorSpec

__all__ = ["Answered", "Prediction", "Row", "classes_of", "rows_of"]

Row = tuple[int, float]
"""Class index and confidence, 0 to 1, of one row of scores."""


class Described(Protocol):
    """What of a bundle's description predictions are read by."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, datatype and shape of each."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The same."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def scores(self) -> Scores | None:
        """Which output holds one score a class."""


class Answered:
    """Which model has answered; shared by all of its predictions."""

    __slots__ = ("config", "manifest", "variant", "version")

    def __init__(self, *, version: str, variant: str, manifest: str, config: Described) -> None:
        self.version = version
        self.variant = variant
        self.manifest = manifest
        self.config = config


class Prediction(Mapping[str, Tensor]):
    """The outputs of one run, by name: ``prediction["logits"]``.

    Everything else is worked out when it is asked for.
    """

    __slots__ = ("_answered", "_seen", "_values")

    def __init__(
        self,
        answered: Answered,
        values: Mapping[str, Tensor],
        seen: list[float] | tuple[Row, ...],
    ) -> None:
        """Keep what is known.

        Args:
            answered: which model has answered.
            values: outputs by name.
            seen: the scores of the only row, or the rows as they were worked out.
        """
        self._answered = answered
        self._values = values
        self._seen = seen

    def __getitem__(self, name: str) -> Tensor:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def output(self) -> Tensor:
        """The only output; raise `SdkError` ``sdk.several`` where the model has more."""
        if len(self._values) != 1:
            raise SdkError("sdk.several", f"the outputs are {list(self._values)}: ask by name")
        return next(iter(self._values.values()))

    @property
    def rows(self) -> tuple[Row, ...]:
        """Class index and confidence of each row of the batch, of the first 256.

        Empty where the bundle does not say which output holds scores, or where they are not finite.
        """
        if isinstance(self._seen, list):
            scores = self._answered.config.scores
            assert scores is not None
            self._seen = rows_of(scores, np.array([self._seen]))
        return self._seen

    @property
    def index(self) -> int | None:
        """Class index of the first row; None as `rows` is empty."""
        return self.rows[0][0] if self.rows else None

    @property
    def confidence(self) -> float | None:
        """Largest probability of the first row, 0 to 1; None as `rows` is empty."""
        return self.rows[0][1] if self.rows else None

    @property
    def label(self) -> str | None:
        """Label of the first row, the class index as text without labels; None as `rows`."""
        return self._label(self.rows[0][0]) if self.rows else None

    @property
    def labels(self) -> list[str]:
        """Label of each row."""
        return [self._label(index) for index, _ in self.rows]

    @property
    def version(self) -> str:
        """Version of the model that has answered."""
        return self._answered.version

    @property
    def variant(self) -> str:
        """Its variant, such as ``int8``."""
        return self._answered.variant

    @property
    def manifest(self) -> str:
        """Digest of its bundle, which names it for ever."""
        return self._answered.manifest

    def _label(self, index: int) -> str:
        labels = self._answered.config.labels
        return labels[index] if index < len(labels) else str(index)

    def __repr__(self) -> str:
        shown = f" {self.label} {self.confidence:.3f}" if self.rows else ""
        return f"<Prediction of {self.version} ({self.variant}){shown}>"


def rows_of(scores: Scores, array: Tensor) -> tuple[Row, ...]:
    """Return the first rows of an array of finite scores; none where they cannot be counted."""
    if array.ndim == 0 or not 0 < array.shape[-1] <= CLASSES_MAX:
        return ()
    rows = array.reshape(-1, array.shape[-1])[:ROWS_MAX]
    indexes, confidences = classes_of(scores, rows)
    return tuple(zip(indexes.tolist(), confidences.tolist(), strict=True))


def classes_of(scores: Scores, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return class index and confidence of each row of finite scores."""
    values = rows.astype(np.float64)
    if rows.dtype.kind in "iu":
        values = scores.scale * (values - scores.zero_point)
    best = values.max(axis=1)
    if scores.kind == "logits":
        return values.argmax(axis=1), 1.0 / np.exp(values - best[:, np.newaxis]).sum(axis=1)
    return values.argmax(axis=1), best
