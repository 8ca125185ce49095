"""``python -m edgectl_server``: see `edgectl_server.cli`."""

from __future__ import annotations

from edgectl_server.cli import main

if __name__ == "__main__":
    # The command line `edgectl server` becomes this process: usage speaks of what was typed.
    main(prog_name="edgectl server")
