"""What a person writes of metrics, requirements and gates on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from edgectl.errors import LocalError
from edgectl_protocol.errors import InvalidRequirement
from edgectl_protocol.requirements import (
    METRIC_NAMES,
    UPDATE_BUDGET_CODE,
    check_allowed,
    format_requirement,
    parse_requirements,
    update_budget_problem,
)

__all__ = ["ChosenMetric", "check_allow", "check_require", "check_update_budget", "choose_metric"]


class ChosenMetric(NamedTuple):
    """A metric that is built in, or the file of one's own; neither: as the data says."""

    name: str | None
    file: Path | None


def choose_metric(text: str | None) -> ChosenMetric:
    """Return the metric that is meant by a name or by a path that ends in ``.py``."""
    if text is None:
        return ChosenMetric(None, None)
    if text in METRIC_NAMES:
        return ChosenMetric(text, None)
    path = Path(text)
    if path.suffix == ".py" and path.is_file():
        return ChosenMetric(None, path)
    raise click.BadParameter(
        f"expected {', '.join(METRIC_NAMES)}, or a file such as metric.py, got {text[:80]!r}",
        param_hint="--metric",
    )


def check_require(texts: Sequence[str]) -> list[str]:
    """Return requirements in their one spelling, before anything is uploaded."""
    try:
        return [format_requirement(one) for one in parse_requirements(texts)]
    except InvalidRequirement as error:
        raise click.BadParameter(str(error), param_hint="--require") from error


def check_allow(names: Sequence[str]) -> list[str]:
    """Return the names of gates that are to be overridden."""
    try:
        return sorted({check_allowed(name) for name in names})
    except InvalidRequirement as error:
        raise click.BadParameter(str(error), param_hint="--allow") from error


def check_update_budget(budget: float | None, *, parent: bool, data: bool) -> float | None:
    """Return the budget for smaller updates, if what it needs is there; before any upload."""
    problem = None if budget is None else update_budget_problem(parent=parent, data=data)
    if problem is not None:
        raise LocalError(UPDATE_BUDGET_CODE, *problem)
    return budget
