"""What a transport's format has to offer, and what a model has given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeVar

from edgectl_agent.inference.protocol import Call
from edgectl_agent.inference.refusals import Refused
from edgectl_agent.inference.served import Served
from edgectl_agent.runtime import Tensor

__all__ = ["Codec", "Computed"]

Given_contra = TypeVar("Given_contra", contravariant=True)
Written_co = TypeVar("Written_co", covariant=True)


class Computed(NamedTuple):
    """What a model has given."""

    outputs: Mapping[str, Tensor]
    finite: bool
    """Whether no output holds a NaN or an infinity."""


class Codec(Protocol[Given_contra, Written_co]):
    """A transport's format; every method is called on any thread."""

    def read(self, content: Given_contra, served: Served) -> Call:
        """Return the arrays of a request; raise `Refused` for what is outside the contract."""
        ...

    def write(self, call: Call, computed: Computed, served: Served) -> Written_co:
        """Return the answer; raise `Refused` where the outputs have no place in it."""
        ...

    def refuse(self, refused: Refused) -> Written_co:
        """Return the answer that says why there are no outputs."""
        ...
