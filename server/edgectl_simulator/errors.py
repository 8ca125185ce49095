"""What can go wrong for whoever simulates a fleet.

::

    SimulatorError       1   refused or failed
    ├── Misused          2   an argument or a profile is not what it should be
    └── Unreachable      3   the server does not answer
"""

from __future__ import annotations

__all__ = ["Misused", "SimulatorError", "Unreachable"]


class SimulatorError(Exception):
    """Something was refused or failed; `hint` is the next step."""

    exit_code = 1

    def __init__(self, code: str, detail: str, *, hint: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.hint = hint


class Misused(SimulatorError):
    """An argument or a profile is not what it should be."""

    exit_code = 2


class Unreachable(SimulatorError):
    """The server does not answer."""

    exit_code = 3
