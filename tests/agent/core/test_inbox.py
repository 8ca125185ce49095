"""What the main thread hears: it never hears one thing only, and nobody waits who must not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from edgectl_agent.inbox import ITEMS_MAX, AckCame, Inbox, Said
from edgectl_agent.main_loop import MainLoop
from edgectl_protocol import topics


def test_who_sends_without_end_does_not_keep_the_main_thread() -> None:
    inbox = Inbox(threading.Event())
    inbox.put(AckCame(b""))
    for heard, item in enumerate(inbox.take(0.1)):
        assert heard < 10, "it is taken for ever"
        inbox.put(item)
    assert len(list(inbox.take(0.1))) == 1


class Begun(Exception):
    """The run is under way as far as the test goes."""


class Run(MainLoop):
    """A run that ends as it begins."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self.handlers: dict[str, Callable[[str, bytes], None]] = {}
        self._device = "pi-1"
        self._stopping = threading.Event()
        self._inbox = Inbox(self._stopping)
        self._orders = SimpleNamespace(put=None)  # type: ignore[assignment]
        self._connection = SimpleNamespace(  # type: ignore[assignment]
            subscribe=lambda names, handler: self.handlers.update(dict.fromkeys(names, handler))
        )

    def _begin(self) -> None:
        self._check()
        raise Begun

    def _look(self) -> None:
        raise AssertionError

    def _end(self) -> None:
        pass


def test_the_connection_does_not_wait_while_nobody_takes_acknowledgements() -> None:
    """As while the journal cannot be written: they are repeated, and its thread keeps it alive."""

    def check() -> None:
        for _ in range(ITEMS_MAX):
            run._inbox.put(Said({}))
        acknowledge = run.handlers[topics.ack("pi-1")]
        thread = threading.Thread(target=acknowledge, args=("", b"{}"), daemon=True)
        thread.start()
        thread.join(5)
        assert not thread.is_alive(), "it waits"

    run = Run(check)
    with pytest.raises(Begun):
        run.run()
