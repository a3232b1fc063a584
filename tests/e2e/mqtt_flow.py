#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What MQTT promises between publisher and subscriber, packet by packet: QoS, properties, credit, sizes, time."""

import select
import threading
import time

import standstill
from gateway import Gateway, run, until
from standstill import needs_pace
from wire import *  # noqa: F403 - the names of the protocol

ALL = ((3, 3), (4, 4), (5, 5), (3, 5), (5, 3))


def test_qos_both_ways(gateway):
    """The lower of what was published and what was granted, in every pair of versions."""
    for publisher_version, version in ALL:
        for published in (0, 1, 2):
            for granted in (0, 1, 2):
                topic = "qos/%d/%d/%d/%d" % (publisher_version, version, published, granted)
                with Client(gateway.mqtt_port, version).connect("reader") as reader, \
                        Client(gateway.mqtt_port, publisher_version).connect("writer") as writer:
                    assert reader.subscribe((topic, granted)) == [granted]
                    for i in range(3):
                        assert writer.publish(topic, "m%d" % i, published, packet_id=i + 1) == 0
                    for i in range(3):
                        got = reader.delivery()
                        assert (got.topic, got.payload) == (topic, b"m%d" % i), got
                        assert got.qos == min(published, granted), got
                        assert got.flags & 9 == 0, got
                    reader.ping()


def test_exactly_once_survives_repetition(gateway):
    with Client(gateway.mqtt_port, 4).connect("reader") as reader, \
            Client(gateway.mqtt_port, 4).connect("writer") as writer:
        reader.subscribe(("once", 2))
        for duplicate in (False, True, True):
            writer.send(publish(4, "once", b"x", 2, 7, duplicate=duplicate))
            assert writer.expect(PUBREC).id == 7
        for _ in range(2):
            writer.ack(PUBREL, 7)
            assert writer.expect(PUBCOMP).id == 7
        writer.publish("once", "y", 2, packet_id=7)
        assert [reader.delivery().payload, reader.delivery().payload] == [b"x", b"y"]
        reader.expect_silence(0.2)


def test_wildcards(gateway):
    cases = (
        ("a/b", ["a/b"], ["a", "a/b/c", "A/b", "a/b/", "/a/b"]),
        ("a/+", ["a/b", "a/"], ["a", "a/b/c"]),
        ("+/b", ["a/b", "/b"], ["b", "a/b/c", "$SYS/b"]),
        ("a/#", ["a", "a/b", "a/b/c", "a/"], ["b", "ab"]),
        ("#", ["a", "/", "a/b/c"], ["$SYS/x"]),
        ("+/+/c", ["a/b/c", "//c"], ["a/b", "a/b/c/d"]),
        ("$own/#", ["$own/x", "$own"], ["a"]),
        ("ü/+", ["ü/ö"], ["u/o"]),
    )
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        for topic_filter, matching, others in cases:
            with Client(gateway.mqtt_port, 4).connect("reader") as reader:
                reader.subscribe((topic_filter, 1))
                for topic in others + matching:
                    writer.publish(topic, topic, 1)
                for topic in matching:
                    assert reader.delivery().topic == topic, (topic_filter, topic)
                reader.expect_silence(0.05)


def test_overlapping_and_replaced(gateway):
    with Client(gateway.mqtt_port, 5).connect("reader") as reader, \
            Client(gateway.mqtt_port, 5).connect("writer") as writer:
        reader.subscribe(("o/+", 0), props=[(SUBSCRIPTION_ID, 1)])
        reader.subscribe(("o/#", 1), packet_id=2, props=[(SUBSCRIPTION_ID, 268435455)])
        writer.publish("o/x", "1", 1)
        seen = sorted((d.get(SUBSCRIPTION_ID), d.qos) for d in (reader.delivery(), reader.delivery()))
        assert seen == [(1, 0), (268435455, 1)], seen
        reader.subscribe(("o/+", 1), props=[(SUBSCRIPTION_ID, 7)])  # replaces the first
        assert reader.unsubscribe("o/#", "never") == [0, 0x11]
        writer.publish("o/x", "2", 1)
        got = reader.delivery()
        assert (got.get(SUBSCRIPTION_ID), got.qos, got.payload) == (7, 1, b"2")
        reader.expect_silence(0.1)
        assert reader.unsubscribe("o/+") == [0]
        writer.publish("o/x", "3", 1)
        reader.expect_silence(0.1)


def test_properties_across(gateway):
    users = [("b", "1"), ("a", "2"), ("b", "1"), ("content-type", "mine"), ("topic", "t"), ("", "")]
    props = [(PAYLOAD_FORMAT, 1), (CONTENT_TYPE, b"text/plain"), (RESPONSE_TOPIC, b"answers/1"),
             (CORRELATION, bytes(range(256)))] + [(USER, user) for user in users]
    with Client(gateway.mqtt_port, 5).connect("reader") as reader, \
            Client(gateway.mqtt_port, 4).connect("old") as old, \
            Client(gateway.mqtt_port, 5).connect("writer") as writer:
        reader.subscribe(("p", 2))
        old.subscribe(("p", 2))
        for qos in (0, 1, 2):
            writer.publish("p", "ü", qos, props=props)
            got = reader.delivery()
            assert got.users() == users, got.users()
            for name, value in props[:4]:
                assert got.get(name) == value, (name, got.properties)
            assert got.get(MESSAGE_EXPIRY) is None
            assert old.delivery().payload == "ü".encode()
        # A user property with the name of a standard field is not that field.
        writer.publish("p", "x", 1, props=[(USER, ("content-type", "a")), (USER, ("expires-at", "1"))])
        got = reader.delivery()
        assert got.properties == [(USER, ("content-type", "a")), (USER, ("expires-at", "1"))], got.properties


def test_names_of_fields_elsewhere(gateway):
    """For other protocols, too, such a property is no field: REST shows its value alone."""
    users = [("content-type", "mine"), ("topic", "t"), ("labels", "x"), ("expires-at", "1"), ("expires-at", "2")]
    gateway.call("POST", "/v1/default/queues", {"name": "names"})
    gateway.call("POST", "/v1/default/queues/names/groups", {"groups": [{"name": "g"}]})
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        writer.publish("$queue/names", "x", 1, props=[(USER, user) for user in users])
    item, = gateway.call("GET", "/v1/default/queues/names/groups/g/messages?time_wait=1")[1]
    assert item["message"]["attributes"] == {"content-type": "mine", "topic": "t", "labels": "x", "expires-at": ["1", "2"]}, item
    assert "labels" not in item["message"], item


UNALTERED = [
    [("key", "k"), ("a", "1")], [("a", "1"), ("key", "k")], [("a", "1"), ("key", "k"), ("key", "l"), ("a", "2")], [("key", "")],
    [("labels", "x,y"), ("a", "1")], [("label", "l1"), ("labels", "m")], [("labels", "m"), ("label", "l1"), ("labels", "n")],
    [("label", "no label"), ("label", "a"), ("label", "a"), ("label", "b"), ("label", "c"), ("label", "d")],
    [("pl-x", "1"), ("a", "1"), ("pl-x", "1"), ("pl-", ""), ("pl-pl-x", "2"), ("pl-pl-", "3")],
    [(name, "x") for name in ("pl-types", "pl-body", "pl-amqp", "pl-annotations", "pl-text", "pl-key", "key", "a", "pl-key")],
    [(name, "1") for name in ("topic", "publisher", "correlation-id", "reply-to", "to", "user-id", "delay-ms", "priority", "receipt",
                              "message-id", "group-id", "group-sequence", "traceparent", "retain", "offset", "dedup")],
]


def test_properties_unaltered(gateway):
    """3.3.2-4, -15, -17, -18: whatever their names are, live, retained, as a will, and from a queue."""
    long_topic = "/".join("a" * 200).encode()
    users = [(pairs, [(USER, pair) for pair in pairs]) for pairs in UNALTERED]
    lists = [props for _, props in users] + [[], [(PAYLOAD_FORMAT, 0)], [(PAYLOAD_FORMAT, 1)], [(RESPONSE_TOPIC, long_topic)],
                                             [(PAYLOAD_FORMAT, 0), (RESPONSE_TOPIC, b"$a/ b"), (USER, ("pl-text", "1"))]]
    gateway.call("POST", "/v1/default/queues", {"name": "unaltered"})
    with Client(gateway.mqtt_port, 5).connect("reader") as reader, Client(gateway.mqtt_port, 5).connect("late") as late, \
            Client(gateway.mqtt_port, 5).connect("writer") as writer:
        reader.subscribe(("un/#", 1), ("$queue/unaltered", 1))
        for props in lists:
            writer.publish("un/altered", "x", 1, retain=True, props=props)
            assert reader.delivery().properties == props
            late.subscribe(("un/altered", 1))
            got = late.delivery().properties
            assert got == props, (got, props)
            late.unsubscribe("un/altered")
            writer.publish("$queue/unaltered", "x", 1, props=props)
            got = reader.delivery().properties
            assert got == props, (got, props)
        for pairs, props in users:
            will = ("un/will", "x", 1, False, props)
            Client(gateway.mqtt_port, 5).connect("dying", will=will).close()
            got = reader.delivery()
            assert got.users() == pairs, (got, pairs)
        writer.publish("un/altered", "", retain=True)
        assert reader.delivery().payload == b""
        for _, props in users:
            writer.publish("$delayed/1/un/altered", "x", 1, props=props)
        for pairs, _ in users:
            got = reader.delivery()
            assert got.users() == pairs, (got, pairs)


@needs_pace
def test_message_expiry(gateway):
    with Client(gateway.mqtt_port, 5).connect("reader", props=[(RECEIVE_MAXIMUM, 1)]) as reader, \
            Client(gateway.mqtt_port, 5).connect("writer") as writer:
        reader.subscribe(("e", 1))
        writer.publish("e", "first", 1, props=[(MESSAGE_EXPIRY, 100)])
        writer.publish("e", "short", 1, packet_id=2, props=[(MESSAGE_EXPIRY, 1)])
        writer.publish("e", "long", 1, packet_id=3, props=[(MESSAGE_EXPIRY, 60)])
        first = reader.expect(PUBLISH)
        assert first.payload == b"first" and first.get(MESSAGE_EXPIRY) in (99, 100)
        time.sleep(2.1)  # the credit is used up: the others wait
        reader.ack(PUBACK, first.id)
        second = reader.delivery()
        assert second.payload == b"long", second
        assert second.get(MESSAGE_EXPIRY) in (57, 58), second.properties


def test_no_local_and_retain_as_published(gateway):
    with Client(gateway.mqtt_port, 5).connect("one") as one, \
            Client(gateway.mqtt_port, 4).connect("two") as two:
        one.subscribe(("n", 1 | 4))
        one.subscribe(("k", 1 | 8), packet_id=2)
        one.publish("n", "own", 1)
        two.publish("n", "other", 1)
        assert one.delivery().payload == b"other"
        two.publish("k", "kept", 1, retain=True)
        got = one.delivery()
        assert got.payload == b"kept" and got.flags & 1, got
        two.subscribe(("k", 1))
        assert two.delivery().payload == b"kept"
        two.publish("k", "plain", 0, retain=True)
        assert two.delivery().flags & 1 == 0


def test_receive_maximum_of_the_client(gateway):
    with Client(gateway.mqtt_port, 5).connect("reader", props=[(RECEIVE_MAXIMUM, 3)]) as reader, \
            Client(gateway.mqtt_port, 5).connect("writer") as writer:
        reader.subscribe(("r", 2))
        for i in range(20):
            writer.publish("r", str(i), 1 + i % 2, packet_id=i + 1)
        held = [reader.expect(PUBLISH) for _ in range(3)]
        reader.expect_silence(0.2)
        expected = 0
        while held:
            first = held.pop(0)
            assert first.payload == str(expected).encode()
            expected += 1
            if first.qos == 2:
                reader.ack(PUBREC, first.id)
                reader.expect(PUBREL)
                reader.expect_silence(0.02)  # PUBREC alone gives no credit back
                reader.ack(PUBCOMP, first.id)
            else:
                reader.ack(PUBACK, first.id)
            if expected + len(held) < 20:
                held.append(reader.expect(PUBLISH))
        assert expected == 20


def test_overlapping_subscriptions_and_little_credit(gateway):
    """Two subscriptions match; the credit ends between them. Each gets each message once."""
    for credit in (1, 2, 3):
        with Client(gateway.mqtt_port, 5).connect("reader", props=[(RECEIVE_MAXIMUM, credit)]) as reader, \
                Client(gateway.mqtt_port, 5).connect("writer") as writer:
            reader.subscribe(("over/+", 1), props=[(SUBSCRIPTION_ID, 1)])
            reader.subscribe(("over/#", 2), packet_id=2, props=[(SUBSCRIPTION_ID, 2)])
            for i in range(10):
                writer.publish("over/%d" % (i % 3), str(i), 2)
            got = [reader.delivery() for _ in range(20)]
            for identifier, qos in ((1, 1), (2, 2)):
                mine = [d for d in got if d.get(SUBSCRIPTION_ID) == identifier]
                assert sorted(int(d.payload) for d in mine) == list(range(10)), [d.payload for d in mine]
                assert all(d.qos == qos for d in mine)
            reader.expect_silence(0.1)


def test_bytes_that_are_no_text(gateway):
    """Attributes of other protocols may be any bytes; a user property may not (1.5.4)."""
    with Client(gateway.mqtt_port, 5).connect("reader") as reader:
        reader.subscribe(("bytes", 1))
        message = {"body": "x", "attributes": {"raw": {"base64": "AP8="}, "text": "good"}}
        status, _ = gateway.call("POST", "/v1/default/publish", {"topic": "bytes", "messages": [message]})
        assert status == 201, status
        assert reader.delivery().users() == [("text", "good")]


def test_receive_maximum_of_the_server():
    gateway = Gateway()
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        # Absence means 65535; Paho for Java reads that number as -1 and publishes nothing.
        assert writer.connack.get(RECEIVE_MAXIMUM) is None
    gateway.stop()
    gateway = Gateway(None, "mqtt.receive_max=5")
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        assert writer.connack.get(RECEIVE_MAXIMUM) == 5
        for i in range(5):
            writer.send(publish(5, "q", b"x", 2, i + 1))
        for i in range(5):
            assert writer.expect(PUBREC).id == i + 1
        writer.send(publish(5, "q", b"x", 1, 6))
        assert writer.expect_end() == 0x93
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        for i in range(5):
            writer.send(publish(5, "q", b"x", 2, i + 1))
            assert writer.expect(PUBREC).id == i + 1
            writer.ack(PUBREL, i + 1)
            assert writer.expect(PUBCOMP).id == i + 1
        for i in range(500):
            assert writer.publish("q", "x", 1, packet_id=i + 1) == 0
    # It counts from the connection on: PUBREL of an earlier one takes nothing, PUBCOMP gives no more than there was (4.9).
    for _ in range(2):
        with Client(gateway.mqtt_port, 5).connect("kept", clean=False, props=[(SESSION_EXPIRY, 100)]) as writer:
            for i in range(5):
                writer.send(publish(5, "q", b"x", 2, i + 1))
            for i in range(5):
                assert writer.expect(PUBREC).id == i + 1
        with Client(gateway.mqtt_port, 5).connect("kept", clean=False, props=[(SESSION_EXPIRY, 100)]) as writer:
            for i in range(5):
                writer.send(publish(5, "q", b"x", 2, i + 11))
            for i in range(5):
                writer.ack(PUBREL, i + 1)
            found = [(packet.type, packet.id) for packet in (writer.receive() for _ in range(10))]
            assert sorted(found) == [(PUBREC, i + 11) for i in range(5)] + [(PUBCOMP, i + 1) for i in range(5)], found
            for i in range(5):
                writer.send(publish(5, "q", b"x", 1, i + 21))
            for i in range(5):
                assert writer.expect(PUBACK).id == i + 21
            for i in range(5):
                writer.ack(PUBREL, i + 11)
                assert writer.expect(PUBCOMP).id == i + 11
            for i in range(5):
                writer.send(publish(5, "q", b"x", 2, i + 1))
            for i in range(5):
                assert writer.expect(PUBREC).id == i + 1
            writer.send(publish(5, "q", b"x", 1, 6))
            assert writer.expect_end() == 0x93
        with Client(gateway.mqtt_port, 5).connect("kept") as writer:
            writer.ping()
    assert gateway.stop() == 0


def test_maximum_packet(gateway):
    with Client(gateway.mqtt_port, 5, timeout=30).connect("reader") as reader, \
            Client(gateway.mqtt_port, 5).connect("small", props=[(MAXIMUM_PACKET, 1000)]) as small, \
            Client(gateway.mqtt_port, 5, timeout=30).connect("writer") as writer:
        allowed = writer.connack.get(MAXIMUM_PACKET)
        assert allowed >= 10 * 1024 * 1024, allowed
        reader.subscribe(("big", 1))
        small.subscribe(("big", 2))
        largest = bytes(range(256)) * (10 * 1024 * 4 - 4)  # 10 MiB less 1 KiB for the rest of the record
        for payload in (b"a" * 900, b"b" * 1000, largest, b"c"):
            assert writer.publish("big", payload, 1) == 0
            assert reader.delivery().payload == payload
        assert small.delivery().payload == b"a" * 900
        assert small.delivery().payload == b"c"  # what it does not take is left out
        # A record above the limit is refused in its PUBACK, a packet above it ends the connection.
        assert writer.publish("big", bytes(10 * 1024 * 1024 + 1), 1) == 0x97
        writer.send(b"\x32" + varint(allowed) + b"\0\3big\0\1\0")
        assert writer.expect_end() == 0x95
    # A CONNACK leaves out what a client can do without; what it must be told is there, or there is none.
    with Client(gateway.mqtt_port, 5).connect("") as client:
        assigned = client.connack.get(ASSIGNED_ID)
    for size in range(20, 70):
        with Client(gateway.mqtt_port, 5) as client:
            client.connect("", props=[(MAXIMUM_PACKET, size), (REQUEST_RESPONSE, 1)], accept=False)
            found = client.expect(CONNACK)
            assert found.reason == (0 if found.get(ASSIGNED_ID) else 0x95), (size, found)
            assert found.reason == 0 or size < 8 + len(assigned), (size, found)
    with Client(gateway.mqtt_port, 4).connect("old") as old:
        old.send(b"\x32\xff\xff\xff\x7f")
        assert old.expect_end() is None


@needs_pace
def test_keep_alive(gateway):
    began = time.monotonic()
    with Client(gateway.mqtt_port, 5).connect("silent", keep_alive=1, will=("w", "gone", 1, False)) as silent, \
            Client(gateway.mqtt_port, 4).connect("pinging", keep_alive=2) as pinging, \
            Client(gateway.mqtt_port, 4).connect("never", keep_alive=0) as never:
        never.subscribe(("w", 1))
        pings = threading.Thread(target=lambda: [(pinging.ping(), time.sleep(0.7)) for _ in range(5)])
        pings.start()
        assert silent.expect_end() == 0x8D
        assert 1.4 < time.monotonic() - began and standstill.spent(began) < 10
        assert never.delivery().payload == b"gone"
        pings.join()
        pinging.ping()
        never.ping()


def test_keep_alive_of_the_server():
    gateway = Gateway(None, "mqtt.keep_alive_max=1")
    for asked in (0, 2, 65535):
        with Client(gateway.mqtt_port, 5).connect("a", keep_alive=asked) as client:
            assert client.connack.get(SERVER_KEEP_ALIVE) == 1
    with Client(gateway.mqtt_port, 5).connect("b", keep_alive=1) as client:
        assert client.connack.get(SERVER_KEEP_ALIVE) is None
        assert client.expect_end() == 0x8D
    assert gateway.stop() == 0


def test_topic_aliases():
    gateway = Gateway(None, "mqtt.topic_alias_max=2")
    with Client(gateway.mqtt_port, 5).connect("reader") as reader, \
            Client(gateway.mqtt_port, 5).connect("writer") as writer:
        assert writer.connack.get(ALIAS_MAXIMUM) == 2
        reader.subscribe(("t/#", 1))
        for topic, alias in (("t/1", 1), ("t/2", 2), ("", 1), ("", 2), ("t/3", 1), ("", 1)):
            writer.publish(topic, "x", 1, props=[(ALIAS, alias)])
        assert [reader.delivery().topic for _ in range(6)] == ["t/1", "t/2", "t/1", "t/2", "t/3", "t/3"]
        writer.send(publish(5, "t", b"", props=[(ALIAS, 3)]))
        assert writer.expect_end() == 0x94
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        writer.send(publish(5, "", b"", props=[(ALIAS, 1)]))  # aliases end with the connection
        assert writer.expect_end() == 0x82
    assert gateway.stop() == 0


def test_topic_aliases_to_the_client(gateway):
    """A topic that comes again goes out once with its alias, then as its alias alone; never above the maximum."""
    with Client(gateway.mqtt_port, 5).connect("reader", props=[(ALIAS_MAXIMUM, 2)]) as reader, \
            Client(gateway.mqtt_port, 5).connect("one", props=[(ALIAS_MAXIMUM, 1)]) as one, \
            Client(gateway.mqtt_port, 5).connect("none") as none, \
            Client(gateway.mqtt_port, 5).connect("writer") as writer:
        for client in (reader, one, none):
            client.subscribe(("t/#", 2))
        topics = ["t/a", "t/b", "t/a", "t/b", "t/a", "t/a", "t/b", "t/b", "t/c", "t/c", "t/c", "t/c", "t/a"] * 3
        for number, topic in enumerate(topics):
            size = 10000 if number % 5 == 0 else 5
            writer.publish(topic, topic.ljust(size, "."), number % 3, props=[(USER, ("n", str(number)))])
        for client, limit in ((reader, 2), (one, 1), (none, 0)):
            known, short, longest = {}, 0, 0
            for number, topic in enumerate(topics):
                got = client.delivery()
                alias = got.get(ALIAS)
                assert alias is None or 1 <= alias <= limit, got
                if got.topic:
                    assert got.topic == topic
                    known[alias] = topic
                else:
                    assert known[alias] == topic, (alias, known)
                    short += 1
                assert got.payload.rstrip(b".") == topic.encode() and got.users() == [("n", str(number))], got
                assert got.qos == number % 3
                longest = max(longest, len(got.payload))
            assert (short > 0) == (limit > 0) and longest == 10000
            client.ping()
        for _ in range(3):  # neither properties nor a payload: nothing is behind the alias
            writer.publish("t/e", b"")
        for client in (reader, one, none):
            assert [client.delivery().payload for _ in range(3)] == [b""] * 3
            client.ping()
    with Client(gateway.mqtt_port, 5).connect("small", props=[(ALIAS_MAXIMUM, 10), (MAXIMUM_PACKET, 200)]) as small, \
            Client(gateway.mqtt_port, 5).connect("writer") as writer:
        small.subscribe(("+", 1))
        fit = []
        for topic, qos in (("s", 0), ("s", 1), ("longer", 0), ("longer", 1)):  # an alias makes a short topic longer
            for size in [5, *range(180, 200)]:
                whole = len(publish(5, topic, bytes(size), qos))
                fit += [(topic, size)] if whole <= 200 else []
                writer.publish(topic, bytes(size), qos)
        known = {}
        for topic, size in fit:
            got = small.delivery()
            known[got.get(ALIAS)] = got.topic = got.topic or known[got.get(ALIAS)]
            assert (got.topic, len(got.payload)) == (topic, size), got
        small.ping()


def test_reasons_in_words(gateway):
    """Refusals carry a reason string, unless the client wants none or takes no packet of that size."""
    for props, words in (((), True), ([(REQUEST_PROBLEM, 0)], False), ([(MAXIMUM_PACKET, 22)], False)):
        with Client(gateway.mqtt_port, 5).connect("c", props=props) as client:
            client.send(publish(5, "$queue/none", b"x", 1, 3))
            got = client.expect(PUBACK)
            assert got.id == 3 and got.reason == 0x90 and (got.get(REASON_STRING) is not None) == words, got
            assert client.publish("t", "x", 1, packet_id=4) == 0
            client.send(packet(SUBSCRIBE, 2, b"\0\1\0" + text("$delayed/1/x") + b"\0"))
            got = client.expect(SUBACK)
            assert got.reasons == [0x8F] and (got.get(REASON_STRING) is not None) == words, got
            client.send(publish(5, "$queue/none", b"x", 2, 8))
            got = client.expect(PUBREC)
            assert got.id == 8 and got.reason == 0x90 and (got.get(REASON_STRING) is not None) == words, got
            client.send(packet(PUBREC, 0, b"\0\x09"))
            got = client.expect(PUBREL)
            assert got.id == 9 and got.reason == 0x92 and (got.get(REASON_STRING) is not None) == words, got
            client.send(packet(PUBREL, 2, b"\0\7"))
            got = client.expect(PUBCOMP)
            assert got.reason == 0x92 and (got.get(REASON_STRING) is not None) == words, got
            client.send(packet(SUBSCRIBE, 2, b"\0\1\0"))  # no filter: DISCONNECT may always say why
            got = client.receive()
            assert got.type == DISCONNECT and got.reason == 0x81, got
            assert (got.get(REASON_STRING) is not None) == (props != [(MAXIMUM_PACKET, 22)]), got
    with Client(gateway.mqtt_port, 5) as client:
        client.connect("c", props=[(AUTH_METHOD, b"none"), (REQUEST_PROBLEM, 0)], accept=False)
        got = client.expect(CONNACK)
        assert got.reason == 0x8C and got.get(REASON_STRING), got
    with Client(gateway.mqtt_port, 5) as client:
        client.connect("c", props=[(AUTH_METHOD, b"none"), (MAXIMUM_PACKET, 20)], accept=False)
        got = client.expect(CONNACK)
        assert got.reason == 0x8C and got.properties == [], got


def test_response_information(gateway):
    with Client(gateway.mqtt_port, 5).connect("asks", props=[(REQUEST_RESPONSE, 1)]) as asks, \
            Client(gateway.mqtt_port, 5).connect("answers") as answers:
        base = asks.connack.get(RESPONSE_INFO)
        assert base == b"$reply/asks" and answers.connack.get(RESPONSE_INFO) is None
        asks.subscribe((base.decode() + "/#", 1))
        answers.subscribe(("question", 1))
        asks.publish("question", "?", 1, props=[(RESPONSE_TOPIC, base + b"/1"), (CORRELATION, b"\0\1")])
        question = answers.delivery()
        assert question.get(RESPONSE_TOPIC) == base + b"/1"
        answers.publish(question.get(RESPONSE_TOPIC).decode(), "!", 1, props=[(CORRELATION, question.get(CORRELATION))])
        answer = asks.delivery()
        assert answer.payload == b"!" and answer.get(CORRELATION) == b"\0\1"
    with Client(gateway.mqtt_port, 5).connect("a/+", props=[(REQUEST_RESPONSE, 1)]) as client:
        assert client.connack.get(RESPONSE_INFO) is None  # it would be no topic


def test_wills(gateway):
    with Client(gateway.mqtt_port, 5).connect("watcher") as watcher:
        watcher.subscribe(("will/#", 2))
        for version in (3, 4, 5):
            for qos in (0, 1, 2):
                client = Client(gateway.mqtt_port, version)
                users = [(USER, pair) for pair in (("k", "v"), ("a", "1"), ("k", "u"), ("a", "1"))]
                props = [(CONTENT_TYPE, b"x/y")] + users if version == 5 else []
                client.connect("dies", will=("will/%d" % qos, "bye", qos, False, props))
                client.close()
                got = watcher.delivery()
                assert (got.topic, got.payload, got.qos) == ("will/%d" % qos, b"bye", qos)
                assert got.properties == props
        with Client(gateway.mqtt_port, 5).connect("later") as later:  # none of them is retained
            later.subscribe(("will/#", 2))
            later.expect_silence(0.1)
        with Client(gateway.mqtt_port, 5).connect("leaves", will=("will/x", "1", 1, False)) as client:
            client.disconnect()
            assert client.receive() is None
        for reason in (0x04, 0x80, 0x81, 0x82, 0x93, 0x98):  # only 0x00 takes the will back (3.1.2-8)
            with Client(gateway.mqtt_port, 5).connect("asks", will=("will/x", "2", 1, False)) as client:
                client.disconnect(reason)
                assert client.receive() is None
                assert watcher.delivery().payload == b"2", reason
        with Client(gateway.mqtt_port, 5).connect("errs", will=("will/x", "3", 1, False)) as client:
            client.send(b"\xf0\0")
            client.expect_end()
        assert watcher.delivery().payload == b"3"
        watcher.expect_silence(0.1)


def test_the_newest_connection_has_the_name(gateway):
    for version in (3, 4, 5):
        with Client(gateway.mqtt_port, 5).connect("watcher") as watcher:
            watcher.subscribe(("will/#", 1))
            older = Client(gateway.mqtt_port, version).connect("same", will=("will/same", "taken over", 1, False))
            older.subscribe(("t", 0))
            for _ in range(20):
                newer = Client(gateway.mqtt_port, version).connect("same", will=("will/same", "taken over", 1, False))
                assert older.expect_end() == (0x8E if version == 5 else None)
                older.close()
                assert watcher.delivery().payload == b"taken over"
                older = newer
            older.ping()
            older.disconnect()
            assert older.receive() is None
            watcher.expect_silence(0.05)
    # Whatever comes at once, one is left.
    crowd = [Client(gateway.mqtt_port, 5).connect("crowd", accept=False) for _ in range(100)]
    reasons = [client.expect(CONNACK).reason for client in crowd]
    # Who had to wait for the name while a newer one came has not had it at all.
    assert set(reasons) <= {0, 0x89}, reasons
    left = [client for client, reason in zip(crowd, reasons) if reason == 0]

    def one_is_left():
        for client in select.select([client.socket for client in left], [], [], 0)[0]:
            taken_over = next(one for one in left if one.socket is client)
            assert taken_over.expect_end() == 0x8E
            left.remove(taken_over)
        return len(left) == 1
    assert until(one_is_left), len(left)
    left[0].ping()


def test_no_delay_for_others_when_one_is_slow(gateway):
    """Acknowledgements of one connection come in its order, and nobody waits for somebody else's socket."""
    with Client(gateway.mqtt_port, 5).connect("writer") as writer, \
            Client(gateway.mqtt_port, 5).connect("reader") as reader:
        reader.subscribe(("s/#", 1))
        packets = b"".join(publish(5, "s/%d" % (i % 50), b"%d" % i, 1, i + 1) for i in range(900))
        writer.send(packets)
        assert [writer.expect(PUBACK).id for _ in range(900)] == list(range(1, 901))
        got = [reader.delivery() for _ in range(900)]
        for k in range(50):
            mine = [int(d.payload) for d in got if d.topic == "s/%d" % k]
            assert mine == sorted(mine)
        assert sorted(int(d.payload) for d in got) == list(range(900))


def test_shutdown_says_goodbye(gateway):
    new, old = Client(gateway.mqtt_port, 5).connect("new"), Client(gateway.mqtt_port, 4).connect("old")
    assert gateway.stop() == 0
    assert new.expect_end() == 0x8B
    assert old.expect_end() is None


def test_shutdown_names_another_server(gateway):
    gateway.stop()
    gateway.sets.append("mqtt.server_reference=other.example:1883")
    gateway.start()
    new, old = Client(gateway.mqtt_port, 5).connect("new"), Client(gateway.mqtt_port, 4).connect("old")
    assert gateway.stop() == 0
    found = new.receive()
    assert (found.type, found.reason) == (DISCONNECT, 0x9C), found
    assert found.get(SERVER_REFERENCE) == b"other.example:1883" and new.receive() is None
    assert old.expect_end() is None


run(*(value for name, value in list(globals().items()) if name.startswith("test_")))
