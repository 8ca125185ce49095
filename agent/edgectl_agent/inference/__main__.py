"""``python -m edgectl_agent.inference <channel> <pulse>``: started by the supervisor alone."""

from __future__ import annotations

import sys

from edgectl_agent.inference.server import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
