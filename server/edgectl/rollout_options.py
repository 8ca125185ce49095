"""What a person writes of a rollout on the command line: which devices, how fast, how safely."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import click
from msgspec import structs

from edgectl.durations import Duration
from edgectl.session import DEVICE, GROUP
from edgectl.types import GatePolicy, PhaseSpec, RolloutPolicy, Selector
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.windows import parse_windows

__all__ = ["parse_gates", "parse_phases", "rollout_options"]

_WEEK_S = 7 * 86_400
_MONTH_S = 30 * 86_400
_PHASE = re.compile(
    r"(?:(?P<name>[a-z0-9][a-z0-9_-]{0,31}):)?"
    r"(?:(?P<devices>\d{1,6})|(?P<percent>\d{1,3}(?:\.\d{1,3})?)%)",
    re.ASCII,
)
_AVAILABLE = re.compile(r"(?P<number>\d{1,5})(?P<percent>%)?", re.ASCII)
_GATE = re.compile(
    r"(?P<name>[a-z0-9_]{1,32})\s*(?P<operator><=|>=)\s*(?P<number>\d{1,9}(?:\.\d{1,6})?)"
    r"(?P<unit>us|ms|s)?",
    re.ASCII,
)
_UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6}


class _Gate(NamedTuple):
    """A field of the policy, and what its value is."""

    field: str
    whole: bool = False
    unit: str = ""


_GATES = {
    ("committed", ">="): _Gate("committed_min", whole=True),
    ("success", ">="): _Gate("success_min"),
    ("requests", ">="): _Gate("requests_min", whole=True),
    ("error_rate", "<="): _Gate("error_rate_max"),
    ("latency_p95", "<="): _Gate("latency_p95_us_max", unit="us"),
    ("latency_ratio", "<="): _Gate("latency_ratio_max"),
}
_GATE_EXAMPLES = (
    "success>=0.95",
    "committed>=3",
    "error_rate<=0.01",
    "latency_p95<=20ms",
    "latency_ratio<=1.5",
    "requests>=1000",
)


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
        help="Such as canary:5,10%,50%: counted from the beginning; then come all the others.",
    ),
    click.option(
        "--soak",
        "soak_s",
        type=Duration(0, _MONTH_S),
        default="0s",
        show_default=True,
        help="How long to watch at the end of each phase but the last.",
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
        metavar="GATE",
        help="What must hold at the end of a phase, such as 'error_rate<=0.01'; repeatable.",
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
        phases = _take_phases(values)
        gates = parse_gates(values.pop("gate"))
        available = _take_available(values)
        names = [name for name in RolloutPolicy.__struct_fields__ if name in values]
        chosen = {name: values.pop(name) for name in names}
        chosen["goes_with"] = list(chosen["goes_with"])
        policy = RolloutPolicy(**chosen, **available, phases=phases, gates=gates)
        return command(*args, selector=selector, policy=policy, **values)

    for option in reversed((*_SELECTOR_OPTIONS, *_PACE_OPTIONS, *_SAFETY_OPTIONS)):
        gather = option(gather)
    return gather


def parse_phases(text: str, *, soak_s: float = 0.0) -> list[PhaseSpec]:
    """Return the phases in a text such as ``canary:5,10%,50%``."""
    phases = []
    for part in text.split(","):
        found = _PHASE.fullmatch(part.strip())
        if found is None:
            raise click.BadParameter(
                f"{part.strip()[:40]!r} is no phase: write canary:5 for the first five devices,"
                " or 10% for a share",
                param_hint="--phases",
            )
        phases.append(
            PhaseSpec(
                name=found["name"] or "",
                devices=int(found["devices"]) if found["devices"] else None,
                percent=float(found["percent"]) if found["percent"] else None,
                soak_s=soak_s,
            )
        )
    return phases


def parse_gates(texts: Sequence[str]) -> GatePolicy:
    """Return the gates in texts such as ``error_rate<=0.01`` and ``latency_p95<=20ms``."""
    chosen: dict[str, float] = {}
    for text in texts:
        found = _GATE.fullmatch(text.strip())
        known = None if found is None else _GATES.get((found["name"], found["operator"]))
        if found is None or known is None or (found["unit"] and known.unit != "us"):
            raise click.BadParameter(
                f"{text[:60]!r} is no gate: write {', '.join(_GATE_EXAMPLES)}",
                param_hint="--gate",
            )
        value = float(found["number"]) * _UNITS_US[found["unit"] or "us"]
        if known.whole and not value.is_integer():
            raise click.BadParameter(f"{text[:60]!r}: a whole number", param_hint="--gate")
        chosen[known.field] = int(value) if known.whole else value
    return GatePolicy(**chosen)  # type: ignore[arg-type]  # the table says which are whole


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


def _take_phases(values: dict[str, Any]) -> list[PhaseSpec]:
    text, soak_s, approve = values.pop("phases"), values.pop("soak_s"), values.pop("approve_after")
    if not text:
        if soak_s or approve:
            raise click.UsageError("--soak and --approve-after need --phases")
        return []
    phases = parse_phases(text, soak_s=soak_s)
    names = [one.name or str(number) for number, one in enumerate(phases, 1)]
    unknown = [one for one in approve if one not in (*names, "all")]
    if unknown:
        raise click.BadParameter(
            f"{unknown[0][:40]!r} is no phase: {', '.join(names)}, or all",
            param_hint="--approve-after",
        )
    return [
        structs.replace(one, approval="all" in approve or name in approve)
        for one, name in zip(phases, names, strict=True)
    ]
