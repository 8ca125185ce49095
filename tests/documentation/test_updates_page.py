"""The page on updates against the tables and limits that it shows, and the codes of the machine."""

import re
from pathlib import Path

from edgectl_agent.core.limits import Limits
from edgectl_protocol.update import RESUME, RESUMES_MAX, TRANSITIONS, resume_state

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/updates.md").read_text()


def rows(heading):
    """The cells of the first table under a heading, without its head."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    table = [line for line in section.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_transitions():
    shown = [tuple(row[:3]) for row in rows("States and events")]
    assert shown == [(state, event, after) for (state, event), after in TRANSITIONS.items()]
    assert all(row[3] for row in rows("States and events"))


def test_resume():
    shown = {row[0]: row[1:] for row in rows("After a power loss, or a death of the agent")}
    assert {state: row[0] for state, row in shown.items()} == dict(RESUME)
    for state, (after, given_up) in shown.items():
        differs = resume_state(state, RESUMES_MAX) != after
        assert given_up == (resume_state(state, RESUMES_MAX) if differs else "-")


def test_limits():
    shown = {name.strip("`"): float(value) for name, value, _ in rows("Tries, and limits of time")}
    limits = {name: getattr(Limits(), name) for name in Limits.__struct_fields__}
    assert shown.items() <= limits.items()
    assert set(limits) - set(shown) == {"first_delay_s", "setbacks_max"}


def test_every_code_of_the_machine_is_explained():
    core = (ROOT / "agent/edgectl_agent/core").glob("*.py")
    used = set()
    for path in core:
        codes = re.findall(r'"((?:update|rollback|install)\.[a-z_]+)"', path.read_text())
        used.update(codes)
    assert "update.window" in used
    assert {code for code in used if f"`{code}`" not in PAGE} == set()
