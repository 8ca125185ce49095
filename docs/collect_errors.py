"""Write docs/errors.md: every error code that the programs can give, with a message and its place.

``python docs/collect_errors.py`` writes, ``--check`` fails when the page is not current. A code is
a string such as ``push.refused`` that stands as the first argument of an exception or as ``code=``
of a reason; its message is the string beside it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "errors.md"
CODE = re.compile(r"[a-z0-9]+\.[a-z0-9_]+")
PACKAGES = (
    "agent/edgectl_protocol",
    "agent/edgectl_delta",
    "agent/edgectl_agent",
    "server/edgectl_datasets",
    "server/edgectl_server",
    "server/edgectl_simulator",
    "server/edgectl",
)
HEAD = """# Error codes

Programs may compare codes; the sentences are for people and may change. On the command line an
error is `error[code]: sentence`, then `while:` and `try:`; in the REST API it is
`application/problem+json` with `code`, `detail` and `hint`; from a device it is the `reason` of a
state or event. This page is generated from the sources.

| code | sentence | given by |
|---|---|---|
"""


def codes(source: Path) -> Iterator[tuple[str, str]]:
    """Yield each code in a file, with the text of its message as far as it is fixed."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call):
            named = {k.arg: k.value for k in node.keywords if k.arg}
            candidates = [*node.args[:2], *([named["code"]] if "code" in named else [])]
            for position, value in enumerate(candidates):
                code = fixed(value)
                name = called(node)
                if CODE.fullmatch(code) and name[:1].isupper() and name != "Path":
                    following = node.args[position + 1 : position + 2]
                    message = following[0] if following else named.get("detail")
                    yield code, fixed(message)
                    break
        elif isinstance(node, ast.ClassDef):
            for entry in node.body:
                if isinstance(entry, ast.Assign) and fixed(entry.targets[0]) == "code":
                    yield fixed(entry.value), (ast.get_docstring(node) or "").split("\n")[0]


def called(node: ast.Call) -> str:
    """Return the name of what is called."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def fixed(node: ast.expr | None) -> str:
    """Return the text of a string or f-string, with … where it varies."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name):
            return name
        case ast.JoinedStr(values=values):
            return "".join(
                fixed(value) if isinstance(value, ast.Constant) else "…" for value in values
            )
        case ast.BinOp(left=left, right=right):
            return fixed(left) + fixed(right)
    return ""


def page() -> str:
    """Return the page."""
    found: dict[str, tuple[str, set[str]]] = {}
    for package in PACKAGES:
        for source in sorted((ROOT / package).rglob("*.py")):
            if "migrations" in source.parts:
                continue
            for code, message in codes(source):
                text, places = found.setdefault(code, ("", set()))
                places.add(package.split("/")[1])
                if len(message) > len(text):
                    found[code] = (message, places)
    rows = []
    for code, (message, places) in sorted(found.items()):
        sentence = " ".join(message.split()).replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| `{code}` | {sentence} | {', '.join(sorted(places))} |\n")
    return HEAD + "".join(rows)


def main() -> int:
    """Write or check the page."""
    if "--check" not in sys.argv:
        PAGE.write_text(page())
        return 0
    if PAGE.exists() and PAGE.read_text() == page():
        return 0
    print("docs/errors.md is not current: run python docs/collect_errors.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
