"""Cut the power at every flash operation of an update over the network: ``make sweep-firmware``.

One device, one broker; each operation is cut once, on a flash that is new. The last number that is
not reached ends it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from broker.conftest import TestAuthority, start_broker
from firmware.networked import Machine, Stage, build, cut_and_recover, write_identity
from vectors.make_firmware import NAME

OPERATIONS_MAX = 200


def main() -> int:
    """Return 0 when all of them came to a good end; anything else raises."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        authority, program = TestAuthority(folder / "pki"), build(folder / "program")
        for operation in range(OPERATIONS_MAX):
            here = folder / str(operation)
            here.mkdir()
            broker = start_broker("mosquitto", authority, here / "broker")
            stage = Stage(broker, authority, "mcu-1", NAME)
            write_identity(stage, authority.path, here / "flash", here / "device")
            machine = Machine(program, here / "flash")
            try:
                if not cut_and_recover(stage, machine, operation):
                    print(f"{operation} operations, and after each cut the new model runs")
                    return 0
                print(f"cut at {operation}: recovered", flush=True)
            finally:
                machine.stop()
                stage.close()
                broker.stop()
    raise SystemExit(f"more than {OPERATIONS_MAX} operations: is there no end?")


if __name__ == "__main__":
    sys.exit(main())
