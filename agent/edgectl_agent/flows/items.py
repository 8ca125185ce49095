"""What sources give, and what every source is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from msgspec import Struct

from edgectl_protocol.manifest import TensorSpec

__all__ = ["Contract", "Deliver", "Item", "Malformed", "Source"]

Contract = Callable[[], tuple[TensorSpec, ...]]
"""Says what the model takes now."""


class Malformed(Exception):
    """What came is no input; the message says why."""


class Item(Struct, frozen=True, kw_only=True):
    """One input of the model.

    Attributes:
        name: where it comes from, such as a file's name.
        given: what `Model.predict` takes; or a `Malformed`, which is counted.
        done: called when the result has been handed to the sinks; True for a result.
    """

    name: str
    given: Any
    done: Callable[[bool], object] | None = None


Deliver = Callable[[Item], None]


class Source(Protocol):
    """Gives items until it ends or is stopped.

    Attributes:
        newest_wins: what waits too long is dropped for what is newer; otherwise the source waits.
    """

    newest_wins: bool

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """Deliver items until there are no more, or `stop` is set.

        Raises:
            OSError: the source has gone; it is run again later.
        """
