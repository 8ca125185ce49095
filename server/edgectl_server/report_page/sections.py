"""The sections about what was tried and decided; each is empty where there is nothing to show."""

from __future__ import annotations

from collections import Counter

from edgectl_server.report_page.document import Document, Trial
from edgectl_server.report_page.html import Html, join, tag
from edgectl_server.report_page.parts import column, facts, panel, pill, table
from edgectl_server.report_page.plots import Mark, Scatter, bar, marker, scatter, ticks, x_range
from edgectl_server.report_page.wording import (
    bytes_text,
    count_text,
    digest_text,
    duration_text,
    points_text,
    quantity_text,
    time_text,
    value_text,
)

__all__ = [
    "comparison",
    "data_checks",
    "gates",
    "headline",
    "lineage",
    "sensitivity",
    "trials",
]

_SHAPES = (
    ("diamond", "published"),
    ("circle", "accepted"),
    ("cross", "rejected"),
    ("square", "fp32, the reference"),
)
_BUDGETS_SHOWN = 4.0
_POINTS_SHOWN_MIN = 2.0
_SENSITIVITY_ROWS = 30
_X_MIN = 1e-6
"""Smaller is not measured, and would make an axis without end."""
_DIRECTIONS = {"<=": "at most", ">=": "at least"}


# ---------------------------------------------------------------- in short


def headline(document: Document) -> Html:
    """Return the outcome in one sentence and some large numbers."""
    first, original = document.first_choice, document.original
    parts = [_lead(document, first, original)]
    if first is not None:
        parts.append(tag("dl", *_tiles(document, first, original), class_="tiles"))
    if document.problem:
        _, detail, hint = document.problem
        words = [tag("p", tag("strong", detail))] + ([tag("p", hint)] if hint else [])
        parts.append(tag("div", *words, class_="note bad"))
    if document.warnings:
        words = [tag("p", warning) for warning in document.warnings]
        parts.append(tag("div", *words, class_="note"))
    return join(parts)


def _lead(document: Document, first: Trial | None, original: Trial | None) -> Html:
    tried = Counter(one.status for one in document.trials if one.precision != "fp32")
    counted = sum(tried[status] for status in ("published", "accepted", "rejected"))
    words = ""
    if first is None:
        words = {
            "refused": "Nothing was published: the push was refused. ",
            "failed": "Nothing was published: the work has failed. ",
            "processing": "The work is not finished. ",
        }.get(document.state, "Nothing was published. ")
    elif original is None or first is original:
        words = "Devices get the model as fp32. "
    else:
        changes = _changes(document, first, original)
        words = f"Devices get {first.recipe} first" + (f": {changes}. " if changes else ". ")
    if counted:
        words += (
            f"{count_text(counted, 'quantized variant was', 'quantized variants were')} measured, "
            f"{tried['rejected']} of them rejected."
        )
    return tag("p", words, class_="lead")


def _changes(document: Document, first: Trial, original: Trial) -> str:
    changes = []
    if first.size_bytes and original.size_bytes:
        saved = 1 - first.size_bytes / original.size_bytes
        changes.append(f"{abs(saved):.0%} {'smaller' if saved >= 0 else 'larger'} than fp32")
    if first.latency_p50_us and original.latency_p50_us:
        factor = original.latency_p50_us / first.latency_p50_us
        speed = f"{factor:.1f} times as fast" if factor >= 1 else f"{1 / factor:.1f} times slower"
        if "1.0 times" in speed:
            speed = "as fast"
        changes.append(f"{speed} on this machine")
    if first.drop_points is not None:
        what = "lost" if first.drop_points >= 0 else "gained"
        changes.append(f"{abs(first.drop_points):.2f} points of {document.metric} {what}")
    return ", ".join(changes)


def _tiles(document: Document, first: Trial, original: Trial | None) -> list[Html]:
    size = f"fp32 has {bytes_text(original.size_bytes)}" if original else ""
    reference = value_text(document.reference)
    rows = [
        ("First choice", first.variant, first.recipe if first.recipe != first.variant else ""),
        ("Size", bytes_text(first.size_bytes), size if first is not original else ""),
    ]
    if first.value is not None:
        rows.append((_named(document.metric), value_text(first.value), f"fp32 reaches {reference}"))
        limit = f"at most {document.max_drop_points:g} may be lost"
        rows.append(("Change in points", points_text(first.drop_points), limit))
    if first.latency_p50_us is not None:
        slower = f"p95 {duration_text(first.latency_p95_us)}"
        rows.append(("Latency, median", duration_text(first.latency_p50_us), slower))
    return [
        tag(
            "div",
            tag("dt", name),
            tag("dd", value),
            tag("dd", note, class_="note") if note else "",
            class_="tile",
        )
        for name, value, note in rows
    ]


def _named(metric: str) -> str:
    return f"{metric[:1].upper()}{metric[1:]}" if metric else "Value"


# ---------------------------------------------------------------- what was tried


def comparison(document: Document) -> Html:
    """Return two pictures with one vertical axis: change of accuracy over size and over latency."""
    shown = [
        (number, one)
        for number, one in enumerate(document.trials, 1)
        if one.drop_points is not None and one.size_bytes
    ]
    if len(shown) < 2:  # noqa: PLR2004  # one point is no comparison
        return Html("")
    changes = [_change(one) for _, one in shown]
    budget = document.max_drop_points
    floor = -max(_POINTS_SHOWN_MIN, _BUDGETS_SHOWN * budget)
    low = max(min(*changes, -budget), floor)
    high = max(*changes, 0.0)
    room = 0.12 * (high - low or 1.0)
    metric = _named(document.metric).lower()
    pictures = []
    for axis, what in (("size", "File size"), ("latency", "Latency on this machine, median")):
        # The latency of what is rejected is mostly not measured.
        marks = [
            Mark(x, _change(one), str(number), _shape(one), f"{number} {one.recipe}: {_title(one)}")
            for number, one in shown
            if (x := _x(one, axis)) > _X_MIN
        ]
        if not marks:
            continue
        marks.sort(key=lambda mark: mark.shape == "diamond")  # what is published lies on top
        lines = [(0.0, "as fp32", "zero")]
        if budget > 0:
            lines.append((-budget, f"budget: {points_text(budget)}", "budget"))
        picture = Scatter(
            marks=marks,
            x_title=what,
            y_title=f"points of {metric}, against fp32",
            x_texts=_axis_texts([mark.x for mark in marks], axis),
            lines=lines,
            y_low=low - room,
            y_high=high + room,
            y_clip=low,
            caption=f"{metric} against {what.lower()} of {len(marks)} variants; the table below "
            "has the numbers",
        )
        pictures.append(scatter(picture))
    used = {_shape(one) for _, one in shown}
    legend = [tag("li", marker(shape), words) for shape, words in _SHAPES if shape in used]
    below = "An arrow marks what lies further below. " if min(changes) < low else ""
    return panel(
        "Size, speed and accuracy",
        f"Further left is smaller or faster, further up is better. {below}"
        "Numbers are those of the table below.",
        tag("div", *pictures, class_="plots"),
        tag("ul", *legend, class_="legend"),
    )


def _change(trial: Trial) -> float:
    return -(trial.drop_points or 0.0)


def _x(trial: Trial, axis: str) -> float:
    return float((trial.size_bytes if axis == "size" else trial.latency_p50_us) or 0.0)


def _axis_texts(values: list[float], axis: str) -> list[tuple[float, str]]:
    low, high, log = x_range(values)
    places = ticks(low, high, 4)
    if log:
        places = [
            factor * 10.0**power
            for power in range(-2, 13)
            for factor in (1, 3)
            if low <= factor * 10.0**power <= high
        ]
    written = bytes_text if axis == "size" else duration_text
    return [(value, written(value).replace(".0 ", " ") if value else "0") for value in places]


def _shape(trial: Trial) -> str:
    if trial.precision == "fp32":
        return "square"
    return {"published": "diamond", "accepted": "circle"}.get(trial.status, "cross")


def _title(trial: Trial) -> str:
    return (
        f"{trial.status}, {bytes_text(trial.size_bytes)}, {duration_text(trial.latency_p50_us)}, "
        f"{points_text(trial.drop_points)} points"
    )


def trials(document: Document) -> Html:
    """Return every recipe that was tried, with its reason."""
    if not document.trials:
        return Html("")
    every = [
        column("Recipe"),
        column("Verdict"),
        column("Size", "right"),
        column("Update", "right"),
        column(_named(document.metric), "right"),
        column("Points", "right"),
        column("Latency p50", "right"),
        column("p95", "right"),
        column("Took", "right"),
    ]
    rows = [_trial_row(number, one) for number, one in enumerate(document.trials, 1)]
    updates = any(one.update_bytes for one in document.trials)
    used = [place for place, (title, _) in enumerate(every) if updates or title != "Update"]
    columns = [every[place] for place in used]
    rows = [tuple(row[place] for place in used) for row in rows]
    source = {"evaluation": "evaluation", "calibration": "calibration"}.get(document.metric_source)
    basis = "Nothing was measured: there was no data."
    if document.metric and source:
        basis = (
            f"{_named(document.metric)} on {count_text(document.samples, 'sample')} of the "
            f"{source} data; fp32 reaches {value_text(document.reference)}, at most "
            f"{document.max_drop_points:g} points may be lost."
        )
    reasons = [one.reason for one in document.trials]
    return panel(
        "What was tried",
        basis,
        table(columns, rows, label="Recipes that were tried", below=reasons),
    )


def _trial_row(number: int, trial: Trial) -> tuple[str, ...]:
    mark = marker(_shape(trial)) if trial.value is not None else ""
    return (
        join([mark, f"{number} {trial.recipe}"]),
        pill(trial.status, _verdict(trial)),
        bytes_text(trial.size_bytes),
        bytes_text(trial.update_bytes),
        value_text(trial.value),
        points_text(trial.drop_points),
        duration_text(trial.latency_p50_us),
        duration_text(trial.latency_p95_us),
        "\N{EN DASH}" if trial.seconds is None else f"{trial.seconds:.1f} s",
    )


def _verdict(trial: Trial) -> str:
    if trial.status == "published":
        return f"published as {trial.variant}"
    return trial.status


def sensitivity(document: Document) -> Html:
    """Return what each node costs when it alone is quantized."""
    rows = document.sensitivity
    if not rows:
        return Html("")
    shown = rows[:_SENSITIVITY_ROWS]
    worst = max(1e-12, *(abs(one.loss) for one in rows))
    kept = sum(one.kept for one in rows)
    cells: list[tuple[str, ...]] = [
        (
            tag("span", one.node, class_="mono"),
            one.operator,
            bar(max(0.0, one.loss) / worst, "bad" if one.kept else "good"),
            f"{one.loss:.4g}",
            pill("warned", "left in float") if one.kept else "quantized",
        )
        for one in shown
    ]
    columns = [
        column("Node"),
        column("Operator"),
        column("Loss", "graph"),
        column("Share", "right"),
        column("In the mixed variant"),
    ]
    if not kept:
        columns, cells = columns[:-1], [row[:-1] for row in cells]
    more = f" The other {len(rows) - len(shown)} lose less." if len(rows) > len(shown) else ""
    return panel(
        "Which layers are sensitive",
        f"Share of the outputs' variance that is lost when only this is quantized.{more}",
        table(columns, cells, label="Sensitivity of each node"),
    )


# ---------------------------------------------------------------- decisions and origin


def gates(document: Document) -> Html:
    """Return the gates with their verdicts."""
    if not document.gates:
        return Html("")
    columns = [
        column("Gate"),
        column("Verdict"),
        column("Of"),
        column("Measured", "right"),
        column("Limit", "right"),
    ]
    rows = [
        (
            one.name.replace("_", " "),
            pill(one.status, one.status.replace("_", " ")),
            one.variant or "the version",
            quantity_text(one.measured, one.unit),
            f"{_DIRECTIONS.get(one.direction, '')} {quantity_text(one.bound, one.unit)}".strip(),
        )
        for one in document.gates
    ]
    below = [
        " ".join(filter(None, [one.detail, one.overridden_by and f"By {one.overridden_by}."]))
        for one in document.gates
    ]
    return panel(
        "Gates",
        "What had to be true before anything was signed.",
        table(columns, rows, label="Gates", below=below),
    )


def data_checks(document: Document) -> Html:
    """Return what was found in the calibration and evaluation data."""
    if not document.data_checks:
        return Html("")
    columns = [column("Check"), column("Verdict"), column("What was found", "text")]
    rows = [
        (one.name.replace("_", " "), pill(one.severity), f"{one.detail} {one.hint}".strip())
        for one in document.data_checks
    ]
    return panel(
        "Checks of the data",
        "What the data is worth decides what the numbers above are worth.",
        table(columns, rows, label="Checks of the data"),
    )


def lineage(document: Document) -> Html:
    """Return where the version comes from, and what was made of it."""

    def digest(text: str) -> str:
        return tag("span", text, class_="mono") if text else ""

    tensors = [
        join(
            [
                tag("span", one.name, class_="mono"),
                f" {one.datatype} [{_shape_text(one.shape)}]",
            ]
        )
        for one in document.tensors
    ]
    inputs = [
        text for one, text in zip(document.tensors, tensors, strict=True) if one.direction == "in"
    ]
    rows: list[tuple[str, str]] = [
        ("File", f"{document.source_name}, {bytes_text(document.source_bytes)}"),
        ("Source", digest(document.source)),
        ("Parent", document.parent),
        ("Calibration data", digest(document.calibration)),
        ("Evaluation data", digest(document.evaluation)),
        ("Pushed", f"{time_text(document.created_at)} by {document.created_by}"),
        ("Measured on", document.measured_on),
        *document.facts,
        ("Inputs", join(inputs, ", ")),
        ("Outputs", join(tensors[len(inputs) :], ", ")),
        ("Classes", ", ".join(document.labels[:100])),
        ("Network", _network(document)),
    ]
    parts = [facts(rows)]
    if document.variants:
        columns = [
            column("Bundle"),
            column("Recipe"),
            column("Model", "right"),
            column("A device fetches", "right"),
            column("Manifest", "text"),
        ]
        cells = [
            (
                f"{one.variant}{' (encrypted)' if one.encrypted else ''}",
                one.recipe,
                bytes_text(one.model_bytes),
                bytes_text(one.bundle_bytes),
                tag("span", digest_text(one.manifest), class_="mono", title=one.manifest),
            )
            for one in document.variants
        ]
        parts.append(table(columns, cells, label="Published bundles"))
    return panel("Where it comes from", "", *parts)


def _shape_text(shape: tuple[int, ...]) -> str:
    return ", ".join("N" if size < 0 else str(size) for size in shape)


def _network(document: Document) -> str:
    if not document.measured:
        return ""
    opset = f", opset {document.opset}" if document.opset else ""
    return (
        f"{count_text(document.parameters, 'parameter')}, {count_text(document.nodes, 'node')}"
        f"{opset}"
    )
