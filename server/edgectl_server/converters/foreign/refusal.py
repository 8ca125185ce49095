"""How a conversion says no."""

from __future__ import annotations

from typing import Any

__all__ = ["Refusal", "one_line"]

_TEXT_MAX = 400


class Refusal(Exception):
    """The model cannot be converted as it is; fields as in ``pipeline.errors.PipelineRefused``."""

    def __init__(
        self, code: str, detail: str, hint: str = "", data: dict[str, Any] | None = None
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.hint = hint
        self.data = data or {}


def one_line(error: object) -> str:
    """Return what a foreign library says in one line of bounded length."""
    return " ".join(str(error).split())[:_TEXT_MAX]
