#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sessions that outlive their connection: what they subscribed to, what they missed, what was in flight, what they
sent exactly once - over reconnects, takeover, restart and kill -9."""

import contextlib
import time

from gateway import run
from rest import make
from standstill import needs_pace
from wire import *  # noqa: F403 - the names of the protocol

KEEP = [(SESSION_EXPIRY, 3600)]


def present(client):
    return client.connack.body[0] & 1


def leave(client, props=()):
    """Waits until the gateway has taken note: the next connection may be another worker's."""
    client.disconnect(props=props)
    assert client.receive() is None


def resume(gateway, name, version=5, props=KEEP, **options):
    return Client(gateway.mqtt_port, version).connect(name, clean=False, props=props, **options)


@needs_pace
def test_server_maximum(gateway):
    """What a client may ask for is limited, and it is told."""
    gateway.stop()
    gateway.sets.append("limit.session_expiry=2")
    gateway.start()
    with resume(gateway, "less", props=[(SESSION_EXPIRY, 1)]) as client:
        assert client.connack.get(SESSION_EXPIRY) is None
    with resume(gateway, "later", props=[(SESSION_EXPIRY, 1)]) as client:
        leave(client, props=[(SESSION_EXPIRY, 1000)])
    with resume(gateway, "long") as client:
        assert client.connack.get(SESSION_EXPIRY) == 2
        leave(client)
    with resume(gateway, "old", version=4) as client:
        leave(client)
    for name, version in (("later", 5), ("long", 5), ("old", 4)):
        with resume(gateway, name, version) as client:
            assert present(client), name
            leave(client)
    time.sleep(2.1)
    for name, version in (("later", 5), ("long", 5), ("old", 4)):
        with resume(gateway, name, version) as client:
            assert not present(client), name


def test_many_filters(gateway):
    """More than one SUBSCRIBE may hold, and of more shapes than have an index of their own."""
    gateway.stop()
    gateway.sets.append("limit.subscriptions=5000")
    gateway.start()
    shapes = ["/".join("+" if number >> level & 1 else "s" for level in range(7)) for number in range(80)]
    longest = "$" + "a" * 65533
    with resume(gateway, "many") as client:
        for first in (0, 600):
            assert client.subscribe(*(("m/%d" % i, 1) for i in range(first, first + 600))) == [1] * 600
        assert client.subscribe(*((name, 1) for name in shapes)) == [1] * len(shapes)
        assert client.subscribe((longest, 1)) == [1]
        leave(client)
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        for topic in ("m/0", "m/1199", "s/s/s/s/s/s/s", longest):
            assert writer.publish(topic, "x", 1) == 0
    with resume(gateway, "many") as client:
        assert present(client)
        missing = {"m/0", "m/1199", "s/s/s/s/s/s/s", longest}
        while missing:  # once for each subscription that matches
            missing.discard(client.delivery().topic)


def drain(client, count):
    return [client.delivery().payload.decode() for _ in range(count)]


def names(prefix, count, start=0):
    return ["%s%d" % (prefix, i) for i in range(start, start + count)]


def test_session_present(gateway):
    for version in (4, 5):
        name = "p%d" % version
        with resume(gateway, name, version) as client:
            assert not present(client)
            assert client.subscribe((name, 1)) == [1]
        with resume(gateway, name, version) as client:
            assert present(client)
        with Client(gateway.mqtt_port, version).connect(name, clean=True) as client:
            assert not present(client)
        with resume(gateway, name, version) as client:  # the clean one has ended it
            assert not present(client)
    with resume(gateway, "old", 3) as client:
        assert not present(client)
    # Without an expiry interval a session of MQTT 5 ends with its connection.
    for _ in range(2):
        with resume(gateway, "short", props=()) as client:
            assert not present(client)
            client.subscribe(("short", 1))
            leave(client)


def test_expiry(gateway):
    open_one = resume(gateway, "open", props=[(SESSION_EXPIRY, 1)])  # which does not count while it is connected
    with resume(gateway, "e", props=[(SESSION_EXPIRY, 1)]) as client:
        client.subscribe(("e", 1))
    with resume(gateway, "e2") as client:
        client.subscribe(("e", 1))
        leave(client, [(SESSION_EXPIRY, 1)])  # instead of an hour
    with resume(gateway, "e3") as client:
        client.subscribe(("e", 1))
        leave(client, [(SESSION_EXPIRY, 0)])
    with resume(gateway, "e3") as client:
        assert not present(client)
    began = time.monotonic()
    deadline = began + 20
    while True:  # connects and leaves: each time the second begins anew, so wait first
        time.sleep(2.5)
        with resume(gateway, "e", props=[(SESSION_EXPIRY, 1)]) as one, \
                resume(gateway, "e2", props=[(SESSION_EXPIRY, 1)]) as other:
            if not present(one) and not present(other):
                break
            assert time.monotonic() < deadline
    assert time.monotonic() - began > 2
    with resume(gateway, "open", props=[(SESSION_EXPIRY, 1)]) as client:
        assert present(client)
    open_one.close()
    with Client(gateway.mqtt_port).connect("e4", clean=False) as client:
        client.send(packet(DISCONNECT, 0, b"\0" + properties([(SESSION_EXPIRY, 5)])))
        assert client.expect_end() == 0x82


def test_missed(gateway):
    """What was published while nobody was there comes in order, whatever the filter looks like."""
    filters = ["m/+/t", "m/1/t", "m/#", "#", "+/1/#", "m/1/+"]
    for i, topic_filter in enumerate(filters):
        with resume(gateway, "m%d" % i) as client:
            client.subscribe((topic_filter, 1))
    with Client(gateway.mqtt_port).connect("writer") as writer:
        for i in range(50):
            writer.publish("m/1/t", "m%d" % i, 1, packet_id=i + 1)
            writer.publish("other/2", "no", 1, packet_id=i + 100)
    for i, topic_filter in enumerate(filters):
        with resume(gateway, "m%d" % i) as client:
            assert present(client)
            got = [client.delivery() for _ in range(100 if topic_filter == "#" else 50)]
            assert [d.payload.decode() for d in got if d.topic == "m/1/t"] == names("m", 50), topic_filter
            assert not any(d.flags & 8 for d in got)
            client.expect_silence(0.1)


def test_missed_and_live(gateway):
    """Publishing goes on while the session comes back: no gap, nothing twice."""
    with resume(gateway, "both", props=KEEP + [(RECEIVE_MAXIMUM, 7)]) as client:
        client.subscribe(("both/#", 1))
    with Client(gateway.mqtt_port).connect("writer") as writer:
        for i in range(200):
            writer.publish("both/%d" % (i % 3), "m%d" % i, 1)
        with resume(gateway, "both", props=KEEP + [(RECEIVE_MAXIMUM, 7)]) as client:
            for i in range(200, 500):
                writer.send(publish(5, "both/%d" % (i % 3), b"m%d" % i, 1, i))
            got = [client.delivery() for _ in range(500)]
            client.expect_silence(0.1)
            for k in range(3):
                order = [int(d.payload[1:]) for d in got if d.topic == "both/%d" % k]
                assert order == list(range(k, 500, 3)), order
            for i in range(200, 500):
                assert writer.expect(PUBACK).id == i


def test_unacknowledged(gateway):
    with resume(gateway, "u") as client:
        client.subscribe(("u", 2))
    with Client(gateway.mqtt_port).connect("writer") as writer:
        for i in range(6):
            writer.publish("u", "m%d" % i, 1 + i % 2, packet_id=i + 1)
    with resume(gateway, "u") as client:
        first = [client.expect(PUBLISH) for _ in range(6)]
        assert [p.payload for p in first] == [b"m%d" % i for i in range(6)]
        client.ack(PUBACK, first[2].id)
        client.ack(PUBREC, first[1].id)
        assert client.expect(PUBREL).id == first[1].id
        client.ping()
    with resume(gateway, "u") as client:
        again = [client.receive() for _ in range(5)]
        # m2 is acknowledged, of m1 the client has the message.
        assert [p.id for p in again] == [p.id for i, p in enumerate(first) if i != 2], again
        for p in again:
            if p.type == PUBREL:
                assert p.id == first[1].id
                continue
            sent = next(f for f in first if f.id == p.id)
            assert p.flags & 8 and p.payload == sent.payload and p.qos == sent.qos
        client.ack(PUBCOMP, first[1].id)
        for p in again:
            if p.type == PUBLISH and p.qos == 1:
                client.ack(PUBACK, p.id)
            elif p.type == PUBLISH:
                client.ack(PUBREC, p.id)
                assert client.expect(PUBREL).id == p.id
                client.ack(PUBCOMP, p.id)
        client.ping()
    with resume(gateway, "u") as client:
        client.expect_silence(0.2)


def test_exactly_once_in(gateway):
    """A PUBLISH that is sent again after reconnect is not stored again; PUBREL of one that is over is answered."""
    with Client(gateway.mqtt_port).connect("reader") as reader:
        reader.subscribe(("once", 2))
        with resume(gateway, "w") as writer:
            writer.send(publish(5, "once", b"1", 2, 11))
            assert writer.expect(PUBREC).id == 11
        with resume(gateway, "w") as writer:
            writer.send(publish(5, "once", b"1", 2, 11, duplicate=True))
            assert writer.expect(PUBREC).id == 11
            writer.ack(PUBREL, 11)
            assert writer.expect(PUBCOMP).reason == 0
        with resume(gateway, "w") as writer:
            writer.ack(PUBREL, 11)
            assert writer.expect(PUBCOMP).reason == 0x92
            writer.publish("once", "2", 2, packet_id=11)
        assert drain(reader, 2) == ["1", "2"]
        reader.expect_silence(0.1)


def test_less_than_before(gateway):
    """A client that comes back and takes less: no more at a time than it says now, in order, under their identifiers;
    what is too large for it now counts as sent and holds nothing up."""
    large = (1, 4, 8, 12)
    with resume(gateway, "less") as client, Client(gateway.mqtt_port).connect("writer") as writer:
        client.subscribe(("l", 2))
        for i in range(12):
            writer.publish("l", str(i).ljust(2000 if i in large else 5), 1 + i % 2, packet_id=i + 1)
        first = {int(p.payload): p.id for p in (client.expect(PUBLISH) for _ in range(12))}
        client.ack(PUBREC, first[5])
        assert client.expect(PUBREL).id == first[5]
        client.ping()
    with Client(gateway.mqtt_port).connect("writer") as writer:
        for i in (12, 13):
            writer.publish("l", str(i).ljust(2000 if i in large else 5), 2, packet_id=i)
    with resume(gateway, "less", props=KEEP + [(RECEIVE_MAXIMUM, 2), (MAXIMUM_PACKET, 500)]) as client:
        assert present(client)
        seen, held, released = [], [], set()
        while seen[-1:] != [13] or held:
            client.socket.settimeout(0.05 if held else 10)
            try:
                found = client.receive()
            except TimeoutError:  # it waits for the oldest
                client.ack(PUBACK if held[0].qos == 1 else PUBREC, held[0].id)
                client.socket.settimeout(10)
                oldest = held.pop(0)
                if oldest.qos == 2:
                    assert client.expect(PUBREL).id == oldest.id
                    client.ack(PUBCOMP, oldest.id)
                continue
            if found.type == PUBREL:
                released.add(found.id)
                client.ack(PUBCOMP, found.id)
                continue
            number = int(found.payload)
            assert bool(found.flags & 8) == (number in first) and first.get(number, found.id) == found.id, found
            seen.append(number)
            held.append(found)
            assert len(held) <= 2, held
        assert seen == [i for i in range(14) if i not in large and i != 5], seen
        assert first[5] in released
        client.ping()
    with resume(gateway, "less") as client:
        client.expect_silence(0.2)


def test_too_large_holds_nothing_up(gateway):
    """What is larger than the client takes gives its room back: whatever waits for that goes on, of whichever kind."""
    narrow = KEEP + [(MAXIMUM_PACKET, 500), (RECEIVE_MAXIMUM, 1)]
    make(gateway, "q", None)

    def burst(writer, topic, count=10, **options):
        for i in range(count):
            payload = (b"%d" % i).ljust(1 if i % 2 else 2000)
            writer.send(publish(5, topic.replace("+", str(i)), payload, 2, i + 1, **options))
        taken = [writer.expect(PUBREC).id for _ in range(count)]
        for number in taken:
            writer.ack(PUBREL, number)
        for _ in taken:
            writer.expect(PUBCOMP)

    with Client(gateway.mqtt_port).connect("writer") as writer:
        with resume(gateway, "share", props=narrow) as client:
            assert client.subscribe(("$share/g/s", 2)) == [2]
            burst(writer, "s")
            assert drain(client, 5) == ["1", "3", "5", "7", "9"]
        burst(writer, "r/+", retain=True)
        with resume(gateway, "retained", props=narrow) as client:
            assert client.subscribe(("r/#", 2)) == [2]
            assert sorted(drain(client, 5)) == ["1", "3", "5", "7", "9"]
        for name, qos in (("$queue/q", 1), ("$queue/q", 0), ("$replay/earliest/w", 1), ("w", 1)):
            with resume(gateway, "both", props=narrow) as client, \
                    Client(gateway.mqtt_port).connect("large") as large:
                assert client.subscribe(("l", 2), (name, qos)) == [2, qos]
                small = name[name.rindex("/") + 1:] if "replay" in name else name
                for i in range(20):
                    large.send(publish(5, "l", bytes(2000), 2, i + 1))
                    writer.send(publish(5, small, bytes(2000) if i % 2 else b"%d" % i, 1, i + 1))
                assert drain(client, 10) == [str(i) for i in range(0, 20, 2)], (name, qos)
                for _ in range(20):
                    writer.expect(PUBACK)
                client.unsubscribe("l", name)
                leave(client)
    with resume(gateway, "many", props=narrow) as client, Client(gateway.mqtt_port).connect("writer") as writer:
        assert client.subscribe(("$queue/q", 0)) == [0]
        for i in range(150):  # more than a consumer of QoS 0 has room for
            writer.send(publish(5, "$queue/q", bytes(2000), 1, i + 1))
        writer.send(publish(5, "$queue/q", b"small", 1, 1000))
        assert drain(client, 1) == ["small"]


def test_expiry_over_restart(gateway):
    """The time that the gateway is away counts; a DISCONNECT may ask for more than CONNECT did."""
    for name, expiry in (("short", 1), ("long", 100)):
        with resume(gateway, name, props=[(SESSION_EXPIRY, expiry)]) as client:
            client.subscribe(("x", 1))
            leave(client)
    with resume(gateway, "longer", props=[(SESSION_EXPIRY, 1)]) as client:
        leave(client, [(SESSION_EXPIRY, 100)])
    gateway.kill9()
    time.sleep(1.2)
    gateway.start()
    for name, there in (("short", 0), ("long", 1), ("longer", 1)):
        with resume(gateway, name, props=[(SESSION_EXPIRY, 1)]) as client:
            assert present(client) == there, name


def test_takeover(gateway):
    """Again and again on whichever worker, with deliveries under way: nothing is lost, order is kept."""
    received = []
    with Client(gateway.mqtt_port).connect("writer") as writer:
        client = resume(gateway, "t", props=KEEP + [(RECEIVE_MAXIMUM, 5)])
        client.subscribe(("t", 1))
        for round in range(20):
            for i in range(10):
                writer.send(publish(5, "t", b"m%d" % (round * 10 + i), 1, i + 1))
            other = resume(gateway, "t", props=KEEP + [(RECEIVE_MAXIMUM, 5)])
            assert present(other)
            while True:
                found = client.receive()
                if found is None or found.type != PUBLISH:
                    assert found is None or found.reason == 0x8E, found
                    break
            client.close()
            client = other
            for _ in range(3):
                received.append(client.delivery())
            for i in range(10):
                writer.expect(PUBACK)
        while int(received[-1].payload[1:]) < 199:
            received.append(client.delivery())
        client.expect_silence(0.1)
        client.close()
    seen = [int(p.payload[1:]) for p in received]
    first = [n for i, n in enumerate(seen) if n not in seen[:i]]
    assert first == list(range(200)), first


def test_unsubscribe_and_rights(gateway):
    with resume(gateway, "un") as client:
        assert client.subscribe(("un/a", 1), ("un/b", 1)) == [1, 1]
        client.subscribe(("un/b", 1), packet_id=3)  # again: it holds as before
        assert client.unsubscribe("un/a") == [0]
    with Client(gateway.mqtt_port).connect("writer") as writer:
        writer.publish("un/a", "no", 1)
        writer.publish("un/b", "yes", 1)
    with resume(gateway, "un") as client:
        assert client.delivery().payload == b"yes"
        client.expect_silence(0.1)
        assert client.unsubscribe("un/a", "un/b") == [0x11, 0]
    with resume(gateway, "un") as client:
        assert present(client)
        client.expect_silence(0.1)


def test_restart(gateway):
    """Stop and kill -9: sessions, what they missed, and what was in flight are all there."""
    with resume(gateway, "r") as client:
        client.subscribe(("r/#", 2))
    with resume(gateway, "rw") as writer:
        writer.publish("r/1", "m0", 1)
        writer.publish("r/1", "m1", 2, packet_id=2)
        writer.send(publish(5, "r/1", b"m2", 2, 3))
        assert writer.expect(PUBREC).id == 3
        assert gateway.stop() == 0
    gateway.start()
    with resume(gateway, "rw") as writer:
        assert present(writer)
        writer.send(publish(5, "r/1", b"m2", 2, 3, duplicate=True))
        assert writer.expect(PUBREC).id == 3
        writer.ack(PUBREL, 3)
        assert writer.expect(PUBCOMP).reason == 0
        writer.publish("r/1", "m3", 1)
    with resume(gateway, "r") as client:
        assert present(client)
        got = [client.expect(PUBLISH) for _ in range(4)]
        assert [p.payload for p in got] == [b"m0", b"m1", b"m2", b"m3"]
        client.ack(PUBREC, got[1].id)  # m1 is the client's now
        assert client.expect(PUBREL).id == got[1].id
        client.ack(PUBCOMP, got[1].id)
        client.ping()
        gateway.kill9()
    gateway.start()
    with resume(gateway, "r") as client:
        assert present(client)
        left = {}
        while set(left) | {b"m1"} != {b"m0", b"m1", b"m2", b"m3"}:
            found = client.receive()
            if found.type == PUBREL:
                client.ack(PUBCOMP, found.id)
                continue
            assert found.payload != b"m1" and found.payload not in left, found
            left[found.payload] = found
        assert left[b"m2"].flags & 8 and left[b"m2"].id == got[2].id  # exactly once: it was noted before it went out
        for found in left.values():
            client.ack(PUBACK if found.qos == 1 else PUBREC, found.id)
        assert client.expect(PUBREL).id == got[2].id
        client.ack(PUBCOMP, got[2].id)
        client.ping()
        client.expect_silence(0.1)


def test_killed_between(gateway):
    """kill -9 right after the last PUBACK: every acknowledged message reaches the sessions, in order."""
    with resume(gateway, "k1", 4) as client:
        client.subscribe(("k/+", 1))
    with resume(gateway, "k2") as client:
        client.subscribe(("#", 1))
    writer = Client(gateway.mqtt_port, 4).connect("writer")
    for i in range(100):
        writer.send(publish(4, "k/%d" % (i % 4), b"m%d" % i, 1, i + 1))
    acknowledged = [writer.expect(PUBACK).id for _ in range(60)]
    gateway.kill9()
    gateway.start()
    for name in ("k1", "k2"):
        with resume(gateway, name, 4 if name == "k1" else 5) as client:
            assert present(client)
            numbers = []
            while not {i - 1 for i in acknowledged} <= set(numbers):
                numbers.append(int(client.delivery().payload[1:]))
            client.socket.settimeout(0.3)
            with contextlib.suppress(TimeoutError):  # and what was not acknowledged, or twice
                while True:
                    numbers.append(int(client.delivery().payload[1:]))
            assert len(set(numbers)) == len(numbers)
            for k in range(4):
                order = [n for n in numbers if n % 4 == k]
                assert order == sorted(order)


def test_overlapping_and_options(gateway):
    with resume(gateway, "o") as client:
        client.subscribe(("o/+", 1), props=[(SUBSCRIPTION_ID, 5)])
        client.subscribe(("o/#", 2), packet_id=2, props=[(SUBSCRIPTION_ID, 6)])
        client.subscribe(("mine", 1 | 4), packet_id=3)  # not what it publishes itself
        client.subscribe(("zero", 0), packet_id=4)
        client.publish("mine", "own", 1)
    with Client(gateway.mqtt_port).connect("writer") as writer:
        writer.publish("o/x", "1", 2)
        writer.publish("o/x/y", "2", 1)
        writer.publish("mine", "other", 1)
        writer.publish("zero", "not kept", 1)
    with resume(gateway, "o") as client:
        got = sorted((d.payload, d.qos, d.get(SUBSCRIPTION_ID)) for d in (client.delivery() for _ in range(4)))
        assert got == [(b"1", 1, 5), (b"1", 2, 6), (b"2", 1, 6), (b"other", 1, None)], got
        client.expect_silence(0.1)


def test_overlapping_without_room(gateway):
    """More copies of a message than the client takes at a time: it may go between them, and gets each once."""
    one = KEEP + [(RECEIVE_MAXIMUM, 1)]
    with resume(gateway, "few", props=one) as client:
        for number, filter in enumerate(("f/+", "f/#", "+/x"), 1):
            client.subscribe((filter, 2), packet_id=number, props=[(SUBSCRIPTION_ID, number)])
    with Client(gateway.mqtt_port).connect("writer") as writer:
        writer.publish("f/x", "1", 2)
        writer.publish("f/x", "2", 2)
    got = []
    for _ in range(6):
        with resume(gateway, "few", props=one) as client:
            delivery = client.delivery()
            got.append((delivery.payload, delivery.get(SUBSCRIPTION_ID)))
            client.disconnect()
            while client.receive() is not None:  # perhaps the next one, which it does not take
                pass
    assert sorted(got) == [(b"%d" % k, n) for k in (1, 2) for n in (1, 2, 3)], got
    with resume(gateway, "few", props=one) as client:
        client.expect_silence(0.1)


def test_queue_goes(gateway):
    """A session whose records are gone - their queue was deleted - goes on with what is left."""
    assert gateway.call("POST", "/v1/default/queues", {"name": "gone"})[0] in (200, 201)
    assert gateway.call("PUT", "/v1/default/routes/gone%2F%23", {"queue": "gone"})[0] == 200
    with resume(gateway, "q") as client:
        client.subscribe(("#", 1))
    with Client(gateway.mqtt_port).connect("writer") as writer:
        writer.publish("gone/1", "lost", 1)
        writer.publish("stays", "1", 1)
        assert gateway.call("DELETE", "/v1/default/routes/gone%2F%23")[0] in (200, 204)
        writer.publish("gone/1", "moved", 1)
        assert gateway.call("DELETE", "/v1/default/queues/gone")[0] in (200, 204)
    with resume(gateway, "q") as client:
        assert drain(client, 2) == ["1", "moved"]
        client.expect_silence(0.1)


def test_retention_is_faster(gateway):
    """What is gone when the session comes back is skipped and counted; the number of an exactly-once delivery that
    cannot be sent again is taken back from the client in order."""
    with resume(gateway, "late") as client:
        client.subscribe(("late", 2))
    with Client(gateway.mqtt_port).connect("writer") as writer:
        for i in range(2):
            writer.publish("late", "m%d" % i, 1 + i)
        with resume(gateway, "late") as client:
            under_way = [client.expect(PUBLISH) for _ in range(2)]
            assert [p.qos for p in under_way] == [1, 2]
        writer.publish("late", "m2", 1)
        assert gateway.call("POST", "/v1/default/queues/mqtt/purge")[0] == 200
        writer.publish("late", "m3", 1)
    with resume(gateway, "late") as client:
        found = client.receive()
        assert (found.type, found.id) == (PUBREL, under_way[1].id), found
        client.ack(PUBCOMP, found.id)
        assert drain(client, 1) == ["m3"]
        client.expect_silence(0.1)
        line = next(line for line in gateway.call("GET", "/metrics")[1].splitlines()
                    if line.startswith('polylog_dropped_total{reason="retention"}'))
        assert float(line.split()[1]) == 1, line
    with resume(gateway, "late") as client:
        client.expect_silence(0.1)


if __name__ == "__main__":
    run(test_session_present, test_expiry, test_missed, test_missed_and_live, test_unacknowledged, test_exactly_once_in,
        test_less_than_before, test_too_large_holds_nothing_up, test_expiry_over_restart, test_takeover, test_unsubscribe_and_rights, test_restart, test_killed_between, test_overlapping_and_options,
        test_overlapping_without_room, test_queue_goes, test_retention_is_faster, test_server_maximum,
        test_many_filters)
