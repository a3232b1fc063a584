#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""$replay/FROM/... and the user property replay: what was, then what comes, of queues and of topics."""

import time

from gateway import Gateway, run
from rest import make
from rest import publish as post
from wire import *  # noqa: F403 - the names of the protocol

OFFSET = (USER, ("show", "offset"))


def connect(gateway, name, version=5, credit=None):
    return Client(gateway.mqtt_port, version).connect(name, props=[(RECEIVE_MAXIMUM, credit)] if credit else [])


def numbers(client, count):
    return [int(client.delivery().payload) for _ in range(count)]


def asked(position):
    return [(USER, ("replay", position))]


def test_queue(gateway):
    make(gateway, "q", None)
    with connect(gateway, "writer") as writer:
        for i in range(20):
            writer.publish("$queue/q", str(i), i % 3, packet_id=i + 1)
        writer.ping()
        history = list(range(20))
        for version in (3, 4, 5):
            with connect(gateway, "reader%d" % version, version) as reader:
                assert reader.subscribe(("$replay/7/$queue/q", 1), ("$replay/earliest/$queue/q", 0)) == [1, 0]
                got = [reader.delivery() for _ in range(2 * len(history) - 7)]
                by_qos = {qos: [d for d in got if d.qos == qos] for qos in (0, 1)}
                assert [int(d.payload) for d in by_qos[1]] == history[7:]
                assert [int(d.payload) for d in by_qos[0]] == history
                assert {d.topic for d in by_qos[1]} == {"$replay/7/$queue/q"}
                writer.publish("$queue/q", "99", 1)  # then what comes
                assert sorted(reader.delivery().qos for _ in range(2)) == [0, 1]
                assert reader.unsubscribe("$replay/7/$queue/q", "$replay/8/$queue/q")[:2] == \
                    ([0, 0x11] if version == 5 else [])
                writer.publish("$queue/q", "98", 1)
                assert reader.delivery().qos == 0
                reader.expect_silence(0.1)
                history += [99, 98]
        with connect(gateway, "reader") as reader:
            assert reader.subscribe(("$queue/q", 1), props=asked("18") + [OFFSET, (SUBSCRIPTION_ID, 5)]) == [1]
            found = reader.delivery()
            assert (found.topic, found.payload, found.get(SUBSCRIPTION_ID)) == ("$queue/q", b"18", 5)
            assert dict(found.users()) == {"offset": "18", "partition": "0"}
            # The same filter without it replaces it, and takes leases; and the other way round.
            assert reader.subscribe(("$queue/q", 1)) == [1]
            writer.publish("$queue/q", "lease", 1)
            while reader.delivery().payload != b"lease":
                pass
            reader.expect_silence(0.1)
            assert reader.subscribe(("$queue/q", 1), props=asked("25")) == [1]
            assert [reader.delivery().payload for _ in range(2)] == [b"98", b"lease"]
            reader.expect_silence(0.1)
            for bad in ("$replay/x/$queue/q", "$replay/1/$queue/none", "$replay/1/$queue/q/$dead/g", "$replay/-1/a"):
                assert reader.subscribe((bad, 1)) == [0x8F], bad
            assert reader.subscribe(("$share/g/$queue/q", 1), props=asked("0")) == [0x8F]
            assert reader.subscribe(("$queue/q", 1), props=asked("soon")) == [0x83]


def test_topics(gateway):
    """Of a filter over several partitions and homes, by time, with the options of the subscription."""
    make(gateway, "home", None)
    assert gateway.call("PUT", "/v1/default/routes/t%2Fhome", {"queue": "home"})[0] == 200
    with connect(gateway, "writer") as writer:
        for i in range(10):
            writer.publish("t/%d" % i, str(i), 1, packet_id=i + 1)
        writer.publish("t/home", "10", 1)
        writer.publish("other", "x", 1)
        time.sleep(0.05)
        now = int(time.time() * 1000)
        time.sleep(0.05)
        for i in range(20, 25):
            writer.publish("t/%d" % i, str(i), 1 + i % 2, packet_id=i)
        with connect(gateway, "all", 4) as reader:
            assert reader.subscribe(("$replay/earliest/t/#", 1)) == [1]
            got = [reader.delivery() for _ in range(16)]
            assert sorted(int(d.payload) for d in got) == list(range(11)) + list(range(20, 25))
            assert all(d.topic == "$replay/earliest/t/" + (d.payload.decode() if d.payload != b"10" else "home") for d in got)
            reader.expect_silence(0.1)
            writer.publish("t/new", "30", 2)
            assert reader.delivery().topic == "$replay/earliest/t/new"
        with connect(gateway, "since") as reader:
            assert reader.subscribe(("t/+", 2), props=asked("@%d" % now) + [OFFSET]) == [2]
            got = sorted((int(d.payload), d.topic, d.qos) for d in (reader.delivery() for _ in range(6)))
            assert got == [(i, "t/%d" % i, 1 + i % 2) for i in range(20, 25)] + [(30, "t/new", 2)], got
        # No local, and a subscription of its own to the same filter, which it replaces.
        assert writer.subscribe(("t/+", 1)) == [1]
        assert writer.subscribe(("t/+", 5), packet_id=2, props=asked("earliest")) == [1]
        with connect(gateway, "second") as second:
            second.publish("t/x", "50", 1)
        assert numbers(writer, 1) == [50]
        writer.expect_silence(0.1)
        assert writer.unsubscribe("t/+") == [0]


def test_credit(gateway):
    """One receive maximum for everything; whoever reads slowly loses nothing and holds up nobody."""
    make(gateway, "q", None)
    with connect(gateway, "writer") as writer, connect(gateway, "small", credit=2) as small:
        post(gateway, *[str(i) for i in range(300)], queue="q")
        assert small.subscribe(("t", 1), ("$replay/0/$queue/q", 1), ("$replay/1/$queue/q", 1)) == [1, 1, 1]
        writer.publish("t", "1000", 1)
        held, seen = [small.expect(PUBLISH), small.expect(PUBLISH)], []
        small.expect_silence(0.2)
        while held:
            found = held.pop(0)
            seen.append((found.topic, int(found.payload)))
            small.ack(PUBACK, found.id)
            if len(seen) + len(held) < 600:
                held.append(small.expect(PUBLISH))
        small.expect_silence(0.2)
        assert [n for topic, n in seen if topic == "$replay/0/$queue/q"] == list(range(300))
        assert [n for topic, n in seen if topic == "$replay/1/$queue/q"] == list(range(1, 300))
        assert ("t", 1000) in seen


run(test_queue, test_topics, test_credit)
