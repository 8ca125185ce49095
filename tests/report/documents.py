"""Versions as the REST API gives them, for the page: one with everything, and a hostile one."""

from __future__ import annotations

from typing import Any

LABELS = ["walking", "upstairs", "downstairs", "sitting", "standing", "lying", "transition"]
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)></style></title>&amp;\u202e\x00"
_TRIALS = [
    ("fp32", "accepted", "", 444_900, 0.9540, 0.0, 141.0, 350.0),
    ("int8-static-minmax-per-tensor", "accepted", "", 121_400, 0.9580, -0.4, 44.3, 89.0),
    ("int8-static-minmax-per-channel", "accepted", "", 127_400, 0.9593, -0.53, 46.0, 174.0),
    ("int8-static-minmax-u8u8", "rejected", "loses 2.39 points", 121_400, 0.93, 2.39, None, None),
    ("int8-static-minmax-s8s8", "rejected", "loses 34 points", 121_400, 0.612, 34.2, 45.0, 85.0),
    ("int8-mixed-minmax-per-tensor-3", "accepted", "", 151_000, 0.957, -0.3, 52.0, 100.0),
    ("int8-dynamic", "skipped", "needs calibration data", None, None, None, None, None),
]


def trial(recipe, status, reason, *numbers) -> dict[str, Any]:
    size, value, drop, p50, p95 = numbers
    precision = "fp32" if recipe == "fp32" else "int8"
    return {
        "recipe": recipe,
        "variant": precision,
        "precision": precision,
        "status": status,
        "reason": reason,
        "size_bytes": size,
        "value": value,
        "drop_points": drop,
        "latency_p50_us": p50,
        "latency_p95_us": p95,
        "seconds": 1.3,
        "float_nodes": 3 if "mixed" in recipe else 0,
    }


def variant(name: str, recipe: str, size: int, rank: int) -> dict[str, Any]:
    return {
        "variant": name,
        "precision": name,
        "manifest": f"sha256:{rank}{'a' * 63}",
        "model_bytes": size,
        "bundle_bytes": size + 50_000,
        "rank": rank,
        "encrypted": False,
        "trial": {"recipe": recipe},
    }


def matrix(wrong: int) -> list[list[int]]:
    """Return counts of seven classes, of which `wrong` a class are taken for the next."""
    rows = [[0] * 7 for _ in range(7)]
    for true, row in enumerate(rows):
        row[true] = 200 - wrong
        row[(true + 1) % 7] = wrong
    return rows


def report() -> dict[str, Any]:
    return {
        "metric": "accuracy",
        "metric_source": "evaluation",
        "samples": 1500,
        "reference": 0.954,
        "max_drop_points": 1.0,
        "opset": 17,
        "nodes": 43,
        "parameters": 110_000,
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 6, 128]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 7]}],
        "trials": [trial(*row) for row in _TRIALS],
        "measured_on": "AMD EPYC (x86_64), onnxruntime 1.32.0, 1 thread",
        "warnings": ["Measured on the calibration data."],
        "golden": {"closest": 4, "class": 3, "confident": 2, "largest": 4, "random": 3},
        "search_s": 12.3,
        "sensitivity": [
            {"node": f"/block.{number}/Conv", "operator": "Conv", "loss": 0.7**number}
            for number in range(16)
        ],
        "confusion": {"before": matrix(9), "after": matrix(11)},
        "top_disagreements": [
            {
                "index": 116,
                "label": 3,
                "reference_class": 3,
                "reference_score": 4.1,
                "variant_class": 4,
                "variant_score": 2.9,
            }
        ],
        "gates": [
            {
                "variant": "int8",
                "name": "drop",
                "status": "passed",
                "measured": -0.4,
                "bound": 1.0,
                "direction": "<=",
                "unit": "points",
            },
            {
                "variant": "",
                "name": "contract",
                "status": "overridden",
                "detail": "classes 3 and 4 are swapped.",
                "overridden_by": "ada",
            },
        ],
        "small_steps": [
            {
                "variant": "fp32",
                "trained": "fp32",
                "released": "fp32-steps-uniform-2.5",
                "size_bytes": 444_900,
                "trained_bytes": 300_000,
                "released_bytes": 12_300,
                "parent_value": 0.08,
                "trained_value": 0.9253,
                "released_value": 0.9217,
                "allowed_points": 0.5,
                "levels": [
                    {
                        "name": "uniform-2",
                        "estimated_bytes": 8000,
                        "status": "rejected",
                        "value": 0.9,
                        "lost_points": 2.53,
                        "reason": "loses 2.53 points of what was trained, allowed are 0.5",
                    },
                    {"name": "uniform-2.5", "estimated_bytes": 12_000, "status": "released"},
                ],
            },
            {"variant": "int8", "trained": "int8", "reason": "its scales are not those"},
        ],
        "data_checks": [
            {
                "name": "duplicates",
                "severity": "warning",
                "detail": "12 of 1,500 samples occur twice.",
                "hint": "Take them out.",
            }
        ],
    }


def version(**changes: Any) -> dict[str, Any]:
    """Return a version with every section of the report."""
    whole = {
        "model": "har",
        "version": "1",
        "state": "ready",
        "created_at": "2026-11-29T00:45:43.120000Z",
        "created_by": "ada",
        "source": "sha256:" + "b" * 64,
        "source_name": "har_v1.onnx",
        "source_bytes": 444_871,
        "calibration": "sha256:" + "c" * 64,
        "evaluation": "sha256:" + "e" * 64,
        "parent": "0",
        "labels": LABELS,
        "variants": [
            variant("int8", "int8-static-minmax-per-tensor", 121_400, 0),
            variant("fp32", "fp32", 444_900, 1),
        ],
        "report": report(),
        "error": None,
    }
    return whole | changes


def poisoned(value: Any) -> Any:
    """Return a document with every text made hostile but those that choose something."""
    if isinstance(value, dict):
        return {key: poisoned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    kept = {"fp32", "int8", "accepted", "rejected", "skipped", "evaluation", "points"}
    return value + EVIL if isinstance(value, str) and value not in kept else value
