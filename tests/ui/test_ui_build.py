"""What is committed for the web UI is current, and builds on every machine and any mirror."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

from edgectl_server.api.app import openapi_text

UI = Path(__file__).parents[2] / "server/ui"


def test_the_openapi_document_is_that_of_the_server():
    assert (UI / "openapi.json").read_text() == openapi_text(), (
        "run: python -m edgectl_server openapi > server/ui/openapi.json; "
        "python server/ui/run.py types"
    )


def test_the_types_of_the_client_were_made_of_the_openapi_document():
    digest = hashlib.sha256((UI / "openapi.json").read_bytes()).hexdigest()
    first = (UI / "src/api/schema.d.ts").read_text().splitlines()[0]
    assert digest in first, "run: python server/ui/run.py types"


def test_changes_reach_the_pages_by_the_one_way_that_no_late_answer_undoes():
    changing = re.compile(r"\.(invalidateQueries|setQueryData|refetchQueries)\(")
    sources = {path.relative_to(UI / "src"): path.read_text() for path in UI.glob("src/**/*.ts*")}
    found = {str(path) for path, text in sources.items() if changing.search(text)}
    assert found == {"api/refresh.ts", "api/live.ts", "session.tsx"}


def test_the_lock_has_every_platform_and_no_address():
    lock = json.loads((UI / "package-lock.json").read_text())
    packages = lock["packages"]
    for native in ("@rolldown/binding", "lightningcss"):
        for platform in ("linux-x64-gnu", "linux-arm64-gnu", "darwin-arm64"):
            assert f"node_modules/{native}-{platform}" in packages
    assert not [name for name, package in packages.items() if "resolved" in package]
    assert not [name for name, package in packages.items() if package.get("hasInstallScript")]
    assert "omit-lockfile-registry-resolved=true" in (UI / ".npmrc").read_text()


def test_scripts_never_call_npm_by_name():
    # The npm of the Node.js wheel cannot be found on PATH.
    scripts = json.loads((UI / "package.json").read_text())["scripts"]
    assert not [script for script in scripts.values() if "npm" in script or "npx" in script]


def test_the_hook_builds_when_a_source_has_changed_and_not_otherwise(tmp_path):
    code = (
        "import sys; from pathlib import Path; from hatch_build import WebUIHook\n"
        "hook = WebUIHook(sys.argv[1], {}, None, None, sys.argv[1], '')\n"
        "print(len(hook.dependencies()))"
    )
    source = tmp_path / "server/ui/src/main.tsx"
    source.parent.mkdir(parents=True)
    source.write_text("1")
    out = tmp_path / "server/edgectl_server/web"
    out.mkdir(parents=True)
    (out / "index.html").write_text("")

    def wanted(**environment):
        found = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=UI.parents[1],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return int(found.stdout)

    assert wanted() == 1
    assert wanted(EDGECTL_SKIP_UI="1") == 0
    stamp = (
        "import sys; from pathlib import Path; from hatch_build import WebUIHook\n"
        "hook = WebUIHook(sys.argv[1], {}, None, None, sys.argv[1], '')\n"
        "hook.stamp()"
    )
    subprocess.run(
        [sys.executable, "-c", stamp, str(tmp_path)], cwd=UI.parents[1], check=True, timeout=30
    )
    assert wanted() == 0
    source.write_text("2")
    assert wanted() == 1
    source.write_text("1")
    (out / "index.html").unlink()
    assert wanted() == 1, "somebody has deleted what was built"
    (tmp_path / "PKG-INFO").write_text("")
    assert wanted() == 0, "an unpacked sdist carries the built files"
