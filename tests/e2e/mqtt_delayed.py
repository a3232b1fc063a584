#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Delayed publishing over MQTT: by user property and by topic, never early, and through the death of the gateway."""

import time

import standstill
from gateway import Gateway, run, until
from wire import *  # noqa: F403 - the names of the protocol


def later(milliseconds):
    return [(USER, ("delay", str(milliseconds)))]


def delayed_of(gateway, queue):
    line = 'polylog_queue_delayed{queue="%s"}' % queue
    text = gateway.call("GET", "/metrics")[1]
    return next(int(each.split()[-1]) for each in text.splitlines() if each.startswith(line))


def test_property_and_topic(gateway):
    with Client(gateway.mqtt_port, 5).connect("reader") as reader, \
            Client(gateway.mqtt_port, 5).connect("writer") as writer, \
            Client(gateway.mqtt_port, 4).connect("old") as old:
        reader.subscribe(("d/#", 1))
        began, started = time.time(), time.monotonic()
        assert writer.publish("d/property", "p", 1, 1, props=later(700)) == 0
        assert old.publish("$delayed/1/d/topic", "t", 1, 1) == 0
        writer.publish("$delayed/1/d/qos0", "0")
        assert writer.publish("$delayed/0/d/now", "n", 1, 2) == 0
        got = {}
        for _ in range(4):
            delivery = reader.delivery()
            got[delivery.topic] = time.time() - began
            if delivery.topic == "d/property":
                assert delivery.users() == [("delay", "700")], delivery.users()
        assert 0.7 <= got["d/property"] and 1 <= got["d/topic"] and 1 <= got["d/qos0"], got
        lost = standstill.since(started)
        assert got["d/now"] < 0.5 + lost and got["d/property"] < 1 + lost, (got, lost)
        assert got["d/topic"] < 1.5 + lost and got["d/qos0"] < 1.5 + lost, (got, lost)
        reader.expect_silence(0.3)


def test_retained(gateway):
    """Of delayed messages to be retained that come due together the last one is."""
    with Client(gateway.mqtt_port, 5).connect("writer") as writer, \
            Client(gateway.mqtt_port, 5).connect("reader") as reader:
        reader.subscribe(("kept", 1))
        for number in range(1, 6):
            writer.send(publish(5, "kept", b"%d" % number, 1, number, retain=True, props=later(500)))
        assert [reader.delivery().payload for _ in range(5)] == [b"1", b"2", b"3", b"4", b"5"]
        assert reader.subscribe(("kept", 1), packet_id=2) == [1]
        assert reader.delivery().payload == b"5"


def test_refused(gateway):
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        week = 7 * 24 * 3600
        assert writer.publish("a", "x", 1, 1, props=later(week * 1000)) == 0
        assert writer.publish("a", "x", 1, 2, props=later(week * 1000 + 1)) >= 0x80
        assert writer.publish("a", "x", 1, 3, props=[(USER, ("delay", "1s"))]) >= 0x80
        assert writer.publish("$delayed/%d/a" % week, "x", 1, 4) == 0
        for i, topic in enumerate(("$delayed/%d/a" % (week + 1), "$delayed/x/a", "$delayed/5", "$delayed//a",
                                   "$delayed/99999999999999999999/a")):
            assert writer.publish(topic, "x", 1, 5 + i) >= 0x80, topic
        assert delayed_of(gateway, "mqtt") == 2


def test_exactly_once(gateway):
    """What is sent again with the number of one that was delayed is that one: waiting or fired, after kill -9, too."""
    sent = ((11, "once", later(400)), (12, "$delayed/1/once", ()))

    def connect():
        return Client(gateway.mqtt_port, 5).connect("w", clean=False, props=[(SESSION_EXPIRY, 600)])

    def send(writer, duplicate):
        for number, topic, props in sent:
            writer.send(publish(5, topic, b"%d" % number, 2, number, duplicate=duplicate, props=props))
            assert writer.expect(PUBREC).id == number

    def stored():
        line = 'polylog_queue_records{queue="mqtt"}'
        text = gateway.call("GET", "/metrics")[1]
        return next(int(each.split()[-1]) for each in text.splitlines() if each.startswith(line))

    with connect() as writer:
        send(writer, False)
    gateway.kill9()
    gateway.restart()
    with connect() as writer:
        send(writer, True)
        assert until(lambda: delayed_of(gateway, "mqtt") == 0)
    gateway.kill9()
    gateway.restart()
    with connect() as writer:
        send(writer, True)
        assert (stored(), delayed_of(gateway, "mqtt")) == (2, 0)
        for number, _, _ in sent:
            writer.ack(PUBREL, number)
            assert writer.expect(PUBCOMP).reason == 0
        assert writer.publish("$delayed/0/once", "next", 2, 12) == 0
        assert until(lambda: stored() == 3)


def test_death_of_the_gateway():
    """What was acknowledged fires once, whenever the gateway dies."""
    gateway = Gateway()
    sent = 0
    for round_ in range(4):
        with Client(gateway.mqtt_port, 5).connect("writer") as writer:
            for _ in range(100):
                assert writer.publish("k/%d" % (sent % 5), str(sent), 1, 1 + sent % 60000,
                                      props=later(150 + sent % 7 * 50)) == 0
                sent += 1
            time.sleep(0.1 * round_)
        gateway.kill9()
        gateway.restart()
    assert until(lambda: delayed_of(gateway, "mqtt") == 0)
    status, body = gateway.call("GET", "/metrics")
    assert status == 200 and "polylog_delay_lateness_seconds_bucket" in body
    records = next(int(line.split()[-1]) for line in body.splitlines()
                   if line.startswith('polylog_queue_records{queue="mqtt"}'))
    assert records == sent, (records, sent)
    assert gateway.stop() == 0


run(*(value for name, value in list(globals().items()) if name.startswith("test_")))
