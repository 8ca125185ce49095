"""``python -m edgectl_simulator``: reads a plan on standard input, simulates, prints a summary.

How it goes is said on standard error; with ``as_json`` standard output holds one JSON value and
nothing else. Exit codes: 0 done, also when it was stopped, 1 refused or failed, 2 usage, 3 server
unreachable.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from edgectl_simulator.errors import SimulatorError
from edgectl_simulator.fleet import simulate
from edgectl_simulator.plan import PLAN_BYTES_MAX, read_plan

__all__ = ["main"]


def main() -> int:
    """Run the simulation of this process."""
    try:
        plan = read_plan(sys.stdin.buffer.read(PLAN_BYTES_MAX + 1))
        summary = simulate(plan, _say)
    except SimulatorError as error:
        lines = [f"error[{error.code}]: {_plain(error.detail)}"]
        if error.hint:
            lines.append(f"try: {_plain(error.hint)}")
        sys.stderr.write("\n".join(lines) + "\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("error[interrupted]: stopped by you\n")
        return 1
    if plan.as_json:
        sys.stdout.write(json.dumps(summary, indent=2) + "\n")
    else:
        sys.stdout.write(_text(summary) + "\n")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(_plain(line) + "\n")
    sys.stderr.flush()


def _plain(text: str) -> str:
    """Return text of others as something that does nothing to a terminal."""
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)


def _text(summary: dict[str, Any]) -> str:
    """Return the summary for a person."""
    counts = summary["counts"]
    rows = [
        ("devices", f"{summary['devices']}, profile {summary['profile']}, {summary['run_s']:g} s"),
        ("enrolled", str(summary["enrolled"])),
        ("with faults", _pairs(summary["faults"])),
        ("connections", _pairs(counts, "connected", "refused", "lost", "away", "restarted")),
        ("sent", _pairs(counts, "telemetry", "event", "security", "state", "seed", "resent")),
        ("acknowledged", str(counts.get("acknowledged", 0))),
        ("orders", _pairs(counts, "order")),
        ("not obeyed", _pairs(summary["orders_refused"])),
        ("updates ended", _pairs(summary["updates_ended"])),
        ("until a device had its order", _times(summary["order_received_s"])),
        ("until its answer was acknowledged", _times(summary["order_acknowledged_s"])),
        ("no connection because", _pairs(summary["connection_problems"])),
    ]
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:{width}}{_plain(text)}" for name, text in rows if text)


def _pairs(counts: dict[str, int], *names: str) -> str:
    chosen = names or tuple(counts)
    return ", ".join(f"{counts[name]} {name}" for name in chosen if counts.get(name))


def _times(times: dict[str, Any]) -> str:
    if not times["count"]:
        return ""
    return f"median {times['p50']:.2f} s, 99 % {times['p99']:.2f} s, longest {times['max']:.2f} s"


if __name__ == "__main__":
    raise SystemExit(main())
