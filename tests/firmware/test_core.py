"""The C core against what Python says: models bit for bit, bundles code for code, hostile bytes."""

from __future__ import annotations

import base64
import json
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgectl_server.pipeline.flat_format import FlatInvalid
from edgectl_server.pipeline.flat_reading import decode_flat
from edgectl_server.pipeline.flat_reference import run_flat
from edgectl_server.pipeline.flat_writing import encode_flat
from firmware.crafted_flat import middle_model, random_model
from firmware.programs import CORE, Programs
from vectors.make_firmware import KEY, NAME, bundle

Build = Callable[..., Programs]
COMPILERS = ("gcc", "clang")


@pytest.fixture(params=COMPILERS, scope="module")
def programs(request: pytest.FixtureRequest, build: Build) -> Programs:
    """All programs, by each compiler in turn."""
    return build(request.param)


def statuses() -> dict[str, int]:
    """Return the codes of core/status.h by name."""
    names = re.findall(r"^    (EDGECTL_\w+)", (CORE / "status.h").read_text(), re.MULTILINE)
    return {name: number for number, name in enumerate(names)}


def test_models_of_the_vectors(programs: Programs, vectors: dict[str, Any]) -> None:
    for one in vectors["models"]:
        inputs = np.frombuffer(base64.b64decode(one["inputs"]), np.int8)
        found = programs.outputs(base64.b64decode(one["model"]), inputs)
        assert found == base64.b64decode(one["outputs"]), one["name"]


def test_thousands_of_inputs_to_models_at_random(programs: Programs) -> None:
    samples = 0
    for seed in range(100, 160):
        model = random_model(seed)
        first = model.tensors[model.input]
        shape = (64, first.channels, first.height, first.width)
        inputs = np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)
        assert programs.outputs(encode_flat(model), inputs) == run_flat(model, inputs).tobytes()
        samples += len(inputs)
    assert samples == 3840


def test_bundles_of_the_vectors(programs: Programs, vectors: dict[str, Any], bundles: Path) -> None:
    codes = statuses()
    for one in vectors["bundles"]:
        done = programs.run("read_bundle", bundles / "key", vectors["name"], bundles / one["name"])
        said = json.loads(done.stdout)
        if one["status"] in ("EDGECTL_OK", "EDGECTL_NO_MODEL"):
            wanted = {"installed": 0, "booted": codes[one["status"]]}
        else:
            wanted = {"installed": codes[one["status"]], "booted": codes["EDGECTL_NO_MODEL"]}
        assert said == wanted, one["name"]


def test_both_languages_refuse_the_same_models(build: Build) -> None:
    """Bytes of good models are changed at random; whoever takes one computes it alike."""
    programs, chosen, refused = build("gcc"), random.Random(3), 0
    for number in range(150):
        content = bytearray(encode_flat(random_model(number % 12)))
        for _ in range(chosen.randint(1, 3)):
            tables = chosen.random() < 0.8
            at = chosen.randrange(min(200, len(content)) if tables else len(content))
            content[at] = chosen.choice((0, 1, 0x7F, 0x80, 0xFF, chosen.randrange(256)))
        try:
            model = decode_flat(bytes(content))
        except FlatInvalid:
            refused += 1
            assert programs.outputs(bytes(content), np.zeros(0, np.int8)) is None, number
            continue
        assert programs.outputs(bytes(content), np.zeros(0, np.int8)) is not None, number
        assert model.arena_bytes >= 0
    assert 20 < refused < 140


def test_power_cuts_at_every_flash_operation(programs: Programs, bundles: Path) -> None:
    arguments = [bundles / "key", "tiny", bundles / "v1", bundles / "v2", bundles / "bad", 2]
    done = programs.run("power_cuts", *arguments)
    assert done.returncode == 0, done.stdout
    rows = {row["scenario"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert all(row["points"] > 10 and row["wrong"] == 0 for row in rows.values())
    assert rows["update"]["old"] > 0 < rows["update"]["new"], "cuts before and after the commit"
    assert rows["bad"]["new"] == 0, "what gives wrong answers never runs"
    assert rows["again-after-rot"]["new"] > 0 < rows["again-after-rot"]["none"]


def test_power_cuts_while_a_bundle_comes_in_parts(programs: Programs, tmp_path: Path) -> None:
    """Two sectors and a half; what was there before the cut is kept."""
    (tmp_path / "key").write_bytes(KEY.public_key().public_bytes_raw())
    for name, counter in (("v1", 1), ("v2", 2), ("bad", 2)):
        content = bundle(middle_model(counter), counter, wrong=name == "bad")
        assert 8192 < len(content) < 3 * 4096
        (tmp_path / name).write_bytes(content)
    files = [tmp_path / name for name in ("v1", "v2", "bad")]
    done = programs.run("power_cuts", tmp_path / "key", NAME, *files, 1, "parts")
    assert done.returncode == 0, done.stdout
    rows = {row["scenario"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert rows["update"]["points"] > 40


@pytest.mark.parametrize(
    ("file", "protection"),
    [
        ("update.c", "test_itself(device, found) == EDGECTL_OK"),
        ("update.c", "counter > record->floor"),
        ("journal.c", "found != NOWHERE"),
    ],
)
def test_the_power_cuts_find_a_protection_that_is_gone(
    file: str, protection: str, build: Build, bundles: Path, tmp_path: Path
) -> None:
    """The golden cases; the floor, whatever has rotted; the turn of the journal's sectors."""
    core = tmp_path / "core"
    core.mkdir()
    for source in CORE.iterdir():
        if source.suffix in {".c", ".h"}:
            (core / source.name).write_bytes(source.read_bytes())
    text = (core / file).read_text()
    assert text.count(protection) == 1
    gone = "1" if file == "update.c" else "0"
    (core / file).write_text(text.replace(protection, gone))
    settings = (f"CORE={core}", "CFLAGS=-Wno-unused")
    programs = build("gcc", "power_cuts", settings=settings, sanitize="")
    arguments = [bundles / "key", "tiny", bundles / "v1", bundles / "v2", bundles / "bad", 3]
    done = subprocess.run(
        [programs.folder / "power_cuts", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode != 0, f"{protection} is gone, and nobody has seen it: {done.stdout}"


@pytest.mark.parametrize("fuzzer", ["fuzz_model", "fuzz_bundle", "fuzz_journal", "fuzz_json"])
def test_what_fuzzers_try_holds_on_damaged_files(
    fuzzer: str, build: Build, vectors: dict[str, Any], tmp_path: Path
) -> None:
    programs, chosen = build("gcc"), random.Random(5)
    kind = ("models", "model") if fuzzer == "fuzz_model" else ("bundles", "bundle")
    files = []
    for number in range(200):
        content = bytearray(base64.b64decode(chosen.choice(vectors[kind[0]])[kind[1]]))
        for _ in range(chosen.randint(0, 6)):
            content[chosen.randrange(len(content))] = chosen.randrange(256)
        del content[chosen.randint(1, len(content)) if chosen.random() < 0.1 else len(content) :]
        (tmp_path / str(number)).write_bytes(content)
        files.append(tmp_path / str(number))
    assert programs.run(f"{fuzzer}_corpus", *files).stdout == "200 files\n"


def test_json_is_found_or_refused(build: Build, tmp_path: Path) -> None:
    """An order's envelope and a manifest, damaged: what is read lies within, or nothing is."""
    programs, chosen, files = build("gcc"), random.Random(7), []
    whole = json.dumps(
        {"a": [1, {"payload": "x", "": [True, None, -1.5e3]}], "payload": "\\u00e9", "": {}}
    ).encode()
    for number in range(300):
        content = bytearray(whole)
        for _ in range(chosen.randint(0, 4)):
            content[chosen.randrange(len(content))] = chosen.choice(b'{}[]",:\\0 x')
        del content[chosen.randint(1, len(content)) if number % 3 == 0 else len(content) :]
        (tmp_path / str(number)).write_bytes(content)
        files.append(tmp_path / str(number))
    assert programs.run("fuzz_json_corpus", *files).stdout == "300 files\n"
