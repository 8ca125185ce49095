"""A model in the application's own process, with its contract and its counts."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import numpy as np

from edgectl_agent.bundle import Bundle
from edgectl_agent.runtime import Model as RuntimeModel
from edgectl_agent.sdk.contract import arrays_of
from edgectl_agent.sdk.errors import InputRefused, PredictionFailed
from edgectl_agent.sdk.prediction import Answered, Prediction
from edgectl_agent.sdk.telling import Telling
from edgectl_agent.session import DTYPES, RunFailed
from edgectl_protocol.watching import Watched

__all__ = ["Loaded"]

_SHAPES_MAX = 64
"""Shapes that are known to fit; a model with free sizes sees few different ones."""


class Loaded:
    """One version of a model, ready to be asked from any thread.

    Attributes:
        answered: which one it is.
        telling: what it has counted, and tells the agent.
        threads: within one operator.
        provider: execution provider or delegate that runs it.
    """

    def __init__(
        self,
        bundle: Bundle,
        model: RuntimeModel,
        misbehaved: Callable[[], object],
        reference: Watched | None = None,
    ) -> None:
        """Take a model that is loaded and warm.

        Args:
            bundle: what it was loaded from.
            model: the session.
            misbehaved: called after a failure or an answer that is not finite, to tell it soon, and
                when rows wait to be described.
            reference: of the bundle; None where it has none.
        """
        self.answered = Answered(
            version=bundle.version,
            variant=bundle.variant,
            manifest=bundle.manifest,
            config=bundle.config,
        )
        self.threads, self.provider = model.threads, model.provider
        self.telling = Telling(bundle, reference)
        self._counting = self.telling.counting
        self._served = self._counting.served
        self._run = model.run
        self._misbehaved = misbehaved
        self._specs = bundle.config.inputs
        self._name = self._specs[0].name
        dtype = DTYPES[self._specs[0].datatype]
        plain = len(self._specs) == 1 and dtype.kind != "O"  # each text has to be looked at
        self._dtype = dtype if plain else None
        self._shapes: set[tuple[int, ...]] = set()

    def predict(self, given: Any, *, keep_sample: bool = False, request: str = "") -> Prediction:
        """Compute one prediction; see `Model.predict`."""
        # An array that is the input as it stands costs two comparisons, everything else a function.
        if type(given) is np.ndarray and given.dtype is self._dtype and given.shape in self._shapes:
            inputs = {self._name: given}
        else:
            inputs = self._arrays(given)
        started = perf_counter_ns()
        try:
            outputs = self._run(inputs)
        except (RunFailed, MemoryError) as error:
            self._counting.failed()
            self._misbehaved()
            raise PredictionFailed(
                "sdk.failed",
                f"{self.answered.version} failed on this input: {error}",
                hint="look at the input; the agent counts it against the model",
            ) from error
        seen = self._served(perf_counter_ns() - started, outputs)
        if seen is None:
            self._misbehaved()
            seen = ()
        telling = self.telling
        if telling.looking and telling.look(inputs, outputs, request, wanted=keep_sample):
            self._misbehaved()
        return Prediction(self.answered, outputs, seen)

    def _arrays(self, given: Any) -> dict[str, Any]:
        try:
            arrays = arrays_of(given, self._specs)
        except InputRefused:
            self._counting.refused()
            raise
        if len(arrays) == 1 and len(self._shapes) < _SHAPES_MAX:
            self._shapes.add(arrays[self._name].shape)
        return arrays
