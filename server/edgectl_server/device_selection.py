"""Selectors as conditions of a statement, and the selectors that are saved.

Labels are people's: a column of the device's row. What a device claims is read from its report, as
``reported.label`` or as one of the fields. Nothing that is not there is NULL here: it is empty, so
that ``not`` means not.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, String, and_, cast, exists, false, func, not_, or_, select
from sqlalchemy.orm import Session

from edgectl_server.domain.selectors import (
    All,
    AnyOf,
    Condition,
    Expression,
    Not,
    Saved,
    SelectorError,
    expand,
    parse_selector,
)
from edgectl_server.errors import Refused
from edgectl_server.storage.tables import Device, ReportedSlot, SavedSelector

__all__ = ["compile_selector", "read_selector"]


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


def compile_selector(expression: Expression) -> ColumnElement[bool]:
    """Return the condition on `Device` that an expression means.

    Args:
        expression: without names of saved selectors.
    """
    match expression:
        case Condition(field, values, negated):
            found = or_(*(_condition(field, value) for value in values))
            return not_(found) if negated else found
        case Not(of):
            return not_(compile_selector(of))
        case All(parts):
            return and_(*(compile_selector(one) for one in parts))
        case AnyOf(parts):
            return or_(*(compile_selector(one) for one in parts))
        case Saved(name):
            raise AssertionError(f"{name} was not expanded")


def _condition(field: str, value: str) -> ColumnElement[bool]:
    match field:
        case "online":
            return Device.online.is_(value == "true")
        case "runs":
            model, _, version = value.partition("@")
            running = exists().where(
                ReportedSlot.device == Device.id,
                ReportedSlot.slot == model,
                ReportedSlot.version.is_not(None),
            )
            return running.where(ReportedSlot.version == version) if version else running
        case "runtime":
            return func.coalesce(_claimed("runtimes", value).as_string(), "") != ""
        case "feature":
            if '"' in value or "\\" in value:
                return false()
            listed = cast(_claimed("cpu_features"), String)
            return func.coalesce(listed, "").contains(f'"{value}"', autoescape=True)
        case _:
            return _text_is(_text_of(field), value)


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
