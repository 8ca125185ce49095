"""Ask the server in this container whether it lives; exit code 0 when it does.

Its certificate, where it has one, is not looked at: this asks the own machine.
"""

import os
import ssl
import sys
import urllib.error
import urllib.request

port = os.environ.get("EDGECTL_SERVER_LISTEN_PORT", "8080")
scheme = "http" if os.environ.get("EDGECTL_SERVER_TLS", "off") == "off" else "https"
context = ssl._create_unverified_context() if scheme == "https" else None  # noqa: S323, SLF001
try:
    with urllib.request.urlopen(  # noqa: S310 - of this container
        f"{scheme}://127.0.0.1:{port}/api/v1/health/live", timeout=8, context=context
    ) as answer:
        sys.exit(answer.status != 200)  # noqa: PLR2004
except (OSError, urllib.error.URLError) as error:
    sys.exit(f"not healthy: {error}")
