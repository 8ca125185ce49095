"""The version and its report as the page needs them, read from plain JSON with bounds.

Order: the document of ``GET /models/{name}/versions/{version}``. Every part of the report may be
absent, of another type or too long: then it is left out or cut, and never an error, since the page
also shows reports of older and newer servers. Numbers are finite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Confusion",
    "DataCheck",
    "Disagreement",
    "Document",
    "Gate",
    "Sensitivity",
    "SmallSteps",
    "StepLevel",
    "Tensor",
    "Trial",
    "Variant",
    "read_document",
]

TEXT_MAX = 500
ROWS_MAX = 200
"""Of every list."""
CLASSES_MAX = 1024
_VARIANTS_MAX = 8
_LEVELS_MAX = 32
_COUNT_MAX = 2**53


@dataclass(frozen=True)
class Trial:
    """One recipe that was tried; `status` is ``published`` where a bundle was made of it."""

    recipe: str
    variant: str
    precision: str
    status: str
    reason: str
    size_bytes: int | None
    value: float | None
    drop_points: float | None
    latency_p50_us: float | None
    latency_p95_us: float | None
    update_bytes: int | None
    """About what leads from the parent's variant to this one."""
    seconds: float | None


@dataclass(frozen=True)
class Variant:
    """A bundle."""

    variant: str
    recipe: str
    precision: str
    manifest: str
    model_bytes: int
    bundle_bytes: int
    rank: int
    encrypted: bool


@dataclass(frozen=True)
class Tensor:
    """An input or output; -1 in the shape is any size."""

    direction: str
    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Sensitivity:
    """What is lost when only these neighbours are quantized; `kept`: they were left in float."""

    node: str
    operator: str
    loss: float
    kept: bool


@dataclass(frozen=True)
class Confusion:
    """Counts [true class][predicted class] of fp32 and of the chosen variant."""

    names: tuple[str, ...]
    before: tuple[tuple[int, ...], ...]
    after: tuple[tuple[int, ...], ...]
    variant: str = ""
    """Whose the second is; of a version that was refused, the recipe that came nearest."""


@dataclass(frozen=True)
class Disagreement:
    """A sample that fp32 and the chosen variant answer differently; classes by their names."""

    index: int
    label: str
    before: str
    before_score: float | None
    after: str
    after_score: float | None


@dataclass(frozen=True)
class Gate:
    """What had to be true, and how it is; no variant: of the version as a whole."""

    variant: str
    name: str
    status: str
    measured: float | None
    bound: float | None
    direction: str
    unit: str
    detail: str
    overridden_by: str


@dataclass(frozen=True)
class DataCheck:
    """Something remarkable about the data."""

    name: str
    severity: str
    detail: str
    hint: str


@dataclass(frozen=True)
class StepLevel:
    """Small steps of one size."""

    name: str
    size_bytes: int | None
    status: str
    value: float | None
    lost_points: float | None
    reason: str


@dataclass(frozen=True)
class SmallSteps:
    """A variant as it was trained and as it is released; not `released`: as trained."""

    variant: str
    trained: str
    released: str
    reason: str
    size_bytes: int | None
    trained_bytes: int | None
    released_bytes: int | None
    parent_value: float | None
    trained_value: float | None
    released_value: float | None
    allowed_points: float | None
    levels: tuple[StepLevel, ...]


@dataclass(frozen=True)
class Document:
    """Everything on the page."""

    model: str
    version: str
    state: str
    created_at: str
    created_by: str
    source: str
    source_name: str
    source_bytes: int
    calibration: str
    evaluation: str
    parent: str
    labels: tuple[str, ...]
    variants: tuple[Variant, ...]
    problem: tuple[str, str, str] | None
    """Code, detail and hint of a version that was refused or has failed."""
    measured: bool
    """There is a report."""
    metric: str = ""
    metric_source: str = ""
    samples: int = 0
    reference: float | None = None
    max_drop_points: float = 0.0
    opset: int = 0
    nodes: int = 0
    parameters: int = 0
    tensors: tuple[Tensor, ...] = ()
    trials: tuple[Trial, ...] = ()
    measured_on: str = ""
    warnings: tuple[str, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    confusion: Confusion | None = None
    disagreements: tuple[Disagreement, ...] = ()
    gates: tuple[Gate, ...] = ()
    data_checks: tuple[DataCheck, ...] = ()
    small_steps: tuple[SmallSteps, ...] = ()
    facts: tuple[tuple[str, str], ...] = field(default=())
    """More lines of the lineage: name and value."""

    @property
    def title(self) -> str:
        """``model@version``."""
        return f"{self.model}@{self.version}"

    @property
    def first_choice(self) -> Trial | None:
        """The trial of the bundle that devices try first; variants are in that order."""
        if not self.variants:
            return None
        first = self.variants[0].recipe
        return next((one for one in self.trials if one.recipe == first), None)

    @property
    def original(self) -> Trial | None:
        """The fp32 trial."""
        return next((one for one in self.trials if one.precision == "fp32"), None)


def read_document(version: Mapping[str, Any]) -> Document:
    """Return what the page shows of a version as the REST API gives it."""
    report = _mapping(version, "report")
    variants = tuple(sorted(map(_variant, _rows(version, "variants")), key=lambda one: one.rank))
    published = {one.recipe for one in variants}
    names = tuple(_as_text(one) for one in _list(version, "labels")[:CLASSES_MAX])
    error = _mapping(version, "error")
    problem = (_text(error, "code"), _text(error, "detail"), _text(error, "hint"))
    return Document(
        model=_text(version, "model"),
        version=_text(version, "version"),
        state=_text(version, "state"),
        created_at=_text(version, "created_at"),
        created_by=_text(version, "created_by"),
        source=_text(version, "source"),
        source_name=_text(version, "source_name"),
        source_bytes=_count(version, "source_bytes"),
        calibration=_text(version, "calibration"),
        evaluation=_text(version, "evaluation"),
        parent=_text(version, "parent"),
        labels=names,
        variants=variants,
        problem=problem if any(problem) else None,
        measured=bool(report),
        metric=_text(report, "metric"),
        metric_source=_text(report, "metric_source"),
        samples=_count(report, "samples"),
        reference=_number(report, "reference"),
        max_drop_points=_number(report, "max_drop_points") or 0.0,
        opset=_count(report, "opset"),
        nodes=_count(report, "nodes"),
        parameters=_count(report, "parameters"),
        tensors=(*_tensors(report, "inputs", "in"), *_tensors(report, "outputs", "out")),
        trials=tuple(_trial(row, published) for row in _rows(report, "trials")),
        measured_on=_text(report, "measured_on"),
        warnings=tuple(_as_text(one) for one in _list(report, "warnings")),
        sensitivity=_sensitivity(report, variants[0].recipe if variants else ""),
        confusion=_confusion(report, names),
        disagreements=tuple(
            _disagreement(row, names) for row in _rows(report, "top_disagreements")
        ),
        facts=_facts(report),
        gates=tuple(_gate(row) for row in _rows(report, "gates")),
        data_checks=tuple(_data_check(row) for row in _rows(report, "data_checks")),
        small_steps=tuple(
            _small_steps(row) for row in _rows(report, "small_steps")[:_VARIANTS_MAX]
        ),
    )


# ---------------------------------------------------------------- parts of the report


def _trial(row: Mapping[str, Any], published: set[str]) -> Trial:
    recipe, status = _text(row, "recipe"), _text(row, "status")
    return Trial(
        recipe=recipe,
        variant=_text(row, "variant"),
        precision=_text(row, "precision"),
        status="published" if status == "accepted" and recipe in published else status,
        reason=_text(row, "reason"),
        size_bytes=_count(row, "size_bytes") or None,
        value=_number(row, "value"),
        drop_points=_number(row, "drop_points"),
        latency_p50_us=_number(row, "latency_p50_us"),
        latency_p95_us=_number(row, "latency_p95_us"),
        update_bytes=_count(row, "update_bytes") or None,
        seconds=_number(row, "seconds"),
    )


def _variant(row: Mapping[str, Any]) -> Variant:
    return Variant(
        variant=_text(row, "variant"),
        recipe=_text(_mapping(row, "trial"), "recipe"),
        precision=_text(row, "precision"),
        manifest=_text(row, "manifest"),
        model_bytes=_count(row, "model_bytes"),
        bundle_bytes=_count(row, "bundle_bytes"),
        rank=_count(row, "rank"),
        encrypted=row.get("encrypted") is True,
    )


def _tensors(report: Mapping[str, Any], key: str, direction: str) -> Iterator[Tensor]:
    for row in _rows(report, key):
        shape = tuple(
            size for size in _list(row, "shape")[:16] if isinstance(size, int) and size >= -1
        )
        yield Tensor(direction, _text(row, "name"), _text(row, "datatype"), shape)


def _sensitivity(report: Mapping[str, Any], first: str) -> tuple[Sensitivity, ...]:
    """Return the rows, the worst first.

    A mixed recipe leaves the worst in float; how many operators those are is in its trial.
    """
    trials = _rows(report, "trials")
    left = next((_count(row, "float_nodes") for row in trials if row.get("recipe") == first), 0)
    rows = [(_number(row, "loss"), row) for row in _rows(report, "sensitivity")]
    known = [(loss, row) for loss, row in rows if loss is not None]
    found = []
    for loss, row in sorted(known, key=lambda pair: (-pair[0], _text(pair[1], "node"))):
        kept = left > 0
        left -= max(1, _count(row, "nodes"))
        found.append(Sensitivity(_text(row, "node"), _text(row, "operator"), loss, kept))
    return tuple(found)


def _confusion(report: Mapping[str, Any], names: tuple[str, ...]) -> Confusion | None:
    found = _mapping(report, "confusion")
    before, after = _matrix(found, "before"), _matrix(found, "after")
    if not before or not after or len(before) != len(after):
        return None
    given = tuple(_as_text(one) for one in _list(found, "classes")[:CLASSES_MAX])
    names = given if len(given) == len(before) else names
    if len(names) != len(before):
        names = tuple(str(number) for number in range(len(before)))
    variant = _as_text(found.get("variant"))
    return Confusion(names=names, before=before, after=after, variant=variant)


def _matrix(found: Mapping[str, Any], key: str) -> tuple[tuple[int, ...], ...]:
    """Return a square matrix of counts, or nothing."""
    rows = [row for row in _list(found, key) if isinstance(row, list)]
    if not 2 <= len(rows) <= ROWS_MAX or any(len(row) != len(rows) for row in rows):  # noqa: PLR2004
        return ()
    return tuple(tuple(_as_count(cell) for cell in row) for row in rows)


def _facts(report: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return what else is worth a line."""
    kinds = {_as_text(key): _as_count(value) for key, value in _mapping(report, "golden").items()}
    cases = ", ".join(f"{count} {kind}" for kind, count in list(kinds.items())[:16])
    search_s = _number(report, "search_s")
    return (
        ("Golden cases", f"{sum(kinds.values())}: {cases}" if cases else ""),
        ("The search took", f"{search_s:.1f} s" if search_s else ""),
    )


def _disagreement(row: Mapping[str, Any], names: tuple[str, ...]) -> Disagreement:
    def named(key: str) -> str:
        value = row.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
            return names[value]
        return _as_text(value)

    return Disagreement(
        index=_count(row, "index"),
        label=named("label"),
        before=named("reference_class"),
        before_score=_number(row, "reference_score"),
        after=named("variant_class"),
        after_score=_number(row, "variant_score"),
    )


def _gate(row: Mapping[str, Any]) -> Gate:
    return Gate(
        variant=_text(row, "variant"),
        name=_text(row, "name"),
        status=_text(row, "status"),
        measured=_number(row, "measured"),
        bound=_number(row, "bound"),
        direction=_text(row, "direction"),
        unit=_text(row, "unit"),
        detail=_text(row, "detail"),
        overridden_by=_text(row, "overridden_by"),
    )


def _data_check(row: Mapping[str, Any]) -> DataCheck:
    return DataCheck(
        name=_text(row, "name"),
        severity=_text(row, "severity"),
        detail=_text(row, "detail"),
        hint=_text(row, "hint"),
    )


def _small_steps(row: Mapping[str, Any]) -> SmallSteps:
    return SmallSteps(
        variant=_text(row, "variant"),
        trained=_text(row, "trained"),
        released=_text(row, "released"),
        reason=_text(row, "reason"),
        size_bytes=_count(row, "size_bytes") or None,
        trained_bytes=_count(row, "trained_bytes") or None,
        released_bytes=_count(row, "released_bytes") or None,
        parent_value=_number(row, "parent_value"),
        trained_value=_number(row, "trained_value"),
        released_value=_number(row, "released_value"),
        allowed_points=_number(row, "allowed_points"),
        levels=tuple(map(_step_level, _rows(row, "levels")[:_LEVELS_MAX])),
    )


def _step_level(row: Mapping[str, Any]) -> StepLevel:
    return StepLevel(
        name=_text(row, "name"),
        size_bytes=_count(row, "estimated_bytes") or None,
        status=_text(row, "status"),
        value=_number(row, "value"),
        lost_points=_number(row, "lost_points"),
        reason=_text(row, "reason"),
    )


# ---------------------------------------------------------------- bounded reading


def _mapping(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = row.get(key)
    return value if isinstance(value, Mapping) else {}


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    return list(value) if isinstance(value, list | tuple) else []


def _rows(row: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    return [one for one in _list(row, key)[:ROWS_MAX] if isinstance(one, Mapping)]


def _text(row: Mapping[str, Any], key: str) -> str:
    return _as_text(row.get(key))


def _as_text(value: object) -> str:
    if value is None or isinstance(value, Mapping | list | tuple):
        return ""
    if isinstance(value, int) and abs(value) > _COUNT_MAX:
        return "very large"  # Python refuses to write out integers of thousands of digits
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 1]}…"


def _number(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not abs(value) <= _COUNT_MAX:  # not a number is neither
        return None
    return float(value)


def _count(row: Mapping[str, Any], key: str) -> int:
    return _as_count(row.get(key))


def _as_count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return min(max(0, value), _COUNT_MAX)
