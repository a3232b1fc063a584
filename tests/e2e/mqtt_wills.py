#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Wills: who is back in time leaves none, whose session ends leaves it at once; over a stop and a kill, too."""

import time

import standstill
from gateway import run
from rest import good, make
from standstill import needs_pace
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


@needs_pace
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
        assert standstill.spent(began) < 30
        late = {}
        for _ in range(3):
            got = watch.delivery()
            late[got.payload] = got
            assert time.monotonic() - began >= 2
        assert sorted(late) == [b"asked", b"late", b"short-session"], late
        got = late[b"late"]
        assert got.qos == 2 and got.users() == [("k", "v")] and 58 <= got.get(MESSAGE_EXPIRY) <= 60, got
        with Client(gateway.mqtt_port, 5).connect("late", clean=False) as again:  # its will has been published
            assert again.connack.body[0] & 1
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


def test_takeover_without_delay(gateway):
    """The connection that is taken over has ended: its will comes although the session goes on; and a session that ends
    with its connection does not wait for a delay (3.1.3.2.2)."""
    with watcher(gateway) as watch:
        for version, props, delay in ((4, (), 0), (5, KEEP, 0), (5, (), 50)):
            for clean in (False, True):
                older = Client(gateway.mqtt_port, version).connect(
                    "x", clean=False, props=props, will=("will/x", "x", 1, False, [(WILL_DELAY, delay)] if delay else []))
                with Client(gateway.mqtt_port, version).connect("x", clean=clean, props=props):
                    assert older.expect_end() == (0x8E if version == 5 else None)
                    assert watch.delivery().payload == b"x"
        watch.expect_silence(0.1)


def test_again_and_again(gateway):
    """Who leaves politely leaves no will however often it comes, and its subscription holds."""
    with watcher(gateway) as watch, Client(gateway.mqtt_port, 5).connect("writer") as writer:
        for number in range(20):
            client = Client(gateway.mqtt_port, 5).connect("x", clean=number % 2 == 0, props=KEEP,
                                                          will=("will/x", "x", 2, True, [(WILL_DELAY, 1)]))
            client.subscribe(("#", 2))
            assert writer.publish("t", str(number), 2) == 0
            while client.delivery().payload != str(number).encode():
                continue
            client.disconnect()
            assert client.receive() is None
            client.close()
        watch.expect_silence(1.2)


@needs_pace
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


def observer(gateway):
    """A session that sees everything, also what is published while the gateway ends."""
    client = Client(gateway.mqtt_port, 5).connect("observer", clean=False, props=KEEP)
    if not client.connack.body[0] & 1:
        client.subscribe(("will/#", 2))
    return client


@needs_pace
def test_restart(gateway):
    """What was put off is still taken back by a session that goes on, after a kill, too; one that begins anew ends the
    session before, and with it the delay."""
    with observer(gateway):
        pass
    leave(gateway, "resumed", 3)
    leave(gateway, "alone", 3)
    leave(gateway, "cleaned", 100)
    leave(gateway, "goodbye", 0, disconnect=(0,))
    with Client(gateway.mqtt_port, 5).connect("barrier") as client:
        client.publish("x", "x", 1)
    time.sleep(0.2)
    gateway.kill9()
    gateway.start()
    with Client(gateway.mqtt_port, 5).connect("resumed", clean=False, props=KEEP) as resumed, \
            observer(gateway) as watch:
        assert resumed.connack.body[0] & 1
        with Client(gateway.mqtt_port, 5).connect("cleaned"):
            assert watch.delivery().payload == b"cleaned"
        assert watch.delivery().payload == b"alone"
        watch.expect_silence(1.2)


def connected(gateway, name, delay, props=KEEP):
    return Client(gateway.mqtt_port, 5).connect(
        name, clean=False, props=props, will=("will/" + name, name, 1, False, [(WILL_DELAY, delay)]))


@needs_pace
def test_stop(gateway):
    """A gateway that stops closes the connections, so that their wills are published (3.1.2-8): before it ends, or after
    their delay, when it is there again."""
    with observer(gateway):
        pass
    clients = [connected(gateway, "now", 0), connected(gateway, "no-session", 50, props=()),
               connected(gateway, "later", 2), connected(gateway, "comes-back", 2)]
    assert gateway.stop() == 0
    assert [client.expect_end() for client in clients] == [0x8B] * 4
    gateway.start()
    with Client(gateway.mqtt_port, 5).connect("comes-back", clean=False, props=KEEP), observer(gateway) as watch:
        assert sorted(watch.delivery().payload for _ in range(3)) == [b"later", b"no-session", b"now"]
        watch.expect_silence(1.2)


@needs_pace
def test_killed_with_them(gateway):
    """The end of a connection that nobody could see: the will comes nevertheless, also where nothing else is kept of
    the client; who has said goodbye leaves none."""
    with observer(gateway):
        pass
    clients = [connected(gateway, "now", 0), connected(gateway, "later", 1), connected(gateway, "comes-back", 5),
               connected(gateway, "no-session", 50, props=())]
    leave(gateway, "well", 0, props=(), disconnect=(0,))
    time.sleep(2)  # soon after CONNECT, and without a sync of its own
    with Client(gateway.mqtt_port, 4).connect("old", clean=False, will=("will/old", "old", 1, False)) as old:
        gateway.kill9()
        gateway.start()
    for client in clients:
        client.close()
    with Client(gateway.mqtt_port, 5).connect("comes-back", clean=False, props=KEEP), observer(gateway) as watch:
        assert sorted(watch.delivery().payload for _ in range(4)) == [b"later", b"no-session", b"now", b"old"]
        watch.expect_silence(1.2)


def test_back_at_once(gateway):
    """What a run before has left unsaid is not said after what its client says when it is back."""
    names = ["back-%d" % i for i in range(20)]
    clients = [Client(gateway.mqtt_port, 5).connect(name, will=("will/" + name, "offline", 1, True)) for name in names]
    time.sleep(1)  # soon after CONNECT, and without a sync of its own
    gateway.kill9()
    for client in clients:
        client.close()
    gateway.start()
    clients = [Client(gateway.mqtt_port, 5).connect(name) for name in names]
    for name, client in zip(names, clients):
        assert client.publish("will/" + name, "online", 1, retain=True) == 0
    time.sleep(2)  # the sweep has been there meanwhile
    with watcher(gateway) as watch:
        assert [watch.delivery().payload for _ in names] == [b"online"] * len(names)
    for client in clients:
        client.disconnect(0)
        client.close()


def test_addresses(gateway):
    """A will is published as its PUBLISH would be: to a queue, or later."""
    make(gateway, "alerts", None)
    with watcher(gateway) as watch, Client(gateway.mqtt_port, 5).connect("taker") as taker:
        taker.subscribe(("$queue/alerts", 1))
        for version in (4, 5):
            Client(gateway.mqtt_port, version).connect("x", will=("$queue/alerts", "gone", 1, False)).close()
            got = taker.delivery()
            assert (got.topic, got.payload) == ("$queue/alerts", b"gone"), got
        began = time.monotonic()
        Client(gateway.mqtt_port, 5).connect("x", will=("$delayed/1/will/later", "later", 1, False)).close()
        got = watch.delivery()
        assert (got.topic, got.payload) == ("will/later", b"later") and time.monotonic() - began >= 1, got
        Client(gateway.mqtt_port, 5).connect("x", will=("$queue/none", "gone", 1, False)).close()
        many = [(USER, ("n", str(i))) for i in range(253)]
        for address, props, reason in (
                ("$queue/alerts/$nack", [], 0x90), ("$queue/alerts/$extend", [], 0x90), ("$delayed/x/y", [], 0x90),
                ("a/" * 127 + "a", [], 0), ("a/" * 128 + "a", [], 0x90), ("will/x", [(USER, ("delay", "soon"))], 0x90),
                ("will/x", [(USER, ("dedup-id", ""))], 0x90), ("will/x", [(USER, ("dedup-id", "x" * 5000))], 0x97),
                ("$SYS/broker/x", [], 0x87), ("will/x", many[1:], 0), ("will/x", many, 0x97)):
            with Client(gateway.mqtt_port, 5).connect("y", will=(address, "x", 1, False, props), accept=False) as client:
                assert client.expect(CONNACK).reason == reason, (address, props)
                if reason == 0:
                    client.disconnect()
                    assert client.receive() is None
        watch.expect_silence(0.1)
        assert 'polylog_dropped_total{reason="will"} 1\n' in gateway.call("GET", "/metrics")[1]


@needs_pace
def test_full(gateway):
    """What a full queue refuses is tried again, also after a kill."""
    make(gateway, "full", None, max_records=1, overflow="refuse")
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        assert writer.publish("$queue/full", "x", 1) == 0
        Client(gateway.mqtt_port, 5).connect("x", will=("$queue/full", "gone", 1, False)).close()
        time.sleep(0.3)
    gateway.kill9()
    gateway.start()
    with Client(gateway.mqtt_port, 5).connect("taker") as taker:
        taker.subscribe(("$queue/full", 1))
        good(gateway.call("POST", "/v1/default/queues/full/purge"))
        assert taker.delivery().payload == b"gone"


if __name__ == "__main__":
    run(test_addresses, test_full, test_delays, test_takeover, test_takeover_without_delay, test_again_and_again, test_kill, test_restart, test_stop, test_killed_with_them,
        test_back_at_once)
