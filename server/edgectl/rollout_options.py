"""What a person writes of a rollout on the command line: which devices, how fast, how safely."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
from msgspec import structs

from edgectl.durations import Duration
from edgectl.rollout_texts import parse_experiment, parse_gates, parse_phases, parse_soak
from edgectl.session import DEVICE, GROUP
from edgectl.types import GatePolicy, PhaseSpec, RolloutPolicy, Selector
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.windows import parse_windows

__all__ = ["rollout_options"]

_WEEK_S = 7 * 86_400
_MONTH_S = 30 * 86_400
_AVAILABLE = re.compile(r"(?P<number>\d{1,5})(?P<percent>%)?", re.ASCII)


class _Windows(click.ParamType[str]):
    """Maintenance windows."""

    name = "windows"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return them as they were written."""
        try:
            parse_windows(str(value))
        except ProtocolError as error:
            self.fail(str(error), param, ctx)
        return str(value)


def _limit(name: str, maximum: float, default: float, text: str, *, more: bool = False) -> Any:
    """Return an option whose value may also be ``none``: no limit."""

    def check(_context: click.Context, option: click.Parameter, value: str) -> float | None:
        if value == "none":
            return None
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not (1.0 if more else 0.0) <= number <= maximum or (more and number == 1.0):
            raise click.BadParameter(f"{value!r}: up to {maximum:g}, or none", param=option)
        return number

    return click.option(name, callback=check, default=f"{default:g}", show_default=True, help=text)


_SELECTOR_OPTIONS = (
    click.option("--all", "all_devices", is_flag=True, help="Every enrolled device."),
    click.option("--group", type=GROUP, default="", help="Every device of this group."),
    click.option(
        "--where",
        default="",
        metavar="SELECTOR",
        help="Every device that is, such as 'site=porto and not tag=demo'.",
    ),
    click.option("--device", "device", type=DEVICE, multiple=True, help="This device; repeatable."),
)
_PACE_OPTIONS = (
    click.option(
        "--max-in-progress",
        type=click.IntRange(1),
        default=100,
        show_default=True,
        help="How many devices update at once.",
    ),
    click.option(
        "--failures-max",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Pause when so many devices have gone wrong.",
    ),
    click.option(
        "--phases",
        default="",
        help="Such as canary:5,10%,50% or 'canary:where=tag=canary,10%': counted from the"
        " beginning; then come all the others.",
    ),
    click.option(
        "--soak",
        multiple=True,
        metavar="[PHASE=]TIME",
        help="How long to watch at the end of each phase but the last, such as 1h; canary=2h: at"
        " the end of that one. Repeatable; not at all when not given.",
    ),
    click.option(
        "--approve-after",
        metavar="PHASE",
        multiple=True,
        help="Wait for `rollout approve` at the end of this phase, or of all; repeatable.",
    ),
    click.option(
        "--gate",
        multiple=True,
        metavar="[PHASE:]GATE",
        help="What must hold at the end of a phase, such as 'error_rate<=0.01'; at the end of one:"
        " 'canary:success>=0.8'. Repeatable.",
    ),
    click.option(
        "--experiment",
        multiple=True,
        metavar="PHASE:RATE",
        help="Compare those that have the new version with those that have not, such as"
        " 'canary:error_rate margin=0.01 limit=2d'; repeatable.",
    ),
    click.option(
        "--deadline",
        "deadline_s",
        type=Duration(1, 3 * _MONTH_S),
        default=None,
        help="How long to wait for an offline device: 2h, 3d; for ever when not given.",
    ),
    click.option(
        "--min-available",
        default="",
        metavar="N|N%",
        help="Devices of each site (group) that must stay available, or their share.",
    ),
    click.option(
        "--priority",
        type=click.IntRange(-100, 100),
        default=0,
        show_default=True,
        help="On a device that is in two running rollouts, the higher one comes first.",
    ),
    click.option(
        "--on-deadline",
        type=click.Choice(["leave", "fail"]),
        default="leave",
        show_default=True,
        help="Leave it behind, or count it as failed.",
    ),
)
_SAFETY_OPTIONS = (
    click.option(
        "--observe",
        "observe_s",
        type=Duration(0, _WEEK_S),
        default="10s",
        show_default=True,
        help="How long a device watches the new model before it commits: seconds, or 10m, 2h.",
    ),
    click.option(
        "--shadow",
        "shadow_s",
        type=Duration(0, _WEEK_S),
        default="0s",
        show_default=True,
        help="How long it answers copies of live requests before it serves.",
    ),
    click.option(
        "--window",
        "windows",
        type=_Windows(),
        default="",
        help="When devices may switch, such as 'mon-fri 02:00-04:00'; fetching goes ahead.",
    ),
    click.option(
        "--error-rate-max",
        type=click.FloatRange(0, 1),
        default=0.05,
        show_default=True,
        help="Share of failed requests that rolls back.",
    ),
    _limit(
        "--latency-ratio-max",
        1000,
        5,
        "How much slower than the model before, by p95, it may be; or none.",
        more=True,
    ),
    _limit("--class-shift-max", 1, 0.5, "How far its classes may be from those before; or none."),
    _limit(
        "--disagreement-max", 1, 0.5, "Share of copied requests it may answer otherwise; or none."
    ),
    click.option(
        "--with",
        "goes_with",
        metavar="MODEL@VERSION",
        multiple=True,
        help="Another rollout's version that devices switch to in the same step; repeatable.",
    ),
    click.option(
        "--forgive",
        is_flag=True,
        help="Have devices that remember this version as bad try it once more.",
    ),
)


def rollout_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a rollout; they arrive as `selector` and `policy`."""

    @functools.wraps(command)
    def gather(*args: Any, **values: Any) -> Any:
        selector = _take_selector(values)
        gates = parse_gates(values.pop("gate"))
        phases = _take_phases(values, gates)
        available = _take_available(values)
        names = [name for name in RolloutPolicy.__struct_fields__ if name in values]
        chosen = {name: values.pop(name) for name in names}
        chosen["goes_with"] = list(chosen["goes_with"])
        policy = RolloutPolicy(**chosen, **available, phases=phases, gates=gates[""])
        return command(*args, selector=selector, policy=policy, **values)

    for option in reversed((*_SELECTOR_OPTIONS, *_PACE_OPTIONS, *_SAFETY_OPTIONS)):
        gather = option(gather)
    return gather


def _take_selector(values: dict[str, Any]) -> Selector:
    all_devices, group = values.pop("all_devices"), values.pop("group")
    device, where = values.pop("device"), values.pop("where")
    if [all_devices, bool(group), bool(where), bool(device)].count(True) != 1:
        raise click.UsageError(
            "say which devices: --all, --group NAME, --where SELECTOR or --device NAME"
        )
    return Selector(all=all_devices, devices=list(device), group=group, where=where)


def _take_available(values: dict[str, Any]) -> dict[str, Any]:
    text = values.pop("min_available").strip()
    if not text:
        return {}
    found = _AVAILABLE.fullmatch(text)
    if found is None or float(found["number"]) == 0:
        raise click.BadParameter(f"{text[:40]!r}: write 2, or 50%", param_hint="--min-available")
    if found["percent"]:
        return {"available_percent": float(found["number"])}
    return {"available_min": int(found["number"])}


def _take_phases(values: dict[str, Any], gates: dict[str, GatePolicy]) -> list[PhaseSpec]:
    text, soaks, approve = values.pop("phases"), values.pop("soak"), values.pop("approve_after")
    asked = values.pop("experiment")
    own = {phase: gate for phase, gate in gates.items() if phase}
    if not text:
        if own:
            raise click.UsageError("--gate PHASE:… needs --phases")
        if soaks or approve or asked:
            raise click.UsageError("--soak, --approve-after and --experiment need --phases")
        return []
    phases = parse_phases(text)
    names = [one.name or str(number) for number, one in enumerate(phases, 1)]
    soak_s = dict(parse_soak(one) for one in soaks)
    experiments = dict(parse_experiment(one) for one in asked)
    _check_names([one for one in soak_s if one], names, "--soak", ", ".join(names))
    _check_names(approve, [*names, "all"], "--approve-after", "{}, or all".format(", ".join(names)))
    _check_names(experiments, names, "--experiment", ", ".join(names))
    _check_names(own, names, "--gate", ", ".join(names))
    return [
        structs.replace(
            one,
            soak_s=soak_s.get(name, soak_s.get("", 0.0)),
            approval="all" in approve or name in approve,
            experiment=experiments.get(name),
            gates=own.get(name),
        )
        for one, name in zip(phases, names, strict=True)
    ]


def _check_names(asked: Iterable[str], known: Sequence[str], option: str, choice: str) -> None:
    for one in asked:
        if one not in known:
            raise click.BadParameter(f"{one[:40]!r} is no phase: {choice}", param_hint=option)
