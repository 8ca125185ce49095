"""Runs theupdateframework/tuf-conformance against the device's verifier, and prints the score.

``python tests/conformance/run.py CHECKOUT [pytest arguments]``, or ``make conformance
CHECKOUT=/path``. Nothing is fetched but what pip needs to install the suite's own requirements,
into a virtual environment of its own below ``build/conformance``, because the suite pins versions.
The checkout is copied there, and gets two static repositories that our server's code has signed,
of 100 and of 10,000 targets. Debian's ``faketime`` must be installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path
from xml.etree.ElementTree import parse

from static_repository import make

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build" / "conformance"
STATIC = {"edgectl": 100, "edgectl-10000": 10_000}
EXPECTED_FAILURES: dict[str, str] = {}
"""Test: reason. python-tuf 7.0.0 fails `test_cached_role_is_verified_against_current_delegator`,
7.0.1 does not: our requirement is 7.0.1."""


def main(arguments: list[str]) -> int:
    """Prepare, run, count."""
    if not arguments or not (Path(arguments[0]) / "tuf_conformance").is_dir():
        print("give the path of a checkout of theupdateframework/tuf-conformance", file=sys.stderr)
        return 2
    if shutil.which("faketime") is None:
        print("faketime is missing: apt-get install faketime", file=sys.stderr)
        return 2
    suite = prepare(Path(arguments[0]))
    client = BUILD / "client"
    client.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / "client.py"}" "$@"\n')
    client.chmod(0o755)
    (BUILD / "client.xfails").write_text("".join(f"{name}\n" for name in EXPECTED_FAILURES))
    results = BUILD / "results.xml"
    results.unlink(missing_ok=True)
    python = BUILD / "venv" / "bin" / "python"
    command = [python, "-m", "pytest", "-c", "pyproject.toml", "tuf_conformance", "--quiet"]
    done = subprocess.run(
        [*command, f"--junitxml={results}", f"--entrypoint={client}", *arguments[1:]],
        cwd=suite,
        check=False,
    )
    if results.exists():
        print(score(results))
    return done.returncode


def prepare(checkout: Path) -> Path:
    """Copy the suite, add our repositories, install its requirements; return the copy."""
    suite = BUILD / "suite"
    shutil.rmtree(suite, ignore_errors=True)
    ignore = shutil.ignore_patterns(".git", "env", ".venv", "__pycache__")
    shutil.copytree(checkout, suite, ignore=ignore)
    for name, count in STATIC.items():
        length = make(suite / "tuf_conformance" / "static_data" / name, count)
        print(f"static repository {name}: {count} targets, {length} bytes of metadata")
    if not (BUILD / "venv").exists():
        venv.create(BUILD / "venv", with_pip=True)
    pip = [BUILD / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--editable", suite], check=True)
    return suite


def score(results: Path) -> str:
    """Return one line: how many passed, and what did not."""
    cases = list(parse(results).iter("testcase"))
    bad = {
        case.get("name", "?"): kind
        for case in cases
        for kind in ("failure", "error", "skipped")
        if case.find(kind) is not None
    }
    line = f"tuf-conformance: {len(cases) - len(bad)} of {len(cases)} passed"
    for name, kind in bad.items():
        reason = EXPECTED_FAILURES.get(name)
        line += f"\n  {name}: " + (f"expected: {reason}" if reason else kind)
    return line


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
