"""The audit log's part of commands that work on the server's machine, beside the server.

Who runs such a command is the machine's account, ``local/<name>``: whoever may use the data folder
is not asked for a login.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from edgectl_server.audit import Act, AuditLog, acting
from edgectl_server.audit_spool import local_actor
from edgectl_server.clock import now
from edgectl_server.errors import ServerError
from edgectl_server.storage.database import Database

__all__ = ["audited_command"]


@contextlib.contextmanager
def audited_command(
    database: Database,
    action: str,
    object: str,  # noqa: A002 - the log's own word
    **details: Any,
) -> Iterator[None]:
    """Write down what is done inside: with its first change of the database, or at the end.

    Args:
        database: brought up to date.
        action: such as ``set_user``.
        object: what it is done to.
        details: without any secret.
    """
    log = AuditLog(database, now)
    act = Act(
        actor=local_actor(),
        via="command",
        action=action,
        object=object,
        details=details,
        changes=True,
    )
    with acting(act):
        try:
            yield
        except ServerError as error:
            log.end(act, "refused", code=error.code)
            raise
        log.end(act, "done")
