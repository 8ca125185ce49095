"""The sections about the answers: confusion before and after, and where the two models part."""

from __future__ import annotations

from edgectl_server.report_page.document import Confusion, Document
from edgectl_server.report_page.html import Html, tag
from edgectl_server.report_page.parts import column, panel, table
from edgectl_server.report_page.plots import bar
from edgectl_server.report_page.wording import points_text

__all__ = ["confusion", "disagreements"]

_MATRIX_CLASSES_MAX = 16
_CLASS_ROWS_MAX = 60
_HEATS = 6
_NAME_MAX = 40


def confusion(document: Document) -> Html:
    """Return what each class was taken for by fp32 and by the first choice, and its change."""
    found = document.confusion
    if found is None:
        return Html("")
    parts = []
    if len(found.names) <= _MATRIX_CLASSES_MAX:
        first = document.first_choice
        after = first.recipe if first else found.variant or "quantized"
        parts.append(
            tag(
                "div",
                _matrix(found, found.before, "fp32"),
                _matrix(found, found.after, after),
                class_="matrices",
            )
        )
    parts.append(_classes(found))
    return panel(
        "Confusion before and after",
        "Rows are true classes, columns what the model said; the diagonal is right.",
        *parts,
    )


def _matrix(found: Confusion, counts: tuple[tuple[int, ...], ...], title: str) -> Html:
    numbers = range(len(found.names))
    head = [tag("th", "True", scope="col")]
    head += [tag("th", str(one), scope="col", title=_name(found, one)) for one in numbers]
    rows = []
    for true in numbers:
        total = max(1, sum(counts[true]))
        cells = [tag("th", f"{true} {_name(found, true)}", scope="row")]
        for said in numbers:
            count = counts[true][said]
            heat = min(_HEATS, round(_HEATS * count / total + 0.49)) if count else 0
            kind = f"{'h' if said == true else 'w'}{heat}" if heat else "nothing"
            cells.append(tag("td", str(count) if count else "\N{MIDDLE DOT}", class_=kind))
        rows.append(tag("tr", *cells))
    inside = tag(
        "table",
        tag("caption", title),
        tag("thead", tag("tr", *head)),
        tag("tbody", *rows),
        class_="matrix",
    )
    label = f"Confusion matrix of {title}"
    return tag("div", inside, class_="scroll", tabindex="0", role="region", aria_label=label)


def _classes(found: Confusion) -> Html:
    rows = []
    for one in range(len(found.names)):
        total = sum(found.before[one])
        if total:
            before = found.before[one][one] / total
            after = found.after[one][one] / max(1, sum(found.after[one]))
            rows.append((before - after, one, total, before, after))
    rows.sort(key=lambda row: (-row[0], row[1]))
    shown = rows[:_CLASS_ROWS_MAX]
    cells = [
        (
            f"{one} {_name(found, one)}",
            f"{total:,}",
            f"{before:.1%}",
            bar(after, "bad" if lost > 0 else "good", limit=before),
            f"{after:.1%}",
            points_text(100 * lost),
        )
        for lost, one, total, before, after in shown
    ]
    columns = [
        column("Class"),
        column("Samples", "right"),
        column("Right, fp32", "right"),
        column("First choice; the line is fp32", "graph"),
        column("Right, first choice", "right"),
        column("Points", "right"),
    ]
    return table(columns, cells, label="Each class before and after")


def disagreements(document: Document) -> Html:
    """Return the samples on which fp32 was surest and the first choice says something else."""
    rows = document.disagreements
    if not rows:
        return Html("")
    cells = [
        (
            f"sample {one.index}",
            one.label,
            _said(one.before, one.label),
            "" if one.before_score is None else f"{one.before_score:.4g}",
            _said(one.after, one.label),
            "" if one.after_score is None else f"{one.after_score:.4g}",
        )
        for one in rows
    ]
    columns = [
        column("Where"),
        column("True"),
        column("fp32 says"),
        column("Score", "right"),
        column("First choice says"),
        column("Score", "right"),
    ]
    used = [place for place in range(6) if any(row[place] for row in cells)]
    return panel(
        "Top disagreements",
        "Samples that the first choice answers otherwise than fp32, the surest first. Samples are "
        "counted from 0, as in the data that was pushed.",
        table(
            [columns[place] for place in used],
            [[row[place] for place in used] for row in cells],
            label="Top disagreements",
        ),
    )


def _said(answer: str, label: str) -> str:
    if not label:
        return answer
    return f"{answer} \N{CHECK MARK}" if answer == label else f"{answer} \N{MULTIPLICATION SIGN}"


def _name(found: Confusion, one: int) -> str:
    name = found.names[one]
    if name == str(one):
        return ""
    return name if len(name) <= _NAME_MAX else f"{name[: _NAME_MAX - 1]}…"
