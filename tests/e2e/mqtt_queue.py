#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Queues by address: leases over MQTT, every way to settle them, dead letters, and what a kill -9 leaves."""

import select
import threading
import time

from gateway import Gateway, run, until
from rest import add_group, bodies, good, group_numbers, handlers, make, settle, take
from rest import publish as post
from standstill import needs_pace
from wire import *  # noqa: F403 - the names of the protocol

SHOW = [(USER, ("show", "receipt")), (USER, ("show", "offset"))]


def connect(gateway, name, version=5, credit=None, **options):
    props = [(RECEIVE_MAXIMUM, credit)] if credit else []
    return Client(gateway.mqtt_port, version).connect(name, props=props, **options)


def user(found, name):
    return dict(found.users()).get(name)


def gather(members, count):
    """The payloads of so many deliveries, whichever member each comes to."""
    got = []
    while len(got) < count:
        ready = select.select([member.socket for member in members], [], [], 10)[0]
        assert ready, "of %d there came only %r" % (count, got)
        for member in (member for member in members if member.socket in ready):
            got.append(int(member.delivery().payload))
            while member.input:
                got.append(int(member.delivery().payload))
    return got


def test_publish_and_subscribe(gateway):
    """What is sent to a queue by name, from the moment of subscribing on, for all versions and QoS."""
    make(gateway, "orders", None)
    with connect(gateway, "writer") as writer, connect(gateway, "topics") as topics:
        topics.subscribe(("#", 1))
        assert writer.publish("$queue/orders", "before", 1) == 0
        for version in (3, 4, 5):
            for qos in (0, 1, 2):
                with connect(gateway, "reader", version) as reader:
                    assert reader.subscribe(("$queue/orders", qos)) == [qos]
                    for published in (0, 1, 2):
                        writer.publish("$queue/orders", "m%d" % published, published, props=[(USER, ("a", "1"))])
                    got = [reader.delivery() for _ in range(3)]
                    reader.ping()
                    assert [(d.topic, d.payload, d.qos) for d in got] == \
                        [("$queue/orders", b"m%d" % i, qos) for i in range(3)], got
                    assert version < 5 or got[0].users() == [("a", "1")], got[0].users()
                    assert reader.unsubscribe("$queue/orders", "$queue/orders")[:2] == ([0, 0x11] if version == 5 else [])
        topics.expect_silence(0.1)  # they belong to no topic
        assert until(lambda: group_numbers(gateway, "orders", "mqtt")["available_messages"] == 0)
        # From REST, and by a route: the topic is told to those who can hear it.
        good(gateway.call("PUT", "/v1/default/routes/r%2F%23", {"queue": "orders"}))
        with connect(gateway, "reader") as reader, connect(gateway, "old", 4) as old:
            reader.subscribe(("$queue/orders", 1), props=[(SUBSCRIPTION_ID, 77)] + SHOW)
            post(gateway, {"body": "rest", "attributes": {"x": "y"}}, queue="orders")
            found = reader.delivery()
            assert (found.payload, user(found, "x"), found.get(SUBSCRIPTION_ID)) == (b"rest", "y", 77)
            assert user(found, "topic") is None and user(found, "delivery-count") is None
            assert int(user(found, "offset")) == 28 and user(found, "partition") == "0" and user(found, "receipt")
            writer.publish("r/1", "routed", 1)
            found = reader.delivery()
            assert (found.topic, user(found, "topic"), found.payload) == ("$queue/orders", "r/1", b"routed")
            reader.subscribe(("$queue/orders", 0), props=[(SUBSCRIPTION_ID, 78)])  # replaces
            writer.publish("r/1", "again", 1)
            found = reader.delivery()
            assert (found.get(SUBSCRIPTION_ID), found.qos, user(found, "receipt")) == (78, 0, None)
            for address in ("$queue/none", "$queue/orders/$dead/none", "$queue/orders/x", "$share/g:/$queue/orders"):
                assert old.subscribe((address, 1)) == [0x80], address
                assert reader.subscribe((address, 1)) == [0x8F], address
            assert reader.subscribe(("$queue/orders", 1), props=[(USER, ("lease", "soon"))]) == [0x83]
            for address in ("$queue/none", "$queue/orders/$dead/g", "$queue/orders/x", "$share/g/$queue/orders", "$replay/1/a"):
                assert reader.publish(address, "x", 1) == 0x90, address
            # Refusals come in the order of the publishes.
            for i, address in enumerate(("$queue/orders", "$queue/none", "$queue/orders", "$queue/orders/$nack", "a/b")):
                reader.send(publish(5, address, b"x", 1, packet_id=i + 1))
            answers = [reader.expect(PUBACK) for _ in range(5)]
            answers = [(answer.id, answer.reason) for answer in answers]
            assert answers == [(1, 0), (2, 0x90), (3, 0), (4, 0x99), (5, 0)], answers


def test_groups(gateway):
    """$share/<group>/$queue/<queue>: members take turns; a group by its name, whoever made it."""
    make(gateway, "q", "rest")
    with connect(gateway, "writer") as writer:
        writer.publish("$queue/q", "early", 1)
        members = [connect(gateway, "m%d" % i, (4, 5)[i % 2]) for i in range(3)]
        for member in members:
            assert member.subscribe(("$share/team/$queue/q", 1)) == [1]
        assert all(member.ping() is None for member in members)
        # Strictly in turn where all wait: the answer to a ping says that the member's worker has asked for more.
        for i in range(12):
            writer.publish("$queue/q", str(i), 1, packet_id=i + 1)
            member = members[i % 3]
            assert member.delivery().payload == b"%d" % i
            member.ping()
        # Published without a pause, a member may be passed over while its worker has not asked again.
        for i in range(12, 30):
            writer.publish("$queue/q", str(i), 1, packet_id=i + 1)
        got = gather(members, 18)
        assert sorted(got) == list(range(12, 30)), got
        assert all(member.ping() is None for member in members)
        # The group of REST began with the earliest, and MQTT goes on where it stands.
        items = take(gateway, group="rest", max_msgs=2)
        assert bodies(items) == ["early", "0"]
        good(settle(gateway, "ack", handlers(items), group="rest"))
        with connect(gateway, "late") as late:
            late.subscribe(("$share/rest/$queue/q", 1))
            assert [late.delivery().payload for _ in range(29)] == [b"%d" % i for i in range(1, 30)]
            late.ping()
        for member in members:
            member.close()
    assert until(lambda: group_numbers(gateway, "q", "team")["available_messages"] == 0)
    assert until(lambda: group_numbers(gateway, "q", "rest")["available_messages"] == 0)


def test_settlement_by_puback(gateway):
    make(gateway, "q", None, redrive_policy="enable", max_consume_count=3)
    with connect(gateway, "reader") as reader, connect(gateway, "writer") as writer, connect(gateway, "dead") as dead:
        reader.subscribe(("$share/g/$queue/q", 2), ("$queue/q", 0))
        assert dead.subscribe(("$queue/q/$dead/g", 1), props=SHOW) == [1]
        for qos, answer in ((1, PUBACK), (2, PUBREC)):
            reader.subscribe(("$share/g/$queue/q", qos))
            reader.unsubscribe("$queue/q")
            # Try again now, twice; the third failure is one too many.
            writer.publish("$queue/q", "bad", 1)
            ids = []
            for failures in (None, "1", "2"):
                found = reader.expect(PUBLISH)
                assert (found.payload, found.flags & 8, user(found, "delivery-count")) == (b"bad", 0, failures), found
                ids.append(found.id)
                reader.ack(answer, found.id, 0x80)
            assert dead.delivery().payload == b"bad"
            # Never again.
            writer.publish("$queue/q", "rejected", 1)
            reader.ack(answer, reader.expect(PUBLISH).id, 0x99)
            found = dead.delivery()
            assert (found.topic, found.payload) == ("$queue/q/$dead/g", b"rejected")
            assert user(found, "dead-letter-reason") == "rejected" and user(found, "receipt"), found.users()
            # Later.
            writer.publish("$queue/q", "later", 1)
            found = reader.expect(PUBLISH)
            body = struct.pack(">H", found.id) + b"\x83" + properties([(USER, ("delay", "700"))])
            began = time.monotonic()
            reader.send(packet(answer, 0, body))
            found = reader.delivery()
            assert time.monotonic() - began >= 0.6
            assert (found.payload, user(found, "delivery-count")) == (b"later", "1")
        reader.ping()
        dead.ping()
        assert until(lambda: group_numbers(gateway, "q", "g")["available_deadletters"] == 0)
        assert until(lambda: group_numbers(gateway, "q", "g")["available_messages"] == 0)


@needs_pace
def test_settlement_by_publishing(gateway):
    """$nack and $extend: by packet identifier for 3.1.1, by receipt for MQTT 5."""
    make(gateway, "q", None)
    with connect(gateway, "writer") as writer:
        for version in (3, 4, 5):
            with connect(gateway, "old%d" % version, version) as reader:
                reader.subscribe(("$queue/q", 1))
                writer.publish("$queue/q", "x", 1)
                first = reader.expect(PUBLISH)
                assert reader.publish("$queue/q/$extend", "%d 60000" % first.id, 1, packet_id=7) == 0
                assert reader.publish("$queue/q/$nack", str(first.id), 1, packet_id=8) == 0
                again = reader.expect(PUBLISH)
                assert (again.payload, again.id != first.id) == (b"x", True)
                reader.ack(PUBACK, first.id)
                # The lease of the first is over: nothing to give back or extend by its identifier.
                stale = 0 if version < 5 else 0x80
                for address in ("$nack", "$extend"):
                    assert reader.publish("$queue/q/" + address, str(first.id), 1) == stale
                    assert reader.publish("$queue/q/" + address, "999", 2) == stale
                began = time.monotonic()
                reader.send(publish(version, "$queue/q/$nack", b"%d 600" % again.id, 0))
                reader.ack(PUBACK, again.id)
                assert reader.delivery().payload == b"x" and time.monotonic() - began >= 0.5
                reader.ping()
        with connect(gateway, "reader") as reader, connect(gateway, "other") as other:
            reader.subscribe(("$queue/q", 1), props=SHOW + [(USER, ("lease", "1000"))])
            writer.publish("$queue/q", "y", 1)
            first = reader.expect(PUBLISH)
            receipt = user(first, "receipt")
            assert reader.publish("$queue/q/$extend", receipt + " 60000", 1) == 0
            reader.expect_silence(1.5)
            assert other.publish("$queue/q/$nack", receipt, 2) == 0
            again = reader.expect(PUBLISH)
            assert (again.payload, user(again, "delivery-count")) == (b"y", "1")
            for stale in ("$nack", "$extend"):
                assert reader.publish("$queue/q/" + stale, receipt, 1) == 0x80
            # A lease that runs out is offered again, as a new PUBLISH without DUP; the late answer changes nothing.
            third = reader.expect(PUBLISH)
            assert (third.payload, third.flags & 8, user(third, "delivery-count")) == (b"y", 0, "2")
            assert third.id not in (first.id, again.id)
            for old in (first, again):
                reader.ack(PUBACK, old.id)
            reader.ping()
            reader.ack(PUBACK, third.id)
            reader.ping()
            for bad in ("", "x", "0", "70000", "5 x", receipt[:-1], receipt + " 99999999999"):
                assert reader.publish("$queue/q/$nack", bad, 1) == 0x99, bad
    make(gateway, "p", None)
    with connect(gateway, "reader") as reader, connect(gateway, "writer") as writer:
        reader.subscribe(("$queue/q", 1), props=SHOW)
        writer.publish("$queue/q", "z", 1)
        found = reader.expect(PUBLISH)
        for handle in (str(found.id), user(found, "receipt")):  # of another queue
            assert reader.publish("$queue/p/$nack", handle, 1) == 0x80
        reader.ack(PUBACK, found.id)
        reader.ping()
    assert until(lambda: group_numbers(gateway, "q", "mqtt")["available_messages"] == 0)


def test_credit_and_leaving(gateway):
    """Subscriptions share the client's credit; what a client leaves is others' at once; UNSUBSCRIBE leaves what it has."""
    make(gateway, "a", None)
    make(gateway, "b", None)
    with connect(gateway, "small", credit=2) as small, connect(gateway, "writer") as writer:
        small.subscribe(("$queue/a", 1), ("$queue/b", 1), ("t", 1))
        for i in range(6):
            writer.publish(("$queue/a", "$queue/b", "t")[i % 3], str(i), 1, packet_id=i + 1)
        got = [small.expect(PUBLISH), small.expect(PUBLISH)]
        small.expect_silence(0.2)
        while len(got) < 6:
            small.ack(PUBACK, got[len(got) - 2].id)
            got.append(small.expect(PUBLISH))
        for found in got[-2:]:
            small.ack(PUBACK, found.id)
        assert sorted(found.payload for found in got) == [b"%d" % i for i in range(6)]
        small.expect_silence(0.2)
        # It keeps what it has, and may still answer it.
        writer.publish("$queue/a", "kept", 1)
        writer.publish("$queue/a", "left", 1)
        kept, left = small.expect(PUBLISH), small.expect(PUBLISH)
        assert small.unsubscribe("$queue/a") == [0]
        writer.publish("$queue/a", "more", 1)
        small.ack(PUBACK, kept.id)
        small.expect_silence(0.2)
        with connect(gateway, "next") as other:
            other.subscribe(("$queue/a", 1))
            assert other.delivery().payload == b"more"
            other.expect_silence(0.1)
            small.close()
            found = other.delivery()
            assert (found.payload, user(found, "delivery-count")) == (b"left", None)
            other.ping()
        assert left.payload == b"left"
    # A record that is too large for the client is rejected, not lost where dead letters are kept.
    make(gateway, "c", None, redrive_policy="enable", max_consume_count=3)
    with Client(gateway.mqtt_port, 5).connect("narrow", props=[(MAXIMUM_PACKET, 200)]) as narrow, \
            connect(gateway, "writer") as writer, connect(gateway, "dead") as dead:
        narrow.subscribe(("$queue/c", 1))
        assert dead.subscribe(("$queue/c/$dead/mqtt", 1)) == [1]
        writer.publish("$queue/c", "x" * 1000, 1)
        writer.publish("$queue/c", "small", 1)
        assert narrow.delivery().payload == b"small"
        assert dead.delivery().payload == b"x" * 1000
        dead.ping()


def test_kill_with_leases(gateway):
    """Nothing acknowledged is lost, and what was under lease is offered again after kill -9."""
    make(gateway, "q", None)
    with connect(gateway, "reader") as reader, connect(gateway, "writer") as writer:
        assert reader.subscribe(("$share/g/$queue/q", 1)) == [1]
        assert reader.subscribe(("$share/new/$queue/q", 1), packet_id=2) == [1]
        for i in range(20):
            assert writer.publish("$queue/q", str(i), 1, packet_id=i + 1) == 0
        held = [reader.expect(PUBLISH) for _ in range(40)]
        assert sorted(int(d.payload) for d in held) == sorted(list(range(20)) * 2)
        failed = next(d for d in held if d.payload == b"3")
        assert reader.publish("$queue/q/$nack", str(failed.id), 1, packet_id=9) == 0
    gateway.kill9()
    gateway.restart()
    with connect(gateway, "reader") as reader:
        reader.subscribe(("$share/g/$queue/q", 1))
        reader.subscribe(("$share/new/$queue/q", 1), packet_id=2)
        again = [reader.delivery() for _ in range(40)]
        assert sorted(int(d.payload) for d in again) == sorted(list(range(20)) * 2)
        assert [d.payload for d in again if user(d, "delivery-count") == "1"] == [b"3"]
        reader.ping()
    for group in ("g", "new"):
        assert until(lambda name=group: group_numbers(gateway, "q", name)["available_messages"] == 0)


def test_members_come_and_go(gateway):
    """Under load: everything is acknowledged by somebody, and nothing twice without being offered again."""
    make(gateway, "q", None)
    count, acknowledged, done = 1500, [], threading.Event()
    lock = threading.Lock()

    def consume(index):
        version, turn = (4, 5)[index % 2], 0
        while not done.is_set():
            turn += 1
            with connect(gateway, "m%d" % index, version, credit=(1, 7, 200)[turn % 3]) as member:
                member.subscribe(("$share/g/$queue/q", 1))
                member.socket.settimeout(0.2)
                for i in range(40 + 60 * index):
                    try:
                        found = member.expect(PUBLISH)
                    except TimeoutError:
                        break
                    if i % 50 == 49:
                        break
                    member.ack(PUBACK, found.id)
                    with lock:
                        acknowledged.append(int(found.payload))
                member.socket.settimeout(30)
                member.ping()

    threads = [threading.Thread(target=consume, args=(i,)) for i in range(4)]
    with connect(gateway, "first") as first, connect(gateway, "writer") as writer:
        first.subscribe(("$share/g/$queue/q", 1))
        first.unsubscribe("$share/g/$queue/q")
        for thread in threads:
            thread.start()
        for i in range(count):
            assert writer.publish("$queue/q", str(i), 1, packet_id=i % 60000 + 1) == 0
        assert until(lambda: len(set(acknowledged)) == count, 60), count - len(set(acknowledged))
        done.set()
        for thread in threads:
            thread.join()
    assert sorted(acknowledged) == list(range(count)), len(acknowledged)
    assert until(lambda: group_numbers(gateway, "q", "g")["available_messages"] == 0)


run(test_publish_and_subscribe, test_groups, test_settlement_by_puback, test_settlement_by_publishing,
    test_credit_and_leaving, test_kill_with_leases, test_members_come_and_go)
