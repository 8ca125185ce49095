"""Labels of samples as files: CSV, and tasks of Label Studio in its JSON.

CSV: a header, then one line an annotation. Columns: ``sample`` or ``request`` (and ``device``),
``label``, ``skipped`` (1, true or yes: cannot tell), ``labeller``. Others are ignored; a line with
neither label nor skipped says nothing.

Label Studio: a list of tasks. ``data.sample`` (or ``data.request`` and ``data.device``) says of
what a task is; each of its annotations has one result of the type ``choices`` with one choice, or
``was_cancelled``, which is "cannot tell". Who has made it is ``completed_by`` (a number, or an
object with an e-mail address), unless we have sent it there: then ``meta.text`` of the result
tells. Format: labelstud.io, Label Studio task format and JSON export.

Bounded: `FILE_BYTES_MAX` and `ITEMS_MAX`. What is wrong is told with its line or task.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

import msgspec
from msgspec import Struct

from edgectl.errors import LocalError
from edgectl.types import AnnotationInfo, AnnotationItem, SampleContent, SampleInfo, TensorContent

__all__ = [
    "FILE_BYTES_MAX",
    "ITEMS_MAX",
    "Placed",
    "csv_text",
    "read_csv",
    "read_labels",
    "read_studio",
    "studio_config",
    "studio_task",
]

FILE_BYTES_MAX = 64 * 1024**2
ITEMS_MAX = 100_000
_COLUMNS = ("sample", "label", "skipped", "labeller", "source", "made_at")
_SAMPLE = re.compile(r"[0-9a-f]{16}")
_YES = frozenset({"1", "true", "yes"})
_LABELLER = "labeller: "
_CONTROL, _OBJECT = "label", "sample"


class Placed(NamedTuple):
    """An item, and where in the file it stands."""

    where: str
    item: AnnotationItem


def read_labels(path: Path, kind: str = "auto") -> list[Placed]:
    """Read a file.

    Args:
        path: of it.
        kind: ``csv``, ``label-studio``, or ``auto``: by its first character.

    Raises:
        LocalError: ``labels.file``: it cannot be read, is too long, or says what makes no sense.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _wrong(f"cannot read {path}: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise _wrong(f"{path} has more than {FILE_BYTES_MAX} bytes")
    if kind == "auto":
        kind = "label-studio" if content.lstrip()[:1] in {b"[", b"{"} else "csv"
    items = read_csv(content) if kind == "csv" else read_studio(content)
    return list(items)


# ---------------------------------------------------------------- CSV


def read_csv(content: bytes) -> Iterator[Placed]:
    """Yield the items of a CSV file; raise `LocalError` ``labels.file``."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _wrong(f"it is no UTF-8 at byte {error.start}") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    count = 0
    try:
        _check_columns(reader.fieldnames or ())
        for line in reader:
            item = _of_line(reader.line_num, line)
            if item is None:
                continue
            count += 1
            _check_count(count)
            where = f"line {reader.line_num}"
            _check_sample(where, item)
            yield Placed(where, item)
    except csv.Error as error:
        raise _wrong(f"line {reader.reader.line_num}: {error}") from error


def _check_columns(names: Sequence[str]) -> None:
    if not {"sample", "request"} & set(names) or not {"label", "skipped"} & set(names):
        raise _wrong(
            f"line 1: columns {', '.join(map(repr, names[:10]))}; expected sample (or request) "
            "and label"
        )
    if len(set(names)) < len(names):
        raise _wrong("line 1: two columns have one name")


def _of_line(number: int, line: Mapping[str | None, Any]) -> AnnotationItem | None:
    if None in line:
        raise _wrong(f"line {number}: more fields than the header has")
    fields = {name: (line.get(name) or "").strip() for name in ("sample", "request", "device")}
    label, skipped = (line.get("label") or "").strip(), (line.get("skipped") or "").strip().lower()
    if not label and not skipped:
        return None
    if not fields["sample"] and not fields["request"]:
        raise _wrong(f"line {number}: neither sample nor request")
    if skipped and skipped not in _YES | {"0", "false", "no"}:
        raise _wrong(f"line {number}: skipped is {skipped[:20]!r}, expected 1 or nothing")
    if label and skipped in _YES:
        raise _wrong(f"line {number}: a label, and skipped too")
    if not label and skipped not in _YES:
        return None
    return AnnotationItem(
        sample=fields["sample"] or None,
        request=None if fields["sample"] else fields["request"],
        device=None if fields["sample"] else fields["device"] or None,
        label=label or None,
        labeller=(line.get("labeller") or "").strip() or None,
    )


def csv_text(annotations: Iterable[AnnotationInfo]) -> str:
    """Return a CSV file of annotations, which `read_csv` reads."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in annotations:
        skipped = "1" if one.label is None else ""
        made_at = one.made_at.isoformat()
        writer.writerow((one.sample, one.label or "", skipped, one.labeller, one.source, made_at))
    return file.getvalue()


# ---------------------------------------------------------------- Label Studio


class _Value(Struct, frozen=True):
    choices: list[str] = []


class _Meta(Struct, frozen=True):
    text: list[str] | str = []


class _Result(Struct, frozen=True):
    type: str = ""
    value: _Value = _Value()
    meta: _Meta = _Meta()


class _Person(Struct, frozen=True):
    email: str = ""
    id: int | str = ""


class _Annotation(Struct, frozen=True):
    result: list[Any] = []
    was_cancelled: bool = False
    completed_by: int | str | _Person | None = None


class _Task(Struct, frozen=True):
    data: dict[str, Any]
    id: int | str | None = None
    annotations: list[_Annotation] = []


def read_studio(content: bytes) -> Iterator[Placed]:
    """Yield the items of Label Studio's JSON; raise `LocalError` ``labels.file``."""
    try:
        tasks = msgspec.json.decode(content)
        tasks = tasks if isinstance(tasks, list) else [tasks]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _wrong(f"it is no JSON: {error}") from error
    count = 0
    for number, one in enumerate(tasks, 1):
        where = f"task {number}"
        try:
            task = msgspec.convert(one, _Task)
        except msgspec.ValidationError as error:
            raise _wrong(f"{where}: {error}") from error
        where += "" if task.id is None else f" (id {str(task.id)[:40]})"
        for place, annotation in enumerate(task.annotations, 1):
            count += 1
            _check_count(count)
            here = f"{where}, annotation {place}"
            item = _of_annotation(here, task, annotation)
            _check_sample(here, item)
            yield Placed(here, item)


def _of_annotation(where: str, task: _Task, annotation: _Annotation) -> AnnotationItem:
    names = {name: task.data.get(name) for name in ("sample", "request", "device")}
    if any(not isinstance(name, str | None) for name in names.values()):
        raise _wrong(f"{where}: sample, request and device are texts")
    if not names["sample"] and not names["request"]:
        raise _wrong(f"{where}: the task's data has no sample, of which it could be")
    try:
        results = [msgspec.convert(one, _Result) for one in annotation.result if _chooses(one)]
    except msgspec.ValidationError as error:
        raise _wrong(f"{where}: {error}") from error
    label: str | None = None
    if not annotation.was_cancelled:
        chosen = [choice for one in results for choice in one.value.choices]
        if len(chosen) != 1:
            raise _wrong(f"{where}: {len(chosen)} choices, expected one")
        label = chosen[0]
    return AnnotationItem(
        sample=names["sample"],
        request=None if names["sample"] else names["request"],
        device=None if names["sample"] else names["device"],
        label=label,
        labeller=_labeller(annotation, results),
    )


def _chooses(result: Any) -> bool:
    return isinstance(result, dict) and result.get("type") == "choices"


def _labeller(annotation: _Annotation, results: Sequence[_Result]) -> str | None:
    for one in results:
        for text in [one.meta.text] if isinstance(one.meta.text, str) else one.meta.text:
            if text.startswith(_LABELLER):
                return text.removeprefix(_LABELLER)
    by = annotation.completed_by
    if isinstance(by, _Person):
        by = by.email or by.id
    if by is None or by == "":
        return None
    return by if isinstance(by, str) and not by.isdigit() else f"label-studio-{by}"


def studio_task(
    sample: SampleInfo, annotations: Iterable[AnnotationInfo], content: SampleContent | None
) -> dict[str, Any]:
    """Return a task.

    Args:
        sample: that it is of.
        annotations: what is said of it already.
        content: what is to be seen; None: the task shows only what the sample is of.
    """
    data: dict[str, Any] = {
        "sample": sample.id,
        "device": sample.device,
        "model": f"{sample.model}@{sample.version}",
        "reason": sample.reason,
        "taken_at": sample.taken_at.isoformat(),
    }
    task: dict[str, Any] = {"data": data}
    task["annotations"] = [_studio_annotation(one) for one in annotations]
    if content is not None:
        data |= _shown(content.inputs[0])
        if 0 <= sample.answer < len(content.classes):
            answer = {"result": [_choice(content.classes[sample.answer])]}
            score = {} if sample.confidence is None else {"score": sample.confidence}
            task["predictions"] = [{"model_version": data["model"], **score, **answer}]
    return task


def _studio_annotation(one: AnnotationInfo) -> dict[str, Any]:
    if one.label is None:
        return {"result": [], "was_cancelled": True}
    meta = {"meta": {"text": [f"{_LABELLER}{one.labeller}"]}}
    return {"result": [_choice(one.label) | meta], "was_cancelled": False}


def _choice(label: str) -> dict[str, Any]:
    return {
        "from_name": _CONTROL,
        "to_name": _OBJECT,
        "type": "choices",
        "value": {"choices": [label]},
    }


def _shown(tensor: TensorContent) -> dict[str, Any]:
    if tensor.png is not None:
        return {"image": f"data:image/png;base64,{tensor.png}"}
    if tensor.channels is not None:
        columns = {f"c{number}": values for number, values in enumerate(tensor.channels)}
        return {"series": {"t": list(range(len(tensor.channels[0]))), **columns}}
    names = tensor.names or [str(number) for number in range(len(tensor.values or ()))]
    return {"table": dict(zip(names, tensor.values or (), strict=True))}


def studio_config(classes: Sequence[str], tensor: TensorContent | None) -> str:
    """Return the labelling configuration of a project for these tasks."""
    if tensor is not None and tensor.png is not None:
        shown = f'<Image name="{_OBJECT}" value="$image"/>'
    elif tensor is not None and tensor.channels is not None:
        channels = "".join(
            f'<Channel column="c{number}"/>' for number in range(len(tensor.channels))
        )
        shown = (
            f'<TimeSeries name="{_OBJECT}" valueType="json" value="$series" timeColumn="t">'
            f"{channels}</TimeSeries>"
        )
    elif tensor is not None:
        shown = f'<Table name="{_OBJECT}" value="$table"/>'
    else:
        shown = f'<Text name="{_OBJECT}" value="$sample"/>'
    choices = "".join(f"<Choice value={quoteattr(one)}/>" for one in classes)
    return (
        f'<View>{shown}<Choices name="{_CONTROL}" toName="{_OBJECT}" choice="single" '
        f'showInLine="true">{choices}</Choices></View>\n'
    )


def _check_sample(where: str, item: AnnotationItem) -> None:
    """Refuse what a server would refuse too, which cannot say where in the file it stands.

    A spreadsheet that takes an id of digits for a number writes 1.2e+15 instead.
    """
    if item.sample is not None and _SAMPLE.fullmatch(item.sample) is None:
        raise _wrong(f"{where}: sample is {item.sample[:40]!r}, no id of one: 16 of 0-9 and a-f")


def _check_count(count: int) -> None:
    if count > ITEMS_MAX:
        raise _wrong(f"more than {ITEMS_MAX} labels: split the file")


def _wrong(detail: str) -> LocalError:
    return LocalError("labels.file", detail, "nothing was sent: correct the file")
