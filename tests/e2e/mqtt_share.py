#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Shared subscriptions on topic filters: MQTT 5.0, 4.8.2, statement by statement, and members that come and go."""

import random
import threading

from gateway import Gateway, run, until
from rest import make
from wire import *  # noqa: F403 - the names of the protocol


def connect(gateway, name, version=5, credit=None, **options):
    props = [(RECEIVE_MAXIMUM, credit)] if credit else []
    return Client(gateway.mqtt_port, version).connect(name, props=props, **options)


def held(client, count):
    """Deliveries that are not acknowledged: (identifier, payload)."""
    return [(found.id, found.payload) for found in (client.expect(PUBLISH) for _ in range(count))]


def send_all(writer, topic, numbers, qos=1):
    for number in numbers:
        assert writer.publish(topic, str(number), qos, packet_id=number % 60000 + 1) == 0


def test_granted_and_taken_in_turn(gateway):
    """MQTT-4.8.2-1 to 3; also for MQTT 3.1 and 3.1.1, with members of all versions and every QoS."""
    members = [connect(gateway, "m%d" % version, version) for version in (3, 4, 5)]
    assert members[2].connack.get(SHARED) in (None, 1)
    with connect(gateway, "writer") as writer, connect(gateway, "other") as other:
        for i, member in enumerate(members):
            assert member.subscribe(("$share/g/t/+", i)) == [i]
        assert other.subscribe(("$share/h/t/+", 2), ("t/#", 0)) == [2, 0]
        for i in range(9):
            assert writer.publish("t/%d" % i, str(i), 2, packet_id=i + 1) == 0
        for i, member in enumerate(members):
            got = [member.delivery() for _ in range(3)]
            assert [(d.payload, d.qos, d.topic) for d in got] == \
                [(b"%d" % k, i, "t/%d" % k) for k in range(i, 9, 3)], got
            member.ping()
        everything = [other.delivery() for _ in range(18)]
        for qos in (0, 2):
            assert [d.payload for d in everything if d.qos == qos] == [b"%d" % k for k in range(9)]
    for name in ("$share//t", "$share/g", "$share/g/", "$share/g+/t", "$share/#/t"):
        with connect(gateway, "bad") as client:
            body = b"\0\1\0" + text(name) + b"\1"
            client.send(packet(SUBSCRIBE, 2, body))
            answer = client.receive()
            reason = answer.reason if answer.type == DISCONNECT else answer.reasons[0]
            assert reason in (0x8F, 0x82), (name, answer)
    with connect(gateway, "local") as client:  # MQTT-3.8.3-4
        client.send(packet(SUBSCRIBE, 2, b"\0\1\0" + text("$share/g/t") + b"\5"))
        assert client.expect_end() == 0x82
    for member in members:
        member.close()


def test_options_of_each_member(gateway):
    with connect(gateway, "a") as a, connect(gateway, "b") as b, connect(gateway, "writer") as writer:
        a.subscribe(("$share/g/t", 1), props=[(SUBSCRIPTION_ID, 1)])
        b.subscribe(("$share/g/t", 1), props=[(SUBSCRIPTION_ID, 2)])
        a.subscribe(("t", 0), props=[(SUBSCRIPTION_ID, 3)])
        writer.publish("t", "x", 1, props=[(USER, ("k", "v"))])
        writer.publish("t", "y", 1)
        got = sorted((d.payload, d.get(SUBSCRIPTION_ID)) for d in (a.delivery(), a.delivery(), a.delivery()))
        assert got == [(b"x", 1), (b"x", 3), (b"y", 3)], got
        assert b.delivery().get(SUBSCRIPTION_ID) == 2
        a.subscribe(("$share/g/t", 0), props=[(SUBSCRIPTION_ID, 9)])  # replaces
        a.unsubscribe("t")
        writer.publish("t", "z", 1)
        got = a.delivery()
        assert (got.get(SUBSCRIPTION_ID), got.qos) == (9, 0)
        assert a.unsubscribe("$share/g/t", "$share/g/t", "$share/h/t") == [0, 0x11, 0x11]
        send_all(writer, "t", range(4))
        assert [b.delivery().payload for _ in range(4)] == [b"0", b"1", b"2", b"3"]
        a.expect_silence(0.1)


def test_retained(gateway):
    """Nothing retained is sent when a share is subscribed to (MQTT 5, 4.8.2); the flag stays where it was asked to."""
    with connect(gateway, "writer") as writer, connect(gateway, "reader") as reader:
        writer.publish("t", "x", 1, retain=True)
        assert reader.subscribe(("$share/g/t", 1), ("$share/h/t", 1 | 8)) == [1, 1]
        reader.expect_silence(0.2)
        writer.publish("t", "y", 1, retain=True)
        assert sorted((d.payload, d.flags & 1) for d in (reader.delivery(), reader.delivery())) == [(b"y", 0), (b"y", 1)]


def test_session_ends_with_unacknowledged(gateway):
    """QoS 1 goes to another member when the session ends, QoS 2 to nobody else (MQTT-4.8.2-4 and 5)."""
    with connect(gateway, "b") as b, connect(gateway, "writer") as writer:
        a = connect(gateway, "a")
        a.subscribe(("$share/g/t", 2))
        send_all(writer, "t", (1, 2))
        assert writer.publish("t", "exactly", 2, packet_id=9) == 0
        assert [payload for _, payload in held(a, 3)] == [b"1", b"2", b"exactly"]
        a.expect_silence(0.3)  # MQTT-4.4.0-1: nothing is sent again on a living connection
        b.subscribe(("$share/g/t", 2))
        a.close()
        again = [b.delivery() for _ in range(2)]
        assert [(d.payload, d.flags & 8) for d in again] == [(b"1", 0), (b"2", 0)]
        b.expect_silence(0.2)
        # A polite DISCONNECT ends a session as well.
        a = connect(gateway, "a")
        a.subscribe(("$share/g/t", 1))
        send_all(writer, "t", range(2))
        b.delivery()
        held(a, 1)
        a.disconnect()
        assert b.delivery().payload in (b"0", b"1")


def test_negative_answers(gateway):
    """PUBACK or PUBREC of 0x80 and above: nobody else gets it (MQTT-4.8.2-6)."""
    with connect(gateway, "a") as a, connect(gateway, "b") as b, connect(gateway, "writer") as writer:
        a.subscribe(("$share/g/t", 2))
        for qos, answer in ((1, PUBACK), (2, PUBREC)):
            assert writer.publish("t", "no", qos) == 0
            identifier, _ = held(a, 1)[0]
            a.ack(answer, identifier, 0x83)
            a.ping()
        b.subscribe(("$share/g/t", 2))
        a.close()
        writer.publish("t", "yes", 1)
        assert b.delivery().payload == b"yes"
        b.expect_silence(0.2)


def test_slow_member(gateway):
    """One that does not acknowledge, and one that does not read, stop nobody."""
    with connect(gateway, "slow", credit=3) as slow, connect(gateway, "deaf", credit=1000) as deaf, \
            connect(gateway, "quick") as quick, connect(gateway, "writer") as writer:
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for member in (slow, deaf, quick):
            member.subscribe(("$share/g/t", 1))
        body = "x" * 8192
        count = 1200
        sender = threading.Thread(target=lambda: [
            writer.publish("t", "%d " % i + body, 1, packet_id=i + 1) for i in range(count)])
        sender.start()
        seen = {number for _, number in ((0, int(d.payload.split()[0])) for d in (slow.expect(PUBLISH) for _ in range(3)))}
        assert len(seen) == 3
        got = set()
        quick.socket.settimeout(1)
        while True:
            all_sent = not sender.is_alive()
            try:
                got.add(int(quick.delivery().payload.split()[0]))
            except TimeoutError:
                if all_sent:
                    break
        sender.join()
        assert not got & seen
        rest = count - len(got) - 3  # with the one that does not read: what its connection holds
        assert 0 < rest <= 1000, rest
        deaf.close()
        quick.socket.settimeout(10)
        more = {int(quick.delivery().payload.split()[0]) for _ in range(rest)}
        assert not more & got and len(more | got | seen) == count


def test_members_come_and_go(gateway):
    """Nothing is lost while one member lives, and nothing that was acknowledged comes again."""
    topics, count = ["load/%d" % i for i in range(4)], 2000
    acknowledged, done = [], threading.Event()

    def publish_all(index):
        with connect(gateway, "writer%d" % index, 4) as writer:
            for i in range(index, count, 2):
                assert writer.publish(topics[i % 4], str(i), 1, packet_id=i % 60000 + 1) == 0

    def consume(index):
        local = random.Random(index)
        steady = index == 0
        while not done.is_set():
            credit = local.choice((1, 5, 100))
            with connect(gateway, "member%d" % index, local.choice((4, 5)), credit=credit) as member:
                assert member.subscribe(("$share/g/load/+", 1)) == [1]
                member.socket.settimeout(0.2)
                left = 1 << 30 if steady else local.randrange(1, 300)
                while left and not done.is_set():
                    try:
                        found = member.expect(PUBLISH)
                    except TimeoutError:
                        break
                    if not steady and local.random() < 0.02:
                        break  # leaves with it in hand
                    member.ack(PUBACK, found.id)
                    left -= 1
                    acknowledged.append(int(found.payload))
                member.socket.settimeout(30)
                member.ping()  # so that it knows what we have acknowledged
                if local.random() < 0.5:
                    member.disconnect()

    # One that stays for ever, so that the share lives on.
    with connect(gateway, "stays") as stays:
        assert stays.subscribe(("$share/g/load/+", 1)) == [1]
        writers = [threading.Thread(target=publish_all, args=(i,)) for i in range(2)]
        members = [threading.Thread(target=consume, args=(i,)) for i in range(4)]
        for thread in members + writers:
            thread.start()
        stays.socket.settimeout(0.05)

        def everything():
            try:
                while True:
                    acknowledged.append(int(stays.delivery().payload))
            except TimeoutError:
                return len(set(acknowledged)) >= count

        assert until(everything, 60), count - len(set(acknowledged))
        done.set()
        for thread in members + writers:
            thread.join()
    assert sorted(acknowledged) == list(range(count)), len(acknowledged)


def resumed(gateway, name, version, clean=False, present=True):
    props = [(SESSION_EXPIRY, 1000)] if version == 5 else []
    client = Client(gateway.mqtt_port, version).connect(name, clean=clean, props=props)
    assert client.connack.body[0] == present, client.connack
    return client


def test_kept_sessions(gateway):
    """Subscriptions to shares and queues belong to the session: they are there when it goes on, also after a kill -9."""
    make(gateway, "q", None)
    with connect(gateway, "writer") as writer:
        for version in (4, 5):
            name = "k%d" % version
            with resumed(gateway, name, version, present=False) as client:
                props = [(SUBSCRIPTION_ID, 5)] if version == 5 else []
                assert client.subscribe(("$share/g/t", 1), ("$queue/q", 1), ("plain", 1), ("$queue/none", 1), props=props) \
                    == [1, 1, 1, 0x80 if version == 4 else 0x8F]
            for i in range(3):  # the group of the queue waits for its consumer, as the session does
                assert writer.publish("$queue/q", "offline%d" % i, 1) == 0
            for _ in range(2):
                with resumed(gateway, name, version) as client:
                    got = [client.delivery() for _ in range(3)]
                    assert [d.payload for d in got] == [b"offline%d" % i for i in range(3)], got
                    assert version == 4 or got[0].get(SUBSCRIPTION_ID) == 5
                    client.ping()
                    for topic in ("t", "plain", "$queue/q"):
                        assert until(lambda name=topic: writer.publish(name, name, 1) == 0)
                        found = client.delivery()
                        assert (found.topic, found.payload.decode()) == (topic, topic)
                    client.ping()
                for i in range(3):
                    assert writer.publish("$queue/q", "offline%d" % i, 1) == 0
                if version == 5:
                    break
            with resumed(gateway, name, version) as client:
                for _ in range(3):
                    client.delivery()
                gone = client.unsubscribe("$share/g/t", "$queue/q", "plain")
                assert gone == ([0, 0, 0] if version == 5 else [])
            with resumed(gateway, name, version) as client:
                for topic in ("t", "plain", "$queue/q"):
                    assert writer.publish(topic, topic, 1) == 0
                client.expect_silence(0.2)
            with connect(gateway, "drain") as drain:
                drain.subscribe(("$queue/q", 1))
                assert drain.delivery().payload == b"$queue/q"
                drain.ping()
        with resumed(gateway, "last", 5, present=False) as client:
            client.subscribe(("$share/g/t", 1), ("$share/team/$queue/q", 1))
    gateway.kill9()
    gateway.restart()
    with connect(gateway, "writer") as writer:
        assert writer.publish("$queue/q", "x", 1) == 0
        with resumed(gateway, "last", 5) as client:
            assert client.delivery().payload == b"x"
            client.ping()
            assert writer.publish("t", "y", 1) == 0
            assert client.delivery().payload == b"y"
        with resumed(gateway, "last", 5, clean=True, present=False) as client:
            for topic in ("t", "$queue/q"):
                assert writer.publish(topic, "z", 1) == 0
            client.expect_silence(0.2)


run(test_kept_sessions, test_granted_and_taken_in_turn, test_options_of_each_member, test_retained, test_session_ends_with_unacknowledged,
    test_negative_answers, test_slow_member, test_members_come_and_go)
