"""The server's heartbeat: what is wanted all the time does not run all the time."""

import itertools
import threading
import time

from edgectl_server.ticker import Duty, Ticker
from waiting import wait_for


def test_a_duty_that_took_long_rests_although_it_is_wanted():
    """While it rests, others are done: half of the time is theirs."""
    spans, others = [], []

    def work():
        began = time.monotonic()
        threading.Event().wait(0.1)
        spans.append((began, time.monotonic()))
        ticker.wake()  # as a rollout is wanted with everything that its devices say

    ticker = Ticker()
    ticker.start([Duty("long", 0.05, work), Duty("other", 0.05, lambda: others.append(1))])
    try:
        wait_for(lambda: len(spans) >= 4, "four times")
    finally:
        ticker.close()
    for (began, ended), (again, _) in itertools.pairwise(spans):
        assert again - ended >= 0.9 * (ended - began)
    assert len(others) > len(spans)


def test_what_was_wanted_while_it_rested_is_done_afterwards():
    done = []

    def work():
        threading.Event().wait(0.05)
        done.append(1)

    ticker = Ticker()
    ticker.start([Duty("one", 3600.0, work)])
    try:
        wait_for(lambda: len(done) == 1, "the first time")
        ticker.wake()
        wait_for(lambda: len(done) == 2, "once more, long before its period")
    finally:
        ticker.close()
