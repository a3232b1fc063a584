#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Retained messages: what a new subscription gets, in which words, and what is left after a kill."""

import time

from gateway import run
from standstill import needs_pace
from wire import *  # noqa: F403 - the names of the protocol


def retained_of(client, count):
    """The next deliveries by topic; each must be marked as retained."""
    found = {}
    for _ in range(count):
        got = client.delivery()
        assert got.flags & 1 and got.topic not in found, got
        found[got.topic] = got
    return found


def test_last_value(gateway):
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        assert writer.connack.get(RETAIN_AVAILABLE) in (None, 1)
        for qos in (0, 1, 2):
            writer.publish("r/%d" % qos, "old", qos, retain=True)
            writer.publish("r/%d" % qos, "new", qos, packet_id=2, retain=True)
        writer.publish("r/deleted", "x", 1, retain=True)
        writer.publish("r/deleted", "", 1, retain=True)
        writer.publish("r/plain", "x", 1)
        with Client(gateway.mqtt_port, 5).connect("watch") as watch:
            watch.subscribe(("r/0", 0x20))
            for payload in ("not retained", ""):  # leave what is retained
                writer.publish("r/1", payload, 1)
                writer.publish("r/0", payload, 0)
                assert watch.delivery().payload == payload.encode()  # QoS 0 has no answer to wait for
        for version in (3, 4, 5):
            for granted in (0, 1, 2):
                with Client(gateway.mqtt_port, version).connect("reader") as reader:
                    assert reader.subscribe(("r/#", granted)) == [granted]
                    found = retained_of(reader, 3)
                    for qos in (0, 1, 2):
                        got = found["r/%d" % qos]
                        assert (got.payload, got.qos) == (b"new", min(qos, granted)), got
                    reader.ping()
                    reader.expect_silence(0.02)
                    # One that was subscribed before gets it without the flag (3.3.1-9).
                    writer.publish("r/live", "now", 1, retain=True)
                    got = reader.delivery()
                    assert (got.topic, got.flags & 1) == ("r/live", 0), got
                    writer.publish("r/live", "", 1, retain=True)
                    assert reader.delivery().payload == b""


def test_options(gateway):
    with Client(gateway.mqtt_port, 5).connect("writer") as writer, \
            Client(gateway.mqtt_port, 5).connect("reader") as reader:
        writer.publish("o", "kept", 1, retain=True)
        always, when_new, never, as_published = 0, 0x10, 0x20, 0x08
        for option, expected in ((never, 0), (when_new, 0), (always, 1), (when_new, 0), (always, 1)):
            reader.subscribe(("o", 1 | option))
            retained_of(reader, expected)
            reader.ping()
            reader.expect_silence(0.05)
        reader.unsubscribe("o")
        reader.subscribe(("o", 1 | when_new), props=[(SUBSCRIPTION_ID, 9)])
        assert retained_of(reader, 1)["o"].get(SUBSCRIPTION_ID) == 9
        # Retain as published is about what comes later.
        for option in (0, as_published):
            reader.unsubscribe("o")
            reader.subscribe(("o", 1 | never | option))
            writer.publish("o", "again", 1, retain=True)
            assert reader.delivery().flags & 1 == (1 if option else 0)


@needs_pace
def test_properties_and_expiry(gateway):
    users = [("a", "1"), ("a", "2")]
    props = [(CONTENT_TYPE, b"text/plain"), (RESPONSE_TOPIC, b"answers")]
    props += [(USER, user) for user in users]
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        writer.publish("p/long", "x", 1, retain=True, props=props + [(MESSAGE_EXPIRY, 100)])
        writer.publish("p/short", "x", 1, retain=True, props=[(MESSAGE_EXPIRY, 1)])
        with Client(gateway.mqtt_port, 5).connect("reader") as reader:
            reader.subscribe(("p/+", 1))
            got = retained_of(reader, 2)["p/long"]
            assert got.users() == users and got.get(CONTENT_TYPE) == b"text/plain"
            assert got.get(RESPONSE_TOPIC) == b"answers" and 98 <= got.get(MESSAGE_EXPIRY) <= 100
        time.sleep(1.1)
        with Client(gateway.mqtt_port, 4).connect("reader") as reader:
            reader.subscribe(("p/+", 1))
            assert list(retained_of(reader, 1)) == ["p/long"]
            reader.expect_silence(0.05)
        with Client(gateway.mqtt_port, 5).connect("reader") as reader:
            reader.subscribe(("p/+", 1))
            assert retained_of(reader, 1)["p/long"].get(MESSAGE_EXPIRY) in (97, 98, 99)  # what is left


def test_filters(gateway):
    topics = ["a", "a/b", "a/c", "a/b/c", "b", "/", "a/", "$own/x", "d/b/c"]
    cases = {
        "#": ["a", "a/b", "a/c", "a/b/c", "b", "/", "a/", "d/b/c"],
        "+": ["a", "b"],
        "a/#": ["a", "a/b", "a/c", "a/b/c", "a/"],
        "a/+": ["a/b", "a/c", "a/"],
        "+/b/#": ["a/b", "a/b/c", "d/b/c"],
        "+/+/c": ["a/b/c", "d/b/c"],
        "$own/#": ["$own/x"],
        "a/b": ["a/b"],
        "x/#": [],
    }
    with Client(gateway.mqtt_port, 4).connect("writer") as writer:
        for topic in topics:
            writer.publish(topic, topic, 1, retain=True)
    for topic_filter, expected in cases.items():
        with Client(gateway.mqtt_port, 4).connect("reader") as reader:
            reader.subscribe((topic_filter, 1))
            found = retained_of(reader, len(expected))
            assert sorted(found) == sorted(expected), (topic_filter, found)
            reader.ping()
            reader.expect_silence(0.02)


def test_kill(gateway):
    with Client(gateway.mqtt_port, 4).connect("writer") as writer:
        writer.publish("k/1", "one", 1, retain=True)
        writer.publish("k/2", "two", 1, retain=True)
        writer.publish("k/2", "", 1, retain=True)
    gateway.kill9()
    gateway.start()
    with Client(gateway.mqtt_port, 4).connect("reader") as reader:
        reader.subscribe(("k/#", 1))
        assert retained_of(reader, 1)["k/1"].payload == b"one"
        reader.expect_silence(0.05)


def fill(port, count):
    """Topics m/<i % 10>/<i>, all acknowledged."""
    with Client(port, 4).connect("filler") as writer:
        for start in range(0, count, 1000):
            block = range(start, min(start + 1000, count))
            writer.send(b"".join(publish(4, "m/%d/%d" % (i % 10, i), b"%d" % i, 1, i % 1000 + 1, retain=True)
                                 for i in block))
            for _ in block:
                writer.expect(PUBACK)


def test_many(gateway):
    """A slow reader of everything pauses the walk and disturbs nobody; whatever it had not seen it gets later."""
    count = 3000
    fill(gateway.mqtt_port, count)
    slow = Client(gateway.mqtt_port, 5).connect("slow", props=[(RECEIVE_MAXIMUM, 2)])
    slow.subscribe(("#", 1))
    first = slow.expect(PUBLISH)
    with Client(gateway.mqtt_port, 4).connect("fast") as fast, \
            Client(gateway.mqtt_port, 4).connect("zero") as zero, \
            Client(gateway.mqtt_port, 4).connect("part") as part:
        fast.subscribe(("m/#", 1))
        zero.subscribe(("#", 0))
        part.subscribe(("m/3/+", 2))
        for reader, expected in ((fast, count), (zero, count), (part, count // 10)):
            found = retained_of(reader, expected)
            assert all(got.payload == topic.rpartition("/")[2].encode() for topic, got in found.items())
            reader.ping()
            reader.expect_silence(0.02)
    slow.ack(PUBACK, first.id)
    found = retained_of(slow, count - 1)
    assert first.topic not in found
    slow.close()


def test_delayed(gateway):
    """A delayed message is retained when its time comes."""
    with Client(gateway.mqtt_port, 5).connect("both") as both:
        both.publish("$delayed/1/later", "x", 1, retain=True)
        both.subscribe(("later", 1))
        assert both.delivery().flags & 1 == 0
        both.unsubscribe("later")
        both.subscribe(("later", 1))
        assert retained_of(both, 1)["later"].payload == b"x"


def test_will(gateway):
    for version in (4, 5):
        lost = Client(gateway.mqtt_port, version)
        lost.connect("lost", will=("will/%d" % version, "gone", 1, True))
        lost.close()
        with Client(gateway.mqtt_port, 4).connect("reader") as reader:
            reader.subscribe(("will/#", 1))
            assert reader.delivery().payload == b"gone"
        with Client(gateway.mqtt_port, 4).connect("writer") as writer:
            writer.publish("will/%d" % version, "", 1, retain=True)


def test_kept_session(gateway):
    """A subscription that outlives its client gets what is retained when it is made, and not when it is resumed."""
    count, keep = 50, [(SESSION_EXPIRY, 100), (RECEIVE_MAXIMUM, 5)]
    with Client(gateway.mqtt_port, 4).connect("writer") as writer:
        for i in range(count):
            writer.publish("s/%d" % i, "%d" % i, 1, retain=True)
        with Client(gateway.mqtt_port, 5).connect("kept", clean=False, props=keep) as reader:
            reader.subscribe(("s/#", 1))
            assert len(retained_of(reader, count)) == count
            writer.publish("s/1", "live", 1, retain=True)
            assert reader.delivery().flags & 1 == 0
            reader.subscribe(("s/#", 1 | 0x10))  # not new
            reader.ping()
            reader.expect_silence(0.05)
        with Client(gateway.mqtt_port, 5).connect("kept", clean=False, props=keep) as reader:
            assert reader.connack.body[0] & 1
            reader.subscribe(("s/2", 1))
            assert retained_of(reader, 1)["s/2"].payload == b"2"
            reader.expect_silence(0.05)


def test_routed(gateway):
    """The home of a topic may move; what is retained does not."""
    project = "/v1/default/"
    with Client(gateway.mqtt_port, 4).connect("writer") as writer:
        writer.publish("q/1", "old", 1, retain=True)
        writer.publish("q/2", "old", 1, retain=True)
        status, queue = gateway.call("POST", "/v1.0/default/queues", {"name": "home"})
        assert status in (200, 201), queue
        status, body = gateway.call("PUT", project + "routes/q%2F%23", {"queue": "home"})
        assert status in (200, 201, 204), (status, body)
        writer.publish("q/1", "new", 1, retain=True)
        with Client(gateway.mqtt_port, 4).connect("reader") as reader:
            reader.subscribe(("q/#", 1))
            found = retained_of(reader, 2)
            assert (found["q/1"].payload, found["q/2"].payload) == (b"new", b"old")
            reader.expect_silence(0.05)


KEEP = [(SESSION_EXPIRY, 3600)]


def resume(gateway, name, maximum=5, clean=False):
    return Client(gateway.mqtt_port, 5).connect(name, clean=clean, props=KEEP + [(RECEIVE_MAXIMUM, maximum)])


def interrupted(gateway, name, between):
    """A session that is interrupted in the middle of what was retained goes on where it was: what was under way comes
    again under the same identifiers (4.4.0-1), the rest follows, each once. Returns the topics and payloads."""
    with resume(gateway, name) as client:
        client.subscribe(("s/#", 2))
        first = [client.expect(PUBLISH) for _ in range(5)]
        client.expect_silence(0.05)
        answered, taken, left = first[0], first[1], first[2:]
        for found in (answered, taken):
            client.ack(PUBACK if found.qos == 1 else PUBREC, found.id)
            if found.qos == 2:
                assert client.expect(PUBREL).id == found.id
        if answered.qos == 2:
            client.ack(PUBCOMP, answered.id)
        client.ping()
        between(client)
    with resume(gateway, name) as client:
        assert client.connack.body[0] & 1
        got = {found.topic: found.payload for found in (answered, taken)}
        again, taken = set(), {taken.id} if taken.qos == 2 else set()
        while len(got) < 40 or taken:
            found = client.receive()
            if found.type == PUBREL:
                taken.remove(found.id)
                client.ack(PUBCOMP, found.id)
                continue
            assert found.flags & 1 and found.topic not in got, (found, got)
            if found.flags & 8:
                again.add((found.topic, found.id))
            got[found.topic] = found.payload
            client.ack(PUBACK if found.qos == 1 else PUBREC, found.id)
            if found.qos == 2:
                taken.add(found.id)
        assert again >= {(found.topic, found.id) for found in left}, (again, left)
        client.ping()
        client.expect_silence(0.1)
    with resume(gateway, name) as client:
        client.expect_silence(0.1)
    return got


@needs_pace
def test_interrupted(gateway):
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        for i in range(40):
            writer.publish("s/%d" % i, "%d" % i, 1 + i % 2, retain=True)
        expected = {"s/%d" % i: b"%d" % i for i in range(40)}
        assert interrupted(gateway, "away", lambda client: client.close()) == expected

        # Retention is faster than the session: the retained records are there nevertheless.
        def purge(client):
            client.close()
            status, _ = gateway.call("POST", "/v1/default/queues/mqtt/purge")
            assert status == 200, status
        assert interrupted(gateway, "purged", purge) == expected

    def killed(_):
        time.sleep(1.2)  # what a crash may take back is noted every second
        gateway.kill9()
        gateway.start()
    assert interrupted(gateway, "killed", killed) == expected
    with resume(gateway, "over", clean=True) as client:  # a clean start begins without all that
        client.subscribe(("s/#", 1))
        client.expect(PUBLISH)
    with resume(gateway, "over", clean=True) as client:
        client.expect_silence(0.1)


def test_changed_while_away(gateway):
    """What changes while the session is away comes as it is then: live, and once."""
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        for i in range(20):
            writer.publish("c/%d" % i, "old", 1, retain=True)
        with resume(gateway, "away", 2) as client:
            client.subscribe(("c/#", 1))
            first = [client.expect(PUBLISH) for _ in range(2)]
        for i in range(20):
            writer.publish("c/%d" % i, "new", 1, retain=True)
        writer.publish("c/20", "new", 1, retain=True)
        with resume(gateway, "away", 2) as client:
            again = [client.delivery() for _ in range(2)]
            assert [(p.topic, p.id, p.payload) for p in again] == [(p.topic, p.id, b"old") for p in first]
            assert all(p.flags & 9 == 9 for p in again)
            got = [client.delivery() for _ in range(21)]
            assert sorted(p.topic for p in got) == sorted("c/%d" % i for i in range(21))
            assert not any(p.flags & 9 for p in got) and {p.payload for p in got} == {b"new"}
            client.expect_silence(0.1)
        # A new SUBSCRIBE shows everything once more, and one that is taken back nothing.
        with resume(gateway, "away", 2) as client:
            client.subscribe(("c/#", 1))
            client.expect(PUBLISH)
            client.subscribe(("c/#", 1))
            client.unsubscribe("c/#")
        with resume(gateway, "away", 2) as client:
            for _ in range(2):  # what was under way
                assert client.delivery().flags & 9 == 9
            client.expect_silence(0.1)


if __name__ == "__main__":
    run(test_last_value, test_options, test_properties_and_expiry, test_filters, test_kill, test_many, test_delayed,
        test_will, test_kept_session, test_routed, test_interrupted,
        test_changed_while_away)
