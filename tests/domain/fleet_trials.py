"""Experiments in simulation: many fleets at once, whose devices differ, looked at often."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from edgectl_server.domain.sequential import bound_difference

__all__ = ["Answers", "Trial"]


@dataclass(frozen=True)
class Answers:
    """Share of the fleets in which an experiment has ended in one way or the other."""

    failed: float
    passed: float


@dataclass(frozen=True)
class Trial:
    """Two arms of devices that go on answering."""

    challengers: int
    champions: int
    rate: float
    """Of the champions; each device has a rate of its own, of this mean."""
    correlation: float = 0.0
    """Of the answers of one device: how far devices differ. 0: not at all."""
    margin: float = 0.01
    alpha: float = 0.05
    looks: int = 60
    requests: int = 50
    """Of each device between two looks."""

    def play(self, random: Generator, fleets: int, difference: float) -> Answers:
        """Return how experiments end where challengers fail so much more often."""
        arms = [
            self._own_rates(random, fleets, self.challengers, self.rate + difference),
            self._own_rates(random, fleets, self.champions, self.rate),
        ]
        wrong = [np.zeros(one.shape) for one in arms]
        failed, passed = np.zeros(fleets, bool), np.zeros(fleets, bool)
        for look in range(1, self.looks + 1):
            wrong = [
                counts + random.binomial(self.requests, own)
                for counts, own in zip(wrong, arms, strict=True)
            ]
            challenger, champion = (
                (counts, np.full(counts.shape, look * self.requests)) for counts in wrong
            )
            bounds = bound_difference(challenger, champion, margin=self.margin, alpha=self.alpha)
            is_open = ~(failed | passed)
            failed |= is_open & (bounds.low > self.margin)
            passed |= is_open & (bounds.high < self.margin)
        return Answers(float(failed.mean()), float(passed.mean()))

    def _own_rates(
        self, random: Generator, fleets: int, devices: int, mean: float
    ) -> NDArray[np.float64]:
        if self.correlation == 0:
            return np.full((fleets, devices), mean)
        spread = 1 / self.correlation - 1
        return random.beta(mean * spread, (1 - mean) * spread, (fleets, devices))
