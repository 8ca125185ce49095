"""``python -m edgectl_server.ceremony``: see `edgectl_server.ceremony.cli`."""

from __future__ import annotations

from edgectl_server.ceremony.cli import main

if __name__ == "__main__":
    # The command line `edgectl keys` becomes this process: usage speaks of what was typed.
    main(prog_name="edgectl keys")
