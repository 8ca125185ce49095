"""What every broker offers the server, whoever runs it, and what it is given.

A revoked device is shut out by two calls in this order: `RunningBroker.reload_revocations`, then
`RunningBroker.kick`, also when the first has failed; in the other order it could come back between
the two. `RunningBroker.check_revocations`, called every few seconds, sees to the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

__all__ = ["IdentityFiles", "RunningBroker"]


class IdentityFiles(Protocol):
    """PEM files with which the broker speaks TLS."""

    @property
    def certificate(self) -> Path:
        """The broker's certificate."""
        ...

    @property
    def key(self) -> Path:
        """Its key."""
        ...

    @property
    def authority(self) -> Path:
        """The authority that has certified the broker, the server and the devices."""
        ...


class RunningBroker(Protocol):
    """A broker that takes connections. Its methods may be called from any thread."""

    @property
    def host(self) -> str:
        """Address by which this process reaches the broker."""
        ...

    @property
    def port(self) -> int:
        """Its port."""
        ...

    @property
    def alive(self) -> bool:
        """Whether the broker runs, as far as we can know."""
        ...

    def stop(self) -> None:
        """Stop the broker, if we have started it; its state is on disk afterwards. Idempotent."""
        ...

    def kick(self, name: str) -> bool:
        """End the open connections of the certificate `name`; False when that is not possible."""
        ...

    def reload_revocations(self) -> bool:
        """Refuse newly revoked certificates from now on.

        Returns:
            False when that takes a while yet; `check_revocations` sees to it.

        Raises:
            Unavailable: ``broker.revocations``: they may be let in.
        """
        ...

    def check_revocations(self) -> None:
        """See that revoked certificates are refused, and put right what can be. For a duty.

        Raises:
            Unavailable: ``broker.revocations``: they may be let in.
        """
        ...

    @property
    def revocation_problem(self) -> str:
        """Why revoked certificates may be let in; empty when they are not, as far as we know."""
        ...

    def reload_certificate(self) -> None:
        """Show the certificate that is in the files now to whoever connects from now on.

        Raises:
            Unavailable: ``broker.certificate``: the files cannot be used; the old one stays.
        """
        ...
