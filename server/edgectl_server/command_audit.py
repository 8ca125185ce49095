"""The audit log's part of commands that work on the server's machine, beside the server.

Who runs such a command is the machine's account, ``local/<name>``: whoever may use the data folder
is not asked for a login.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from typing import Any

from edgectl_server.audit import Act, AuditLog, acting
from edgectl_server.clock import now
from edgectl_server.errors import ServerError
from edgectl_server.settings import Settings
from edgectl_server.storage.database import Database

__all__ = ["audited_command", "existing_database"]


@contextlib.contextmanager
def audited_command(
    database: Database | None,
    action: str,
    object: str,  # noqa: A002 - the log's own word
    **details: Any,
) -> Iterator[None]:
    """Write down what is done inside: with its first change of the database, or at the end.

    Args:
        database: brought up to date; None: there is none yet, and nothing is written.
        action: such as ``set_user``.
        object: what it is done to.
        details: without any secret.
    """
    if database is None:
        yield
        return
    log = AuditLog(database, now)
    act = Act(
        actor=f"local/{_account()}",
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


@contextlib.contextmanager
def existing_database(settings: Settings) -> Iterator[Database | None]:
    """Give the server's database, brought up to date; None before the first start."""
    if not settings.database_url and not (settings.data_path / "edgectl.sqlite").exists():
        yield None
        return
    with contextlib.closing(Database(settings.database_address)) as database:
        database.migrate()
        yield database


def _account() -> str:
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
