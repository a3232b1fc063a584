#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Wills with a delay: who is back in time leaves none, whose session ends leaves it at once; over a kill, too."""

import time

from gateway import run
from wire import *  # noqa: F403 - the names of the protocol

KEEP = [(SESSION_EXPIRY, 100)]


def leave(gateway, name, delay, props=KEEP, disconnect=None, will_props=(), retain=False, qos=1):
    will = ("will/" + name, name, qos, retain, [(WILL_DELAY, delay)] + list(will_props))
    client = Client(gateway.mqtt_port, 5).connect(name, clean=False, props=props, will=will)
    if disconnect is not None:
        client.disconnect(*disconnect)
        assert client.receive() is None
    client.close()


def watcher(gateway):
    client = Client(gateway.mqtt_port, 5).connect("watcher")
    client.subscribe(("will/#", 2))
    return client


def test_delays(gateway):
    with watcher(gateway) as watch:
        began = time.monotonic()
        leave(gateway, "now", 0)
        leave(gateway, "no-session", 50, props=())
        leave(gateway, "well", 1, disconnect=(0,))
        leave(gateway, "late", 2, will_props=[(MESSAGE_EXPIRY, 60), (USER, ("k", "v"))], qos=2)
        leave(gateway, "asked", 2, disconnect=(4,))
        leave(gateway, "short-session", 50, props=[(SESSION_EXPIRY, 2)])
        leave(gateway, "ends-now", 50, disconnect=(4, [(SESSION_EXPIRY, 0)]))
        leave(gateway, "resumed", 1)
        leave(gateway, "taken-over", 1)
        leave(gateway, "cleaned", 50)
        at_once = sorted(watch.delivery().payload for _ in range(3))
        assert at_once == [b"ends-now", b"no-session", b"now"], at_once
        with Client(gateway.mqtt_port, 5).connect("resumed", clean=False, props=KEEP) as resumed:
            assert resumed.connack.body[0] & 1
        with Client(gateway.mqtt_port, 5).connect("taken-over", clean=False, props=KEEP):
            with Client(gateway.mqtt_port, 5).connect("taken-over", clean=False, props=KEEP):
                pass
        with Client(gateway.mqtt_port, 5).connect("cleaned"):
            assert watch.delivery().payload == b"cleaned"  # its session has ended
        assert time.monotonic() - began < 30
        late = {}
        for _ in range(3):
            got = watch.delivery()
            late[got.payload] = got
            assert time.monotonic() - began >= 2
        assert sorted(late) == [b"asked", b"late", b"short-session"], late
        got = late[b"late"]
        assert got.qos == 2 and got.users() == [("k", "v")] and 58 <= got.get(MESSAGE_EXPIRY) <= 60, got
        watch.expect_silence(0.3)


def test_takeover(gateway):
    """The new connection goes on with the session, or ends it."""
    for clean, expected in ((False, []), (True, [b"x"])):
        with watcher(gateway) as watch:
            older = Client(gateway.mqtt_port, 5).connect("x", clean=False, props=KEEP,
                                                         will=("will/x", "x", 1, False, [(WILL_DELAY, 1)]))
            with Client(gateway.mqtt_port, 5).connect("x", clean=clean, props=KEEP):
                assert older.expect_end() == 0x8E
                older.close()
                assert [watch.delivery().payload for _ in expected] == expected
                watch.expect_silence(1.3)


def test_kill(gateway):
    """What was put off is durable; retained wills are retained when they are due."""
    leave(gateway, "killed", 2, retain=True)
    with Client(gateway.mqtt_port, 5).connect("barrier") as client:
        client.publish("x", "x", 1)
        client.publish("x", "x", 1)
    time.sleep(0.2)
    gateway.kill9()
    gateway.start()
    with watcher(gateway) as watch:
        got = watch.delivery()
        assert got.payload == b"killed", got
    with watcher(gateway) as watch:
        got = watch.delivery()
        assert got.payload == b"killed" and got.flags & 1, got
    leave(gateway, "waits", 50)  # and a gateway that ends does not wait for it


if __name__ == "__main__":
    run(test_delays, test_takeover, test_kill)
