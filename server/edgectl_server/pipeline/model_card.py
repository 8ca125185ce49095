"""``model-card.md``: what a variant is, what it was measured to be worth, where it comes from.

Pure and deterministic. Two kinds of text are in it: ours, and what whoever pushed the model has
written about its intended use. The latter is quoted, line by line, so that no heading in it can
pass for a measurement, and no markup in it is more than text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgectl_protocol.manifest import TensorSpec
from edgectl_server.pipeline.provenance import Provenance

__all__ = ["CARD_CHARACTERS_MAX", "make_card"]

CARD_CHARACTERS_MAX = 64 * 1024
_LINES_MAX = 2000
_TEXT_MAX = 256
_LABELS_SHOWN = 100
_LIMITS = """\
Latency and memory depend on the machine: they are in the report of the version, and each device
measures them again before it serves the model. Accuracy is that on the data named above; on other
data it is another."""
_UNPRINTABLE = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff"
    "\\ud800-\\udfff]"
)
"""Control characters, and those that turn the order of the text around or hide in it."""
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&!])")


def make_card(about: Provenance) -> bytes:
    """Return the card as Markdown (CommonMark with tables), UTF-8."""
    config = about.config
    title = f"# {_plain(config.model)}@{_plain(config.version)}, {_plain(config.variant)}"
    parts = [
        title,
        _quoted(about.card),
        "## What it is",
        _table([("Property", "Value"), *_what(about)]),
        "## What was measured",
        _measured(about),
        "## Where it comes from",
        _table([("Origin", "Value"), *_origin(about)]),
        "## What this does not say",
        _LIMITS,
    ]
    return ("\n\n".join(part for part in parts if part) + "\n").encode()


def _quoted(card: str) -> str:
    """Return the user's text as a quotation under a heading of ours."""
    text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", card[:CARD_CHARACTERS_MAX]).strip()
    if not text:
        return ""
    lines = text.replace("&", "&amp;").replace("<", "&lt;").split("\n")[:_LINES_MAX]
    quoted = "\n".join(f"> {line}".rstrip() for line in lines)
    return f"## Written by who pushed it\n\n{quoted}"


def _what(about: Provenance) -> Iterable[tuple[str, str]]:
    config = about.config
    yield "Precision", _plain(config.precision)
    yield "Recipe", _plain(config.quantization.recipe)
    if config.quantization.float_nodes:
        yield "Operators left in float", str(len(config.quantization.float_nodes))
    yield "Parameters", f"{about.parameters:,}"
    if about.opset:
        yield "Nodes, opset", f"{about.nodes:,}, {about.opset}"
    else:  # a .tflite file has none
        yield "Operators", f"{about.nodes:,}"
    yield "Runtime", _plain(config.runtime)
    if about.model_bytes:
        yield "File", f"{about.model_bytes:,} bytes"
    yield from (("Input", _tensor(one)) for one in config.inputs)
    yield from (("Output", _tensor(one)) for one in config.outputs)
    if config.labels:
        names = ", ".join(_plain(label) for label in config.labels[:_LABELS_SHOWN])
        more = len(config.labels) - _LABELS_SHOWN
        yield "Classes", names + (f" and {more} more" if more > 0 else "")
    kinds = ", ".join(f"{count} {_plain(kind)}" for kind, count in about.golden.items())
    yield "Golden cases", f"{config.golden.cases}" + (f": {kinds}" if kinds else "")


def _measured(about: Provenance) -> str:
    found = about.config.evaluation
    if found is None:
        return "Nothing: there was no data to measure it on."
    rows = [
        ("Metric", "fp32", "This variant", "Samples", "Data"),
        (
            _plain(found.metric),
            f"{found.reference:.4f}",
            f"{found.value:.4f}",
            f"{found.samples:,}",
            f"{_plain(about.metric_source)} data {_digest(found.dataset)}",
        ),
    ]
    note = ""
    if found.metric == "agreement":
        note = "\n\nAgreement with fp32 does not say how good fp32 is."
    if about.metric_source == "calibration":
        note += "\n\nCalibration data: static recipes have seen it."
    return _table(rows) + note


def _origin(about: Provenance) -> Iterable[tuple[str, str]]:
    config, lineage = about.config, about.config.lineage
    rows = [
        ("Source file", _digest(lineage.source)),
        ("Model file", _digest(about.model_digest)),
        ("Parent version", _plain(lineage.parent or "")),
        ("In small steps from", _digest(lineage.steps_from)),
        ("Pushed by", _plain(lineage.pushed_by)),
        ("Training data", _digest(lineage.training_data)),
        ("Code revision", _plain(lineage.code_revision)),
        ("Calibration data", _digest(config.quantization.calibration)),
        ("Calibration samples", str(config.quantization.calibration_samples or "")),
        ("Evaluation data", _digest(config.evaluation.dataset if config.evaluation else None)),
        ("Tools", ", ".join(f"{_plain(name)} {_plain(version)}" for name, version in about.tools)),
    ]
    return [row for row in rows if row[1]]


def _tensor(spec: TensorSpec) -> str:
    shape = ", ".join("N" if size < 0 else str(size) for size in spec.shape)
    return f"{_plain(spec.name)}: {spec.datatype} ({shape})"


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    columns = head.count(" | ") + 1
    return "\n".join([head, "|" + "---|" * columns, *body])


def _digest(text: str | None) -> str:
    return f"`{text}`" if text else ""


def _plain(text: str) -> str:
    """Return foreign text on one line, as text and no markup."""
    text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text).replace("\n", " ")
    text = text if len(text) <= _TEXT_MAX else f"{text[: _TEXT_MAX - 1]}…"
    return _MARKUP.sub(r"\\\1", text.replace("\t", " "))
