"""Hooks, as real processes: what is run, what is not, and that nothing of them stays behind."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from edgectl_agent.errors import StepCancelled
from edgectl_agent.hooks import HOOKS, HookFailed, Hooks

WHAT = {"slot": "vision", "version": "2", "variant": "int8", "manifest": "sha256:" + "a" * 64}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "hooks"
    made.mkdir(mode=0o755)
    return made


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(mode)
    return path


def run(folder: Path | None, phase: str = "pre-activate", timeout_s: float = 20.0) -> None:
    Hooks(folder, timeout_s=timeout_s).run(phase, **WHAT)  # type: ignore[arg-type]


def failure(folder: Path, timeout_s: float = 20.0) -> HookFailed:
    with pytest.raises(HookFailed) as caught:
        run(folder, timeout_s=timeout_s)
    return caught.value


def is_gone(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_where_there_are_none_nothing_happens(folder: Path, tmp_path: Path) -> None:
    run(None)
    run(tmp_path / "missing")
    for phase in HOOKS:
        run(folder, phase)


def test_a_hook_gets_a_small_environment_and_no_input(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECTL_AGENT_TOKEN", "secret")
    script(folder / "pre-activate", f"cat; env > {tmp_path}/seen; pwd >> {tmp_path}/seen")
    run(folder)
    seen = dict(line.partition("=")[::2] for line in (tmp_path / "seen").read_text().splitlines())
    assert "secret" not in seen.values()
    assert {name for name in seen if name.startswith("EDGECTL")} == {
        "EDGECTL_SLOT",
        "EDGECTL_VERSION",
        "EDGECTL_VARIANT",
        "EDGECTL_MANIFEST",
        "EDGECTL_PHASE",
        "EDGECTL_HOOK_RUN",
    }
    assert seen["EDGECTL_SLOT"] == "vision"
    assert seen["EDGECTL_PHASE"] == "pre-activate"
    assert "/" in seen


def test_several_run_in_order_and_the_first_no_ends_it(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script(folder / "pre-activate", f"echo main >> {log}")
    script(folder / "pre-activate.d/20-second", f"echo second >> {log}; exit 3")
    script(folder / "pre-activate.d/10-first", f"echo first >> {log}")
    script(folder / "pre-activate.d/30-third", f"echo third >> {log}")
    script(folder / "pre-activate.d/05-old~", f"echo backup >> {log}")
    script(folder / "pre-activate.d/.hidden", f"echo hidden >> {log}")
    error = failure(folder)
    assert error.code == "hook.failed"
    assert "exit status 3" in error.detail
    assert log.read_text().split() == ["main", "first", "second"]


@pytest.mark.parametrize(("status", "passing"), [(1, False), (75, True), (127, False)])
def test_what_its_exit_status_says(folder: Path, status: int, passing: bool) -> None:
    script(folder / "pre-activate", f"echo because >&2; exit {status}")
    error = failure(folder)
    assert (error.code, error.passing) == ("hook.failed", passing)
    assert "because" in error.detail


def test_one_that_hangs_is_killed_with_its_children(folder: Path, tmp_path: Path) -> None:
    script(
        folder / "pre-activate",
        f"trap '' TERM INT HUP\nsleep 600 & echo $! > {tmp_path}/child\necho $$ > {tmp_path}/own\n"
        "while :; do sleep 600; done",
    )
    error = failure(folder, timeout_s=1.0)
    assert "did not end within 1 s" in error.detail
    assert error.passing
    for name in ("child", "own"):
        assert is_gone(int((tmp_path / name).read_text()))


def test_what_it_leaves_behind_is_killed(folder: Path, tmp_path: Path) -> None:
    """A child in its group, one in a session of its own, and one that goes on forking."""
    script(
        folder / "pre-activate",
        f"sleep 600 & echo $! > {tmp_path}/same\n"
        f"setsid sh -c 'echo $$ > {tmp_path}/other; exec sleep 600' &\n"
        f"setsid sh -c 'for one in 1 2 3 4 5; do (sleep 600 & echo $! >> {tmp_path}/many); done;"
        f" echo done >> {tmp_path}/many; sleep 600' &\n"
        f"until grep -q done {tmp_path}/many 2>/dev/null && [ -s {tmp_path}/other ];"
        " do sleep 0.05; done",
    )
    run(folder)
    left = [
        int(word)
        for name in ("same", "other", "many")
        for word in (tmp_path / name).read_text().split()
        if word != "done"
    ]
    assert len(left) == 7
    assert all(is_gone(number) for number in left)


def test_its_output_is_bounded(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    script(folder / "pre-activate", "yes 'a flood of words' | head -c 50000000; echo end")
    with caplog.at_level(logging.INFO, "edgectl_agent.hooks"):
        run(folder)
    said = sum(len(record.getMessage()) for record in caplog.records)
    assert 500 < said < 20_000
    assert "50000" in caplog.records[-1].getMessage()


def test_one_that_closes_its_output_and_goes_on_is_waited_for(folder: Path, tmp_path: Path) -> None:
    script(folder / "pre-activate", f"exec >&- 2>&-; sleep 0.3; echo yes > {tmp_path}/done")
    run(folder)
    assert (tmp_path / "done").exists()


def test_an_update_that_is_overtaken_does_not_wait(folder: Path, tmp_path: Path) -> None:
    script(folder / "pre-activate", f"echo $$ > {tmp_path}/own; sleep 600")
    with pytest.raises(StepCancelled):
        Hooks(folder, timeout_s=60).run("pre-activate", **WHAT, cancelled=(tmp_path / "own").exists)
    number = (tmp_path / "own").read_text().strip()
    assert not number or is_gone(int(number))


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o644])
def test_a_file_that_others_may_write_or_nobody_may_run_is_refused(
    folder: Path, tmp_path: Path, mode: int
) -> None:
    script(folder / "pre-activate", f"touch {tmp_path}/ran", mode)
    error = failure(folder)
    assert error.code == "hook.refused"
    assert "chmod" in error.detail
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_others_may_write_is_refused(folder: Path, tmp_path: Path) -> None:
    script(folder / "pre-activate", f"touch {tmp_path}/ran")
    folder.chmod(0o777)
    assert failure(folder).code == "hook.refused"
    folder.chmod(0o755)
    run(folder)
    (tmp_path / "ran").unlink()
    script(folder / "pre-activate.d/one", f"touch {tmp_path}/two")
    (folder / "pre-activate.d").chmod(0o777)
    assert failure(folder).code == "hook.refused"
    assert not (tmp_path / "two").exists()


def test_a_folder_below_one_that_others_may_write_is_refused(tmp_path: Path) -> None:
    above = tmp_path / "above"
    (above / "hooks").mkdir(parents=True)
    script(above / "hooks" / "pre-activate", f"touch {tmp_path}/ran")
    above.chmod(0o777)
    assert failure(above / "hooks").code == "hook.refused"
    assert not (tmp_path / "ran").exists()


def test_links_must_not_lead_out(folder: Path, tmp_path: Path) -> None:
    outside = script(tmp_path / "outside", f"touch {tmp_path}/ran")
    (folder / "pre-activate").symlink_to(outside)
    assert "leads out" in failure(folder).detail
    (folder / "pre-activate").unlink()
    (folder / "pre-activate").symlink_to("nowhere")
    assert failure(folder).code == "hook.refused"
    (folder / "pre-activate").unlink()
    script(folder / "real", f"touch {tmp_path}/inside")
    (folder / "pre-activate").symlink_to("real")
    run(folder)
    assert (tmp_path / "inside").exists()
    assert not (tmp_path / "ran").exists()
    other = tmp_path / "other.d"
    script(other / "one", f"touch {tmp_path}/ran")
    (folder / "pre-activate.d").symlink_to(other)
    assert failure(folder).code == "hook.refused"
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else_is_refused(folder: Path, tmp_path: Path) -> None:
    path = script(folder / "pre-activate", f"touch {tmp_path}/ran")
    os.chown(path, 12345, 12345)
    assert "chown" in failure(folder).detail
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_executed_is_an_error(folder: Path) -> None:
    path = folder / "pre-activate"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    assert failure(folder).code == "hook.refused"
    path.write_bytes(b"\0\1\2 no program")
    assert failure(folder).code == "hook.refused"
