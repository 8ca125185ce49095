"""What can be wrong with a dataset."""

from __future__ import annotations

__all__ = ["BadDataset"]


class BadDataset(Exception):
    """A folder or file is no dataset of this format, or not the one that it says it is.

    Attributes:
        code: stable, for programs.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
