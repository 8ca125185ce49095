"""Phases, gates and experiments of a rollout, as a person writes them in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from edgectl.durations import Duration
from edgectl.types import ExperimentSpec, GatePolicy, PhaseSpec

__all__ = ["parse_experiment", "parse_gates", "parse_phases", "parse_soak"]

_PHASE = re.compile(
    r"(?:(?P<name>[a-z0-9][a-z0-9_-]{0,31}):)?"
    r"(?:(?P<devices>\d{1,6})|(?P<percent>\d{1,3}(?:\.\d{1,3})?)%|where=(?P<where>.+))",
    re.ASCII | re.DOTALL,
)
_GATE = re.compile(
    r"(?:(?P<phase>[a-z0-9][a-z0-9_-]{0,31}):)?(?P<name>[a-z0-9_]{1,32})\s*(?P<operator><=|>=)\s*(?P<number>\d{1,9}(?:\.\d{1,6})?)"
    r"(?P<unit>us|ms|s)?",
    re.ASCII,
)
_EXPERIMENT = re.compile(
    r"(?P<phase>[a-z0-9][a-z0-9_-]{0,31}):(?P<rate>error_rate|low_confidence)"
    r"(?P<settings>(?:\s+[a-z]{1,16}=[a-z0-9.]{1,16})*)",
    re.ASCII,
)
_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,6})?", re.ASCII)
_UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6}
_LIMIT = Duration(60, 30 * 86_400)
_SOAK = Duration(0, 30 * 86_400)


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
    ("class_mix", "<="): _Gate("class_mix_max"),
    ("confidence", "<="): _Gate("confidence_max"),
    ("disagreement", "<="): _Gate("disagreement_max"),
}
_GATE_EXAMPLES = (
    "success>=0.95",
    "committed>=3",
    "error_rate<=0.01",
    "latency_p95<=20ms",
    "latency_ratio<=1.5",
    "class_mix<=0.1",
    "confidence<=0.1",
    "disagreement<=0.02",
    "requests>=1000",
    "or canary:success>=0.8 for one phase",
)


def parse_phases(text: str) -> list[PhaseSpec]:
    """Return the phases in a text such as ``canary:where=tag=canary,10%,50%``.

    A comma within parentheses or double quotes belongs to a selector.
    """
    phases = []
    for part in _split(text):
        found = _PHASE.fullmatch(part.strip())
        if found is None:
            raise click.BadParameter(
                f"{part.strip()[:40]!r} is no phase: write canary:5 for the first five devices,"
                " 10% for a share, or canary:where=tag=canary for those that a selector means",
                param_hint="--phases",
            )
        phases.append(
            PhaseSpec(
                name=found["name"] or "",
                devices=int(found["devices"]) if found["devices"] else None,
                percent=float(found["percent"]) if found["percent"] else None,
                where=(found["where"] or "").strip(),
            )
        )
    return phases


def parse_soak(text: str) -> tuple[str, float]:
    """Return phase and seconds in a text such as ``canary=2h``; no phase: each but the last."""
    phase, named, time = text.strip().rpartition("=")
    if named and not phase:
        raise click.BadParameter(f"{text[:40]!r}: write 1h, or canary=1h", param_hint="--soak")
    try:
        return phase, _SOAK.convert(time, None, None)
    except click.BadParameter as error:
        raise click.BadParameter(error.message, param_hint="--soak") from error


def parse_gates(texts: Sequence[str]) -> dict[str, GatePolicy]:
    """Return the gates in texts such as ``error_rate<=0.01`` and ``canary:success>=0.8``.

    By phase; under the empty name those of every phase that has none of its own. A phase that has
    some has the others, too.
    """
    chosen: dict[str, dict[str, float]] = {"": {}}
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
        own = chosen.setdefault(found["phase"] or "", {})
        own[known.field] = int(value) if known.whole else value
    return {
        phase: GatePolicy(**{**chosen[""], **own})  # type: ignore[arg-type]  # the table says which are whole
        for phase, own in chosen.items()
    }


def parse_experiment(text: str) -> tuple[str, ExperimentSpec]:
    """Return phase and experiment in a text such as ``canary:error_rate margin=0.01 limit=2d``."""
    found = _EXPERIMENT.fullmatch(text.strip())
    if found is None:
        raise _no_experiment(text)
    given: dict[str, Any] = {"rate": found["rate"]}
    for setting in found["settings"].split():
        name, _, value = setting.partition("=")
        if name == "limit":
            given["limit_s"] = _LIMIT.convert(value, None, None)
        elif name == "unit" and value in {"device", "site"}:
            given["unit"] = value
        elif name in {"margin", "alpha", "below", "requests"} and _NUMBER.fullmatch(value):
            field = {"below": "confidence_below", "requests": "requests_max"}.get(name, name)
            given[field] = int(float(value)) if name == "requests" else float(value)
        else:
            raise _no_experiment(text)
    return found["phase"], ExperimentSpec(**given)


def _no_experiment(text: str) -> click.BadParameter:
    return click.BadParameter(
        f"{text[:60]!r} is no experiment: write PHASE:error_rate or PHASE:low_confidence, and"
        " if need be margin=0.01 alpha=0.05 below=0.5 unit=site limit=2d requests=100000",
        param_hint="--experiment",
    )


def _split(text: str) -> list[str]:
    """Split at commas that stand neither in parentheses nor in double quotes."""
    parts = [""]
    depth, quoted = 0, False
    for sign in text:
        quoted ^= sign == '"'
        depth += 0 if quoted else {"(": 1, ")": -1}.get(sign, 0)
        if sign == "," and depth <= 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += sign
    return parts
