"""The window of a download, without the network: chunks in, wishes out.

A transfer is a set of numbered pieces, each with the SHA-256 that was signed for it. A few of them
are asked for at a time. Rules:

1. A piece is believed when its hash is right, whenever and how often it comes; nothing else is.
2. The window starts at 4 pieces, doubles while it drains in less than 2 s, up to 16, and halves
   when it takes more than 4 s, so that control messages on the same connection stay prompt.
3. A piece with another hash is refused and named to the server. Refused three times, the transfer
   fails: the transport is at fault, or whoever sits in it. The model is not, so that its digest is
   not remembered as bad, and a later attempt may succeed.
4. What has been asked for is on its way for as long as the connection brings bytes at all
   (`heard`), however slowly: asking again would bring it twice. It is asked for again, and named to
   the server, when more pieces than were before it have come since; and when there was silence,
   for longer than `stall_s` and twice the longest silence that has ended by itself.
5. After a silence the pieces are asked for again that a later one has overtaken, and of the others
   the one that was asked for first, alone, because the rest may only be late; silence again asks
   for two, then for four. After some rounds the transfer fails. Time without a connection does not
   count.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from enum import StrEnum

from msgspec import Struct

from edgectl_protocol.messages import Reason

__all__ = ["Outcome", "Transfer", "TransferFailure", "TransferLimits", "Wishes"]


class TransferLimits(Struct, frozen=True, kw_only=True):
    """All the numbers of a transfer."""

    window_first: int = 4
    window_max: int = 16
    drain_fast_s: float = 2.0
    drain_slow_s: float = 4.0
    stall_s: float = 5.0
    stall_s_max: float = 30.0
    stalls_max: int = 6
    trickle_s_max: float = 120.0
    """Bytes count as a sign of life for so long without a whole piece."""
    overtaken_max: int = 4
    """Pieces that may come before one that was asked for earlier, of a broker that swaps them."""
    refusals_max: int = 3
    refusal_wait_s: float = 1.0
    named_max: int = 64
    """Pieces named in one request to the server."""


class Outcome(StrEnum):
    """What became of a piece that came."""

    ACCEPTED = "accepted"
    IGNORED = "ignored"
    REFUSED = "refused"


class Wishes(Struct, frozen=True, kw_only=True):
    """What the transfer wants done now, in this order."""

    unsubscribe: tuple[int, ...] = ()
    subscribe: tuple[int, ...] = ()
    """Some may be subscribed already: subscribing again has the retained message sent again."""
    missing: tuple[int, ...] = ()
    """To be named to the server; empty is no request."""
    refused: tuple[int, ...] = ()
    """Those of `missing` that came with another content."""


_NOTHING = Wishes()


class TransferFailure(Exception):
    """The transfer cannot go on now."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"{reason.code}: {reason.detail}")
        self.reason = reason


class _Ask:
    """When a piece was asked for."""

    __slots__ = ("again", "due_after", "turn")

    def __init__(self, turn: int, *, due_after: int, again: bool) -> None:
        self.turn = turn
        """Counts what has been asked for."""
        self.due_after = due_after
        """It should have come when so many pieces of the transfer have."""
        self.again = again


class Transfer:
    """One download of numbered pieces."""

    def __init__(
        self,
        blob: str,
        missing: Iterable[int],
        expected: Callable[[int], bytes],
        *,
        elapsed_s: float,
        limits: TransferLimits | None = None,
    ) -> None:
        """Begin.

        Args:
            blob: content address, for messages.
            missing: numbers of the pieces that are not there yet, in the order to ask for them.
            expected: number to the raw SHA-256 of the piece.
            elapsed_s: now.
            limits: the defaults unless a test wants others.
        """
        self._blob = blob
        self._limits = limits or TransferLimits()
        self._waiting = dict.fromkeys(missing)
        self._expected = expected
        self._asked: dict[int, _Ask] = {}
        """What is on its way, in the order in which it was asked for."""
        self._came = 0
        self._turn = self._newest_turn = 0
        self._has_overtaken = False
        self._finished: list[int] = []
        self._refusals: dict[int, int] = {}
        self._ask_again_at: dict[int, float] = {}
        self._named: set[int] = set()
        self._window = self._limits.window_first
        self._drained = 0
        self._drain_began_s = elapsed_s
        self._progress_s = self._heard_s = elapsed_s
        self._silence_s = 0.0
        self._stalls = 0
        self._again_max = 1

    @property
    def done(self) -> bool:
        """Whether every piece has come."""
        return not self._waiting and not self._asked

    @property
    def asked(self) -> tuple[int, ...]:
        """The pieces that are subscribed to."""
        return (*self._asked, *self._finished)

    @property
    def window(self) -> int:
        """How many pieces are asked for at a time."""
        return self._window

    @property
    def has_overtaken(self) -> bool:
        """Whether the piece that was accepted last came before one that was asked for earlier."""
        return self._has_overtaken

    def receive(self, number: int, payload: bytes, elapsed_s: float) -> Outcome:
        """Judge a piece that came.

        Raises:
            TransferFailure: ``transfer.chunk_altered``: refused too often.
        """
        if not payload or (number not in self._asked and number not in self._waiting):
            return Outcome.IGNORED  # a cleared topic, a duplicate, or nothing of ours
        if hashlib.sha256(payload).digest() != self._expected(number):
            return self._refuse(number, elapsed_s)
        if number in self._asked:
            ask = self._asked.pop(number)
            self._has_overtaken = self._oldest_turn() < ask.turn
            self._newest_turn = max(self._newest_turn, ask.turn)
            if not ask.again:
                self._again_max = 1
            self._finished.append(number)
        else:
            del self._waiting[number]
        self._ask_again_at.pop(number, None)
        self._came += 1
        self._note_silence(elapsed_s)
        self._progress_s = self._heard_s = elapsed_s
        self._stalls = 0
        self._adapt(elapsed_s)
        return Outcome.ACCEPTED

    def heard(self, elapsed_s: float) -> None:
        """Note that the connection brings bytes, of which no whole piece has come yet."""
        self._note_silence(elapsed_s)
        self._heard_s = elapsed_s

    def poll(self, elapsed_s: float) -> Wishes:
        """Say what is to be done now; call it after every piece and when `next_s` comes.

        Raises:
            TransferFailure: ``transfer.stalled``: nothing has come for too long.
        """
        if self._is_idle(elapsed_s):
            return _NOTHING
        named = dict.fromkeys(sorted(self._named))
        refused = tuple(named)
        self._named.clear()
        again = [one for one, at in self._ask_again_at.items() if at <= elapsed_s]
        for number in again:
            del self._ask_again_at[number]
        asked = [one for one in self._asked if one not in again and one not in self._ask_again_at]
        overtaken = [one for one in asked if self._asked[one].turn < self._newest_turn]
        # One that so many have overtaken is lost, and then so are the others that were overtaken.
        lost = any(self._asked[one].due_after < self._came for one in overtaken)
        overdue = overtaken if lost else []
        if self._asked and elapsed_s >= self._stalls_at():
            self._stalls += 1
            if self._stalls > self._limits.stalls_max:
                raise TransferFailure(self._stall_reason())
            self._progress_s = self._heard_s = elapsed_s
            rest = [one for one in asked if one not in overtaken]
            overdue = [*overtaken, *rest[: self._again_max]]
            self._again_max *= 2
        named |= dict.fromkeys(sorted(overdue))
        repeated = frozenset([*again, *overdue])
        subscribe = dict.fromkeys([*again, *overdue])
        for number in subscribe:
            self._asked.pop(number, None)  # it is asked for after the others now
        unsubscribe: tuple[int, ...] = ()
        if self.done or len(self._asked) + len(subscribe) <= self._window // 2:
            # In batches, so that a packet carries several topics.
            unsubscribe, self._finished = tuple(self._finished), []
            while self._waiting and len(self._asked) + len(subscribe) < self._window:
                number = next(iter(self._waiting))
                del self._waiting[number]
                subscribe[number] = None
        for number in subscribe:
            due_after = self._came + len(self._asked) + self._limits.overtaken_max
            self._turn += 1
            self._asked[number] = _Ask(self._turn, due_after=due_after, again=number in repeated)
        named_now = tuple(named)[: self._limits.named_max]
        return Wishes(
            unsubscribe=unsubscribe,
            subscribe=tuple(subscribe),
            missing=named_now,
            refused=tuple(one for one in refused if one in named_now),
        )

    def next_s(self) -> float:
        """Return the elapsed seconds at which `poll` has something to say though nothing came."""
        return min([self._stalls_at(), *self._ask_again_at.values()])

    def pause(self, elapsed_s: float) -> None:
        """Note that there is no connection: this time does not count."""
        self._progress_s = self._heard_s = elapsed_s
        self._drain_began_s = elapsed_s
        self._drained = 0

    def _is_idle(self, elapsed_s: float) -> bool:
        """Say whether all goes well and enough is on its way: after most pieces it is so."""
        return (
            len(self._asked) > self._window // 2
            and self._oldest_turn() >= self._newest_turn
            and not self._named
            and not self._ask_again_at
            and elapsed_s < self._stalls_at()
        )

    def _oldest_turn(self) -> float:
        """Return the turn of what was asked for first of all that is on its way."""
        return next(iter(self._asked.values())).turn if self._asked else math.inf

    def _refuse(self, number: int, elapsed_s: float) -> Outcome:
        count = self._refusals[number] = self._refusals.get(number, 0) + 1
        if count >= self._limits.refusals_max:
            raise TransferFailure(
                Reason(
                    code="transfer.chunk_altered",
                    detail=f"chunk {number} of {self._blob} came {count} times with another "
                    "content than the signed one; the running model is not affected",
                )
            )
        if number in self._asked:
            self._named.add(number)
            self._ask_again_at[number] = elapsed_s + self._limits.refusal_wait_s * 2.0 ** (
                count - 1
            )
        return Outcome.REFUSED

    def _adapt(self, elapsed_s: float) -> None:
        self._drained += 1
        if self._drained < self._window:
            return
        took_s = elapsed_s - self._drain_began_s
        if took_s < self._limits.drain_fast_s:
            self._window = min(self._limits.window_max, self._window * 2)
        elif took_s > self._limits.drain_slow_s:
            self._window = max(1, self._window // 2)
        self._drained, self._drain_began_s = 0, elapsed_s

    def _note_silence(self, elapsed_s: float) -> None:
        """Something comes: remember for how long nothing had, and forget it slowly."""
        self._silence_s = max(elapsed_s - self._heard_s, 0.9 * self._silence_s)

    def _stalls_at(self) -> float:
        limits = self._limits
        wait_s = max(limits.stall_s, 2 * self._silence_s) * 2.0**self._stalls
        silent_s = self._heard_s + min(limits.stall_s_max, wait_s)
        return min(silent_s, self._progress_s + limits.trickle_s_max)

    def _stall_reason(self) -> Reason:
        first = next(iter(self._asked))
        return Reason(
            code="transfer.stalled",
            detail=f"chunk {first} of {self._blob} does not come, "
            f"{len(self._asked) + len(self._waiting)} are missing",
        )
