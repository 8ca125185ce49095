"""Selectors as conditions of a statement, and the selectors that are saved.

Labels are people's: a column of the device's row. What a device claims is read from its report, as
``reported.label`` or as one of the fields. Nothing that is not there is NULL here: it is empty, so
that ``not`` means not.
"""

from __future__ import annotations

import operator as operators
from typing import Any

from sqlalchemy import ColumnElement, String, and_, cast, exists, false, func, not_, or_, select
from sqlalchemy import case as sql_case
from sqlalchemy.orm import Session

from edgectl_server.device_filter import Moment, is_so
from edgectl_server.domain.selectors import (
    MOMENTARY,
    All,
    AnyOf,
    Comparison,
    Condition,
    Expression,
    Not,
    Saved,
    SelectorError,
    expand,
    parse_selector,
)
from edgectl_server.errors import Refused
from edgectl_server.storage.tables import (
    DesiredSlot,
    Device,
    ModelVersion,
    ReportedSlot,
    SavedSelector,
)

__all__ = ["compile_selector", "read_selector"]

_DIGEST = "sha256:"
"""What no version begins with."""
_NUMBERS = {
    "cores": ("cores", 1),
    "free_disk_mb": ("disk_free_bytes", 1_000_000),
    "memory_mb": ("memory_bytes", 1_000_000),
}
"""Where a number stands in what a device has said it is, and how much of it is one."""
_OPERATORS = {
    "=": operators.eq,
    "<": operators.lt,
    "<=": operators.le,
    ">": operators.gt,
    ">=": operators.ge,
}


def read_selector(session: Session, text: str) -> Expression:
    """Return what a text means, without names of saved selectors.

    Raises:
        Refused: ``selector.syntax``, ``selector.unknown``.
    """
    try:
        expression = parse_selector(text)
    except SelectorError as error:
        raise Refused(
            "selector.syntax",
            str(error),
            hint="such as: site=porto and hw=rpi4 and not tag=demo",
            data={"position": error.position},
        ) from error
    rows = session.scalars(select(SavedSelector)).all()
    saved = {row.name: parse_selector(row.text) for row in rows}
    try:
        return expand(expression, saved)
    except SelectorError as error:
        raise Refused("selector.syntax", str(error), hint="name fewer saved ones") from error
    except KeyError as error:
        raise Refused(
            "selector.unknown",
            f"there is no saved selector {error.args[0]}, or it stands in itself",
            hint="`edgectl selectors list` lists them",
        ) from error


def compile_selector(expression: Expression, moment: Moment | None = None) -> ColumnElement[bool]:
    """Return the condition on `Device` that an expression means.

    Args:
        expression: without names of saved selectors.
        moment: when it is asked; None where it has none of `MOMENTARY`.
    """
    match expression:
        case Condition(field, values, negated):
            found = or_(*(_condition(field, value, moment) for value in values))
            return not_(found) if negated else found
        case Comparison(field, operator, number):
            return _compared(field, operator, float(number))
        case Not(of):
            return not_(compile_selector(of, moment))
        case All(parts):
            return and_(*(compile_selector(one, moment) for one in parts))
        case AnyOf(parts):
            return or_(*(compile_selector(one, moment) for one in parts))
        case Saved(name):
            raise AssertionError(f"{name} was not expanded")


def _condition(field: str, value: str, moment: Moment | None) -> ColumnElement[bool]:
    if field in MOMENTARY:
        assert moment is not None, field
        found = is_so(field, moment)
        return found if value == "true" else not_(found)
    match field:
        case "runs" | "desired":
            return _runs(value) if field == "runs" else _desired(value)
        case "runtime":
            return func.coalesce(_claimed("runtimes", value).as_string(), "") != ""
        case "feature":
            if '"' in value or "\\" in value:
                return false()
            listed = cast(_claimed("cpu_features"), String)
            return func.coalesce(listed, "").contains(f'"{value}"', autoescape=True)
        case _:
            return _text_is(_text_of(field), value)


def _runs(value: str) -> ColumnElement[bool]:
    """Return the condition that a device runs a model, a version of it, or one of its bundles."""
    model, _, what = value.partition("@")
    running = exists().where(
        ReportedSlot.device == Device.id,
        ReportedSlot.slot == model,
        ReportedSlot.version.is_not(None),
    )
    if what.startswith(_DIGEST):
        return running.where(ReportedSlot.manifest == what)
    return running.where(ReportedSlot.version == what) if what else running


def _desired(value: str) -> ColumnElement[bool]:
    """Return the condition that a device is ordered to run a model, or a version of it."""
    model, _, version = value.partition("@")
    ordered = exists().where(
        DesiredSlot.device == Device.id,
        DesiredSlot.version_id == ModelVersion.id,
        ModelVersion.model == model,
    )
    return ordered.where(ModelVersion.version == version) if version else ordered


def _compared(field: str, operator: str, number: float) -> ColumnElement[bool]:
    path, unit = _NUMBERS[field]
    has: ColumnElement[Any] = _claimed(path).as_float()
    if field == "cores":  # one is not said: it is the default of `Capabilities`
        said = _claimed("machine").as_string().is_not(None)
        has = func.coalesce(has, sql_case((said, 1.0)))
    return and_(has.is_not(None), _OPERATORS[operator](has, number * unit))


def _text_of(field: str) -> Any:
    columns: dict[str, Any] = {
        "agent": Device.agent_version,
        "class": Device.device_class,
        "device": Device.id,
        "group": Device.group,
    }
    if field in columns:
        return columns[field]
    if field in {"machine", "os"}:
        return _claimed(field).as_string()
    if field == "cpu":
        return _claimed("cpu_model").as_string()
    if field.startswith("reported."):
        return _claimed("labels", field.removeprefix("reported.")).as_string()
    return Device.labels[field].as_string()


def _claimed(*path: str) -> Any:
    return Device.reported[("capabilities", *path)]


def _text_is(column: ColumnElement[Any], value: str) -> ColumnElement[bool]:
    text = func.coalesce(column, "")
    if value == "*":
        return text != ""
    if value.endswith("*"):
        return text.startswith(value[:-1], autoescape=True)
    return and_(text == value, text != "")
