"""Cut the power at every flash operation of an update of an emulated Pico: ``make sweep-pico``.

Each operation is cut once, on a flash that is new. The last number that is not reached ends it.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from edgectl_agent.errors import StepCancelled
from edgectl_agent.gateway.board import digest_in
from firmware.crafted_flat import tiny_model
from firmware.serial_line import (
    POWER_CUT,
    SerialBoard,
    build_pico,
    emulated_pico,
    install,
    wait_decided,
)
from vectors.make_firmware import KEY, NAME, bundle

OPERATIONS_MAX = 200


def cut_and_recover(pico: SerialBoard, cut: int) -> bool:
    """Cut the power at an operation of an update; say whether there was that many."""
    old, new = bundle(tiny_model(1), 1), bundle(tiny_model(2), 2)
    pico.start()
    with pico.board() as board:
        install(board, old)
    pico.stop()
    pico.start(cut)
    with pico.board(cancelled=pico.ended) as board, contextlib.suppress(StepCancelled):
        install(board, new)
    was_cut = pico.ended()
    assert pico.stop() == (POWER_CUT if was_cut else 0)
    pico.start()
    with pico.board() as board:
        wait_decided(board)
        hello = board.hello()
        assert hello.counter in {1, 2}
        if not hello.runs(digest_in(new)):
            install(board, new)
        assert board.hello().counter == 2
    pico.stop()
    return was_cut


def main() -> int:
    """Return 0 when all of them came to a good end; anything else raises."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        program = build_pico(folder / "program", KEY.public_key().public_bytes_raw(), NAME)
        for operation in range(OPERATIONS_MAX):
            (here := folder / str(operation)).mkdir()
            with emulated_pico(program, here) as pico:
                if not cut_and_recover(pico, operation):
                    print(f"{operation} operations, and after each cut the new model runs")
                    return 0
            print(f"cut at {operation}: recovered", flush=True)
    raise SystemExit(f"more than {OPERATIONS_MAX} operations: is there no end?")


if __name__ == "__main__":
    sys.exit(main())
