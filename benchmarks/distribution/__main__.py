"""Run every part, one after another: ``python -m benchmarks.distribution``, or ``….PART`` alone."""

from __future__ import annotations

from benchmarks.distribution import broker, kills, large_model, small_steps, transfer

PARTS = (
    ("broker", broker.main),
    ("transfer", transfer.main),
    ("large model", large_model.main),
    ("kills", kills.main),
    ("small steps", small_steps.main),
)


def main() -> int:
    """Run all, with their defaults."""
    for name, run in PARTS:
        print(f"== {name}", flush=True)
        if code := run([]):
            return code
        print()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
