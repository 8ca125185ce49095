"""``python -m edgectl_agent.inference <channel> <pulse>``: started by the supervisor alone."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def _leave_openssl_out() -> None:
    """Let no import load OpenSSL: nobody speaks TLS here, and Python has its own SHA-256.

    asyncio and hashlib work without it, as in a Python that was built so. It would be 5 MB of
    memory and a tenth of the time to the first answer.
    """
    if find_spec("_sha2") or find_spec("_sha256"):  # some distributions leave their own hashes out
        sys.modules.update(dict.fromkeys(("ssl", "_ssl", "_hashlib")))  # type: ignore[arg-type]


if __name__ == "__main__":
    _leave_openssl_out()
    from edgectl_agent.inference.server import main

    sys.exit(main(sys.argv[1:]))
