# SPDX-License-Identifier: Apache-2.0
"""How long the machine has not let this test go on: what an upper bound has to allow for, on a machine that others share.

A thread that wants to run every few milliseconds notes when it could not. What holds only the gateway up is not noticed: that
is what upper bounds are for.
"""
import threading
import time

TICK = 0.01
NOTICED = 0.05  # what a busy interpreter takes from a thread is less

_gaps = []  # (from, to) by time.monotonic(), in order
_last = time.monotonic()


def _watch():
    global _last
    while True:
        time.sleep(TICK)
        now = time.monotonic()
        if now - _last > NOTICED:
            _gaps.append((_last, now))
        _last = now


threading.Thread(target=_watch, daemon=True).start()


def since(began):
    """The seconds since began, by time.monotonic(), in which nothing went on."""
    now = time.monotonic()
    while _last < now:  # it may not have noticed yet
        time.sleep(TICK / 10)
    return sum(end - max(start, began) for start, end in _gaps if end > began)


def spent(began):
    """The seconds since began without those: what an upper bound is held against."""
    took = time.monotonic() - began
    return max(0.0, took - since(began))


def needs_pace(test):
    """Marks a test whose times only a machine that goes on can keep: when it fails and the machine has stood still
    meanwhile, that says nothing, and run() tries it again."""
    test.needs_pace = True
    return test
