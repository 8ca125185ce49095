"""How long anything of an update may take, and how often it is tried: all the numbers."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Limits"]


class Limits(Struct, frozen=True, kw_only=True):
    """Limits of one machine. A step that overruns its own is cancelled, and has failed."""

    refresh_s: float = 1800.0
    download_s: float = 7 * 86400.0
    """Nothing comes while there is no connection; a transfer that stalls ends long before."""
    verify_s: float = 3600.0
    trial_s: float = 2 * 3600.0
    """The trial has a limit of its own, which a setting says, and which is shorter."""
    accompany_s: float = 900.0
    activate_s: float = 1800.0
    roll_back_s: float = 1800.0
    cancel_s: float = 300.0
    """A step that does not come back so long after it was cancelled is stuck in a call of the
    system: the agent ends, and whoever supervises it starts it anew."""
    first_delay_s: float = 2.0
    """Longest wait after the first failure; `UpdatePolicy` says the longest of all."""
    unseen_s: float = 300.0
    """So much longer than its observation a model is waited for that nobody has seen serving,
    because the inference process is down or cannot load it; then it goes back, without blame."""
    unseen_look_s: float = 5.0
    setbacks_max: int = 8
    """A rollback that has failed so often and has switched the pointers is over: what is loaded
    from there on is nobody's update any more."""
