"""The lineage of a version for a person."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table

from edgectl import types
from edgectl.output import age, bytes_text, duration_text, pairs, plain, table

__all__ = ["imported_rows", "lineage_tables"]


def lineage_tables(lineage: types.LineageInfo) -> Group:
    """Return what a version was made of, how its variants were made, and what it descends from."""
    parts: list[Table] = [_origin(lineage)]
    if lineage.imported is not None:
        parts.append(pairs(imported_rows(lineage.imported), "imported"))
    parts += [_variant(one) for one in lineage.variants]
    if lineage.ancestors:
        parts.append(_ancestors(lineage))
    return Group(*parts)


def imported_rows(imported: types.ImportedInfo) -> list[tuple[str, str]]:
    """Return from where a version came as a file, line by line."""
    rows = [
        ("origin", imported.origin),
        ("root", f"{imported.root} (version {imported.root_version})"),
        ("file", f"{imported.filename} {imported.file}"),
        ("pushed there by", imported.pushed_by),
        ("imported", age(imported.imported_at)),
    ]
    if imported.expired_for_s:
        rows.append(
            ("signatures", f"could have ended {duration_text(imported.expired_for_s)} before")
        )
    return [(name, plain(value)) for name, value in rows if value]


def _origin(lineage: types.LineageInfo) -> Table:
    rows = [
        ("file", f"{lineage.source_name}, {bytes_text(lineage.source_bytes)}"),
        ("source", lineage.source),
        ("pushed", f"{age(lineage.pushed_at)} by {lineage.pushed_by}"),
        ("parent", lineage.parent or ""),
        ("children", ", ".join(lineage.children)),
        ("calibration", lineage.calibration or ""),
        ("evaluation", lineage.evaluation or ""),
        ("training data", lineage.training_data or ""),
        ("code revision", lineage.code_revision),
        ("measured on", lineage.measured_on),
    ]
    shown = [(name, plain(value)) for name, value in rows if value]
    return pairs(shown, f"{plain(lineage.model)}@{plain(lineage.version)}")


def _variant(variant: types.VariantLineage) -> Table:
    samples = f"{variant.calibration_samples} samples" if variant.calibration_samples else ""
    rows = [
        ("manifest", variant.manifest),
        ("recipe", variant.recipe),
        ("calibrated on", samples),
        ("in steps from", variant.steps_from or ""),
        ("left in float", ", ".join(variant.float_nodes)),
        ("golden inputs", _golden(variant.golden)),
        ("tools", ", ".join(f"{tool.name} {tool.version}" for tool in variant.tools)),
    ]
    shown = [(name, plain(value)) for name, value in rows if value]
    return pairs(shown, f"variant {plain(variant.variant)}")


def _golden(golden: types.GoldenInfo) -> str:
    limits = [
        f"{name} within {one.atol:g} + {one.rtol:g} of it"
        for name, one in golden.tolerances.items()
    ]
    return "; ".join([f"{golden.agreement_min:.0%} of {golden.cases} must agree", *limits])


def _ancestors(lineage: types.LineageInfo) -> Table:
    rows = [
        (plain(one.version), plain(one.state), plain(one.source), plain(one.pushed_by))
        for one in lineage.ancestors
    ]
    return table(["ANCESTOR", "STATE", "SOURCE", "BY"], rows)
