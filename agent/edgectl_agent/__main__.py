"""``python -m edgectl_agent`` is ``edgectl-agent``."""

import sys

from edgectl_agent.cli import main

sys.exit(main())
