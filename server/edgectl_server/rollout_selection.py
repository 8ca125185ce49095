"""What a rollout may begin with: a version that is ready, and devices that are free for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session

from edgectl_server.device_selection import compile_selector, read_selector
from edgectl_server.domain.rollouts import DeviceState
from edgectl_server.domain.selectors import (
    MOMENTARY,
    Expression,
    SelectorError,
    fields_of,
    parse_selector,
    to_text,
)
from edgectl_server.errors import Conflict, Refused
from edgectl_server.schemas import Selector
from edgectl_server.storage.tables import (
    DesiredSlot,
    Device,
    Model,
    ModelVersion,
    Rollout,
    RolloutDevice,
)
from edgectl_server.version_rows import get_version

__all__ = [
    "DEVICES_MAX",
    "check_free",
    "desired_versions",
    "find_late_joiners",
    "find_leavers",
    "find_overlaps",
    "find_ready_version",
    "meant_by",
    "read_where",
    "select_devices",
    "settle_selector",
    "settle_where",
]

DEVICES_MAX = 100_000
_NAMES_AT_ONCE = 500
_JOIN_AT_ONCE = 500


def find_ready_version(session: Session, model: str, version: str) -> ModelVersion:
    """Return a version that can be rolled out; until the end nobody else starts with its model.

    Raises:
        NotFound: ``version.unknown``.
        Conflict: ``rollout.not_ready`` or ``rollout.unsigned``.
    """
    session.get(Model, model, with_for_update=True)
    row = get_version(session, model, version)
    if row.state == "unsigned":
        raise Conflict(
            "rollout.unsigned",
            f"version {version} of {model} waits for signatures: no device would install it",
            hint=f"edgectl models show {model}@{version} says whose",
            data={"state": row.state, "job": row.job},
        )
    if row.state != "ready":
        raise Conflict(
            "rollout.not_ready",
            f"version {version} of {model} is {row.state}",
            hint="only a version that is ready can be rolled out; its job says how far it is",
            data={"state": row.state, "job": row.job},
        )
    return row


def select_devices(session: Session, selector: Selector) -> Sequence[str]:
    """Return the devices that a rollout is for, in order.

    Raises:
        Refused: ``rollout.selector``.
        Conflict: ``rollout.no_devices``.
    """
    given = [selector.all, bool(selector.group), bool(selector.where), bool(selector.devices)]
    if given.count(True) != 1:
        raise Refused(
            "rollout.selector",
            "a rollout is for all devices, for those of a group or selector, or for those named",
            hint="give one of all, group, where and devices",
        )
    enrolled = select(Device.id).where(Device.state == "enrolled").order_by(Device.id)
    if selector.group:
        enrolled = enrolled.where(Device.group == selector.group)
    if selector.where:
        enrolled = enrolled.where(compile_selector(read_where(session, selector.where)))
    if not selector.devices:
        names = session.scalars(enrolled.limit(DEVICES_MAX + 1)).all()
        if not names:
            raise Conflict(
                "rollout.no_devices",
                f"no device of {selector.group} has enrolled"
                if selector.group
                else f"no enrolled device is {selector.where}"
                if selector.where
                else "no device has enrolled",
                hint="`edgectl devices list --where` says who is meant"
                if selector.where
                else "let one enrol with `edgectl devices token create`",
            )
    else:
        wanted = sorted(set(selector.devices))
        found: set[str] = set()
        for some in _slices(wanted):
            found.update(session.scalars(enrolled.where(Device.id.in_(some))))
        unknown = [name for name in wanted if name not in found]
        if unknown:
            raise Refused(
                "rollout.selector",
                f"not enrolled: {', '.join(unknown[:10])}",
                hint="name devices that are enrolled",
                data={"devices": unknown[:100]},
            )
        names = wanted
    if len(names) > DEVICES_MAX:
        raise Refused("rollout.selector", f"at most {DEVICES_MAX} devices in one rollout")
    return names


def meant_by(session: Session, selector: Selector) -> ColumnElement[bool]:
    """Return the condition on `Device` that a selector means it; errors as `settle_selector`."""
    conditions = [Device.state == "enrolled"]
    if selector.group:
        conditions.append(Device.group == selector.group)
    if selector.where:
        conditions.append(compile_selector(read_where(session, selector.where)))
    if selector.devices:
        conditions.append(Device.id.in_(selector.devices))
    return and_(*conditions)


def find_late_joiners(session: Session, rollout: Rollout) -> Sequence[str]:
    """Return devices that a running rollout is for and that are not of it yet, some at a time.

    Those that another unfinished rollout of the model has are not; they come when that has ended.
    """
    selector = Selector.model_validate(rollout.selector)
    if selector.devices:
        return []
    taken = (
        select(RolloutDevice.device)
        .join(Rollout, Rollout.id == RolloutDevice.rollout)
        .where(
            RolloutDevice.device == Device.id,
            (Rollout.id == rollout.id)
            | ((Rollout.model == rollout.model) & Rollout.due_at.is_not(None)),
        )
    )
    wanted = select(Device.id).where(Device.state == "enrolled", ~taken.exists())
    if selector.group:
        wanted = wanted.where(Device.group == selector.group)
    if selector.where:
        wanted = wanted.where(compile_selector(read_where(session, selector.where)))
    return session.scalars(wanted.order_by(Device.id).limit(_JOIN_AT_ONCE)).all()


def check_free(session: Session, model: str, names: Sequence[str]) -> None:
    """Two rollouts of one model must not tell one device different things.

    Raises:
        Conflict: ``rollout.conflict``.
    """
    active = (
        select(RolloutDevice.rollout, RolloutDevice.device)
        .join(Rollout, Rollout.id == RolloutDevice.rollout)
        # An aborted one whose devices are still being restored counts too.
        .where(Rollout.model == model, Rollout.due_at.is_not(None))
        .limit(1)
    )
    for some in _slices(names):
        row = session.execute(active.where(RolloutDevice.device.in_(some))).first()
        if row is not None:
            raise Conflict(
                "rollout.conflict",
                f"rollout {row.rollout} of {model} is not finished and has the device {row.device}",
                hint="wait for it, or abort it",
                data={"rollout": row.rollout, "device": row.device},
            )


def find_leavers(session: Session, rollout: Rollout) -> Sequence[RolloutDevice]:
    """Return devices that wait for their turn and that the selector does not mean any more."""
    selector = Selector.model_validate(rollout.selector)
    meant = select(Device.id)
    if selector.group:
        meant = meant.where(Device.group == selector.group)
    elif selector.where:
        meant = meant.where(compile_selector(read_where(session, selector.where)))
    else:
        return []
    return session.scalars(
        select(RolloutDevice)
        .where(
            RolloutDevice.rollout == rollout.id,
            RolloutDevice.state == DeviceState.PENDING.value,
            RolloutDevice.device.not_in(meant),
        )
        .order_by(RolloutDevice.device)
        .limit(_JOIN_AT_ONCE)
    ).all()


def settle_selector(session: Session, selector: Selector) -> Selector:
    """Return a selector that goes on to mean what it means now when saved ones are changed.

    Raises:
        Refused: ``selector.syntax``, ``selector.unknown``, ``rollout.selector``.
    """
    return selector.model_copy(update={"where": settle_where(session, selector.where)})


def settle_where(session: Session, where: str) -> str:
    """Return the same of the text of one; errors as `settle_selector`."""
    if not where:
        return where
    settled = to_text(read_where(session, where))
    try:  # it is read again at each tick
        parse_selector(settled)
    except SelectorError as error:
        raise Refused(
            "rollout.selector",
            f"written out with what its names mean, the selector is too large: {error}",
            hint="give the devices a label, and select by that",
        ) from error
    return settled


def read_where(session: Session, text: str) -> Expression:
    """Return the selector in a text, as rollouts may use it; errors as `settle_selector`."""
    expression = read_selector(session, text)
    if momentary := sorted(MOMENTARY & fields_of(expression)):
        raise Refused(
            "rollout.selector",
            f"a rollout is not for devices that are {momentary[0]} just now, or not: that changes "
            "by the minute",
            hint="leave it out: devices that are online come first, and held ones wait"
            if momentary[0] in {"held", "online"}
            else "name the devices: edgectl devices list, then --device for each",
        )
    return expression


def find_overlaps(session: Session, model: str, names: Sequence[str]) -> list[tuple[str, int]]:
    """Return the unfinished rollouts of the model that have some of these devices, and how many."""
    found: Counter[str] = Counter()
    for some in _slices(names):
        rows = session.execute(
            select(RolloutDevice.rollout, func.count())
            .join(Rollout, Rollout.id == RolloutDevice.rollout)
            .where(
                Rollout.model == model,
                Rollout.due_at.is_not(None),
                RolloutDevice.device.in_(some),
            )
            .group_by(RolloutDevice.rollout)
        )
        for rollout, count in rows:
            found[rollout] += count
    return sorted(found.items())


def desired_versions(session: Session, slot: str, names: Sequence[str]) -> dict[str, int]:
    """Return what the slot of each device is to run now, where that is said."""
    found: dict[str, int] = {}
    for some in _slices(names):
        rows = session.scalars(
            select(DesiredSlot).where(DesiredSlot.slot == slot, DesiredSlot.device.in_(some))
        )
        found.update({row.device: row.version_id for row in rows if row.version_id is not None})
    return found


def _slices(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[at : at + _NAMES_AT_ONCE] for at in range(0, len(names), _NAMES_AT_ONCE))
