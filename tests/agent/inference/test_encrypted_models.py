"""Encrypted models in the processes that run them: opened in memory, for the right key only."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent.inference.encrypted import KEY, encrypt_bundle, with_key
from agent.inference.models import HAR, Client, activity, make_bundle
from edgectl_agent.inference.errors import LoadFailed
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.inference.served import prepare
from edgectl_agent.runtime import Stop
from edgectl_agent.trial import Verdict, run_trial

MEMORY = 1024**3
_NO_FILES = ("socket:", "pipe:", "anon_inode:", "/dev/")


def ask(endpoint: str) -> tuple[str, list[float]]:
    """Return the manifest that answered, and its answer to one real window."""
    window = activity()[0][:1]
    given = {"name": "input", "shape": window.shape, "datatype": "FP32"}
    body = {"inputs": [{**given, "data": window.ravel().tolist()}]}
    client = Client(endpoint)
    try:
        status, answer = client.call("POST", "/v2/models/activity/infer", body)
    finally:
        client.close()
    assert status == 200, answer
    return answer["parameters"]["manifest"], answer["outputs"][0]["data"]


def test_plain_and_encrypted_take_each_others_place(
    tmp_path: Path, process: InferenceProcess
) -> None:
    plain = make_bundle(tmp_path)
    sealed = encrypt_bundle(plain, tmp_path)
    answers = []
    for bundle in (plain, with_key(sealed, KEY), plain, with_key(sealed, KEY)):
        process.load(bundle)
        manifest, answer = ask(process.endpoint)
        assert manifest == bundle.manifest
        answers.append(answer)
    assert answers[0] == answers[1] == answers[2] == answers[3]


@pytest.mark.parametrize("damage", ["key", "model", "exchanged"])
def test_what_does_not_open_leaves_the_old_one_serving(
    tmp_path: Path, process: InferenceProcess, damage: str
) -> None:
    plain = make_bundle(tmp_path)
    sealed = encrypt_bundle(plain, tmp_path)
    process.load(plain)
    before = ask(process.endpoint)
    match damage:
        case "key":
            sealed = with_key(sealed, bytes(32))
        case "model":
            content = bytearray(Path(sealed.model).read_bytes())
            content[len(content) // 2] ^= 1
            Path(sealed.model).write_bytes(content)
        case _:
            Path(sealed.model).write_bytes(Path(sealed.golden).read_bytes())
    with pytest.raises(LoadFailed) as caught:
        process.load(sealed)
    assert caught.value.code == "load.undecipherable"
    assert ask(process.endpoint) == before


def test_a_trial_proves_an_encrypted_candidate(tmp_path: Path) -> None:
    plain = make_bundle(tmp_path)
    sealed = encrypt_bundle(plain, tmp_path)
    result = run_trial(sealed, timeout_s=60, memory_bytes_max=MEMORY)
    assert result.verdict is Verdict.OK, result.reason
    assert result.report is not None
    assert result.report.golden_passed == result.report.golden_total == 16
    assert result.report.max_abs_diff == 0


@pytest.mark.parametrize("damage", ["key", "model", "golden"])
def test_a_trial_does_not_blame_the_model_for_a_key(tmp_path: Path, damage: str) -> None:
    sealed = encrypt_bundle(make_bundle(tmp_path), tmp_path)
    if damage == "key":
        sealed = with_key(sealed, bytes(32))
    else:
        path = Path(sealed.model if damage == "model" else sealed.golden)
        path.write_bytes(path.read_bytes()[:-1])
    result = run_trial(sealed, timeout_s=60, memory_bytes_max=MEMORY)
    assert result.verdict is Verdict.FAILED
    assert result.reason is not None
    assert result.reason.code == "trial.undecipherable"


def test_the_key_is_forgotten_after_loading(tmp_path: Path) -> None:
    sealed = encrypt_bundle(make_bundle(tmp_path), tmp_path)
    model, _ = prepare(sealed, Stop())
    assert sealed.key == bytearray(32)
    assert model._session._session._model_bytes in (None, b"")
    model.close()


def test_the_key_is_shown_nowhere(tmp_path: Path, process: InferenceProcess) -> None:
    sealed = encrypt_bundle(make_bundle(tmp_path), tmp_path)
    process.load(with_key(sealed, KEY))
    ask(process.endpoint)
    assert process._child is not None
    folder = Path(f"/proc/{process._child.pid}")
    shown = (folder / "cmdline").read_bytes()
    assert b"edgectl_agent.inference" in shown
    with contextlib.suppress(PermissionError):  # only root is shown it
        shown += (folder / "environ").read_bytes()
    for form in (KEY, KEY.hex().encode(), base64.b64encode(KEY)):
        assert form not in shown
    assert KEY.hex() not in repr(sealed)
    assert repr(bytearray(KEY)) not in repr(sealed)
    limit = next(
        row
        for row in (folder / "limits").read_text().splitlines()
        if row.startswith("Max core file size")
    )
    assert limit.split()[4:6] == ["0", "0"]


def test_no_plaintext_is_written_anywhere(tmp_path: Path, process: InferenceProcess) -> None:
    """Neither a file, nor a deleted one, nor one in memory that could be swapped as a file."""
    model = tmp_path / "plain"
    model.mkdir()
    sealed = encrypt_bundle(make_bundle(model), tmp_path)
    process.load(with_key(sealed, KEY))
    assert process._child is not None
    plain = HAR.read_bytes()
    marks = [plain[at : at + 48] for at in range(4096, len(plain) - 48, 9973)]
    marks = [mark for mark in marks if len(set(mark)) > 16]
    assert len(marks) > 5
    files = [path for path in tmp_path.rglob("*") if path.is_file() and model not in path.parents]
    with contextlib.suppress(PermissionError):  # only root is shown what it has open
        files.extend(
            descriptor
            for descriptor in Path(f"/proc/{process._child.pid}/fd").iterdir()
            if not str(descriptor.readlink()).startswith(_NO_FILES)
        )
    assert files
    for path in files:
        content = path.read_bytes()
        assert not any(mark in content for mark in marks), path


def test_nobody_but_root_reads_the_memory_of_these_processes() -> None:
    code = (
        "import ctypes, json, resource\n"
        "from edgectl_agent.decryption import refuse_dumps\n"
        "refuse_dumps()\n"
        "dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)\n"
        "print(json.dumps([dumpable, resource.getrlimit(resource.RLIMIT_CORE)]))\n"
    )
    output = subprocess.run(
        [sys.executable, "-P", "-c", code], check=True, capture_output=True, timeout=60
    ).stdout
    assert json.loads(output) == [0, [0, 0]]


@pytest.mark.parametrize("module", ["inference.server", "trial_child"])
def test_both_processes_refuse_dumps_first(module: str) -> None:
    """`main` is cut short at its first step, and has refused dumps by then."""
    code = (
        "import ctypes\n"
        f"from edgectl_agent.{module} import main\n"
        "try:\n    main([])\n"
        "except IndexError:\n    pass\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"
    )
    output = subprocess.run(
        [sys.executable, "-P", "-c", code],
        check=True,
        capture_output=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    ).stdout
    assert output.strip() == b"0"


def test_the_outputs_are_bit_for_bit_those_of_the_plain_model(tmp_path: Path) -> None:
    plain = make_bundle(tmp_path)
    windows = activity()[0][:8]
    outputs = []
    for bundle in (plain, encrypt_bundle(plain, tmp_path)):
        model, _ = prepare(bundle, Stop())
        outputs.append([model.run({"input": window[None]}) for window in windows])
        model.close()
    for left, right in zip(*outputs, strict=True):
        for name, values in left.items():
            np.testing.assert_array_equal(values, right[name])
