#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Limits of one client and of all: what is too much is refused in the protocol's words, counted, and no trouble to
others."""

import socket
import time

from gateway import Gateway, run, until
from rest import make
from standstill import needs_pace
from wire import *  # noqa: F403 - the names of the protocol


def metrics(gateway):
    status, answer = gateway.call("GET", "/metrics")
    return answer if status == 200 else None


def figure(gateway, name, reason, protocol='protocol="mqtt",'):
    text_ = until(lambda: metrics(gateway))  # too many connections at the moment may be this one
    wanted = 'polylog_%s{%sreason="%s"} ' % (name, protocol, reason)
    return sum(float(line[len(wanted):]) for line in text_.splitlines() if line.startswith(wanted))


def limited(*settings):
    return Gateway(None, *settings)


def test_subscriptions():
    gateway = limited("limit.subscriptions=3")
    with Client(gateway.mqtt_port, 5).connect("s") as client:
        assert client.subscribe("a", "b", "c", "d") == [0, 0, 0, 0x97]
        assert client.subscribe("b", "e") == [0, 0x97]  # what is there may be changed
        assert client.unsubscribe("a") == [0]
        assert client.subscribe("d", "e") == [0, 0x97]
        with Client(gateway.mqtt_port, 4).connect("other") as other:
            assert other.subscribe("a", "b", "c", "d") == [0, 0, 0, 0x80]
    assert gateway.stop() == 0


@needs_pace
def test_publish_rate():
    gateway = limited("limit.publish_rate=50")
    with Client(gateway.mqtt_port, 5).connect("fast") as fast, Client(gateway.mqtt_port, 5).connect("slow") as slow:
        for i in range(200):
            fast.send(publish(5, "r", b"%d" % i, 1, i + 1))
        reasons = [fast.expect(PUBACK).reason for _ in range(200)]
        assert reasons[:50] == [0] * 50 and reasons.count(0x97) > 50 and set(reasons) == {0, 0x97}, reasons
        assert slow.publish("r", "x", 1) == 0  # another client has its own
        assert until(lambda: fast.publish("r", "again", 1) == 0)
        refused = figure(gateway, "refused_total", "over_quota")
        assert refused >= reasons.count(0x97), refused
        fast.send(publish(5, "r", b"x") * 300)  # QoS 0 has no answer: it is dropped and counted
        fast.ping()
        assert until(lambda: figure(gateway, "refused_total", "over_quota") > refused + 100)
    with Client(gateway.mqtt_port, 4).connect("old") as old:  # 3.1.1 cannot be told
        for i in range(200):
            old.send(publish(4, "r", b"x", 1, i + 1))
        while old.receive() is not None:
            pass
    assert gateway.stop() == 0


@needs_pace
def test_connection_rate():
    gateway = limited("limit.connection_rate=10")
    reasons = []
    for _ in range(40):
        with Client(gateway.mqtt_port, 5) as client:
            client.connect("", accept=False)
            reasons.append(client.expect(CONNACK).reason)
    assert reasons[:10] == [0] * 10 and set(reasons) == {0, 0x9F}, reasons
    assert figure(gateway, "refused_total", "connection_rate") == reasons.count(0x9F)

    def refused():
        with Client(gateway.mqtt_port, 4) as client:
            client.connect("x", accept=False)
            return client.expect(CONNACK).reason == 3
    assert until(refused, step=0)
    assert until(lambda: Client(gateway.mqtt_port, 5).connect("", accept=False).expect(CONNACK).reason == 0)
    assert gateway.stop() == 0


def test_connection_rate_of_an_address():
    """The other listeners have the same rule, each in its own words; the address counts, not the protocol."""
    gateway = limited("limit.address_rate=20")

    def too_many(refused):
        """What the first refused one of up to 200 connections made at once was told."""
        for _ in range(200):
            told = refused()
            if told is not None:
                return told
        raise AssertionError("nobody was refused")

    def request(head):
        def ask():
            with socket.create_connection(("127.0.0.1", gateway.http_port), 10) as line:
                line.sendall(head + b"Host: localhost\r\n\r\n")
                answer = line.recv(4096)
                if not answer.startswith(b"HTTP/1.1 429 "):
                    return None
                while (more := line.recv(4096)) != b"":
                    answer += more
                return answer
        return ask
    upgrade = (b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
               b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: polylog.v1\r\n")
    for head in b"GET /healthz HTTP/1.1\r\n", upgrade:
        told = too_many(request(head))
        assert b"Retry-After: 1\r\n" in told and b"10240407" in told, told

    def amqp(sent, refusal, welcome):
        def ask():
            with socket.create_connection(("127.0.0.1", gateway.amqp_port), 10) as line:
                line.sendall(sent)
                answer = b""
                while refusal not in answer and welcome not in answer:
                    more = line.recv(4096)
                    assert more != b"", answer
                    answer += more
                return answer if refusal in answer else None
        return ask
    too_many(amqp(b"AMQP\0\1\0\0" + bytes.fromhex("00000012 02000000 005310 c0 05 02 a10163 40"),
                  b"amqp:resource-limit-exceeded", b"ANONYMOUS-RELAY"))  # open without SASL
    too_many(amqp(b"AMQP\3\1\0\0" + bytes.fromhex("00000019 02010000 005341 c0 0c 01 a309") + b"ANONYMOUS",
                  b"SD\xc0\x03\x01P\x04", b"SD\xc0\x03\x01P\x00"))  # the outcome of SASL: sys-temp or ok

    def mqtt():
        with Client(gateway.mqtt_port, 5) as client:
            client.connect("", accept=False)
            return client.expect(CONNACK).reason or None
    assert too_many(mqtt) == 0x9F

    other = socket.socket()
    other.bind(("127.0.0.2", 0))  # another address is no part of it
    other.connect(("127.0.0.1", gateway.http_port))
    other.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    figures = b""
    while (more := other.recv(65536)) != b"":
        figures += more
    for protocol in b"mqtt", b"amqp", b"http":
        assert b'polylog_refused_total{protocol="%s",reason="connection_rate"} ' % protocol in figures, protocol
    assert gateway.stop() == 0


def test_in_flight():
    gateway = limited("mqtt.inflight_max=5")
    with Client(gateway.mqtt_port, 4).connect("r") as reader, Client(gateway.mqtt_port, 5).connect("w") as writer:
        reader.subscribe(("f", 1))
        for i in range(20):
            writer.publish("f", "%d" % i, 1, packet_id=i + 1)
        first = [reader.expect(PUBLISH) for _ in range(5)]
        reader.expect_silence(0.2)
        for got in first:
            reader.ack(PUBACK, got.id)
        rest = [reader.delivery().payload for _ in range(15)]
        assert [got.payload for got in first] + rest == [b"%d" % i for i in range(20)]
    assert gateway.stop() == 0


def test_slow_reader_of_qos_0(gateway):
    """What a reader of QoS 0 does not take is dropped and counted; nobody waits for it."""
    with Client(gateway.mqtt_port, 5, receive_buffer=4096).connect("slow") as slow, \
            Client(gateway.mqtt_port, 5).connect("quick") as quick, Client(gateway.mqtt_port, 5).connect("w") as writer:
        slow.subscribe(("z", 0))
        quick.subscribe(("z", 1))
        body = b"x" * 60000
        for i in range(200):
            writer.publish("z", body, 1, packet_id=i + 1)
            assert len(quick.delivery().payload) == len(body)
        assert until(lambda: figure(gateway, "dropped_total", "slow", "") > 0)
        dropped = figure(gateway, "dropped_total", "slow", "")
        seen = 0
        slow.socket.settimeout(0.3)

        def all_accounted_for():
            nonlocal seen
            try:
                while slow.receive() is not None:
                    seen += 1
            except TimeoutError:
                return seen + dropped >= 200
        until(all_accounted_for)
        slow.expect_silence(0.3)
        assert seen + dropped == 200 and figure(gateway, "dropped_total", "slow", "") == dropped, (seen, dropped)


def test_topic_levels():
    gateway = limited("limit.topic_levels=3")
    with Client(gateway.mqtt_port, 5).connect("l") as client:
        assert client.subscribe(("a/b/c", 1), ("a/b/c/d", 1), ("+/+/#", 1), ("+/+/+/#", 1), ("$share/s/a/b/c/d", 1)) \
            == [1, 0x8F, 1, 0x8F, 0x8F]
        assert client.publish("a/b/c", "x", 1) == 0
        assert client.publish("a/b/c/d", "x", 1) == 0x90
    assert gateway.stop() == 0


def test_user_properties(gateway):
    """One too many refuses the message and not its client."""
    many = [(USER, ("n", str(i))) for i in range(253)]
    with Client(gateway.mqtt_port, 5).connect("reader") as reader, \
            Client(gateway.mqtt_port, 5).connect("writer") as writer:
        reader.subscribe(("t", 2))
        for qos in (0, 1, 2):
            assert writer.publish("t", "many", qos, props=many) == (0x97 if qos else 0)
            assert writer.publish("t", "full", qos, props=many[1:]) == 0
            got = reader.delivery()
            assert (got.payload, got.properties) == (b"full", many[1:]), got
        writer.ping()


def test_coming_back():
    """What a session missed comes evenly and is not more than allowed, the newest; what it is told once it is there
    comes as it is published."""
    gateway = limited("limit.resume_rate=50", "limit.session_records=60")
    keep = [(SESSION_EXPIRY, 100)]
    with Client(gateway.mqtt_port, 5).connect("s", clean=False, props=keep) as client:
        client.subscribe(("c/+", 1), ("d", 1))
    with Client(gateway.mqtt_port, 5).connect("w") as writer:
        for i in range(100):
            writer.publish("c/%d" % (i % 2) if i % 3 else "d", "%d" % i, 1, packet_id=i + 1)
        began = time.monotonic()
        with Client(gateway.mqtt_port, 5).connect("s", clean=False, props=keep) as client:
            assert client.connack.body[0] & 1
            times = []
            for i in range(40, 100):
                got = client.delivery()
                assert got.payload == b"%d" % i and not got.flags & 8, (i, got)
                times.append(time.monotonic() - began)
            for number, at in enumerate(times):  # never sooner, but for the first few
                assert at > (number - 5) / 50 - 0.05, (number, at)
            assert figure(gateway, "dropped_total", "session_records", "") == 40
            client.expect_silence(0.1)
            for i in range(100):
                writer.publish("d", "%d" % i, 1, packet_id=i + 1)
            assert [client.delivery().payload for _ in range(100)] == [b"%d" % i for i in range(100)]
            client.disconnect()
            while client.receive() is not None:  # its acknowledgements have been read
                continue
        with Client(gateway.mqtt_port, 5).connect("s", clean=False, props=keep) as client:
            client.expect_silence(0.1)
        assert figure(gateway, "dropped_total", "session_records", "") == 40
    assert gateway.stop() == 0


def member(gateway, name, filter_, keep=[(SESSION_EXPIRY, 1000)]):
    """A session that subscribes and has gone."""
    with Client(gateway.mqtt_port, 5).connect(name, clean=False, props=keep) as client:
        assert client.subscribe((filter_, 1)) == [1]
        client.disconnect()
        while client.receive() is not None:
            continue


def received(client, silence=0.3):
    got = []
    client.socket.settimeout(silence)
    try:
        while True:
            got.append(client.delivery().payload)
    except TimeoutError:
        client.socket.settimeout(10)
    return got


def test_bytes_of_a_session():
    """Of what a session missed the newest come, so many bytes at most; a durable share is held to that as well."""
    gateway = limited("limit.session_bytes=50K")
    for number, filter_ in enumerate(("b/+", "$share/g/b/+")):
        name = "s%d" % number
        member(gateway, name, filter_)
        with Client(gateway.mqtt_port, 5).connect("w") as writer:
            sent = [b"%03d" % i + b"x" * (500 if i % 2 else 1500) for i in range(100)]
            for i, body in enumerate(sent):
                assert writer.publish("b/%d" % (i % 3), body, 1, packet_id=i + 1) == 0
        with Client(gateway.mqtt_port, 5).connect(name, clean=False, props=[(SESSION_EXPIRY, 1000)]) as client:
            got = received(client)
            assert got == sent[100 - len(got):] and 40000 < sum(map(len, got)) <= 51200, len(got)
            assert until(lambda: figure(gateway, "dropped_total", "session_bytes", "") == 100 * (number + 1)
                         - len(got) * (number + 1))
            assert client.unsubscribe(filter_) == [0]
    assert figure(gateway, "dropped_total", "session_records", "") == 0
    assert gateway.stop() == 0


def test_a_share_comes_back():
    """What was kept for a durable share while no member was there comes as a session's does, to all together."""
    gateway = limited("limit.resume_rate=50", "limit.session_records=60")
    for name in "ab":
        member(gateway, name, "$share/g/c/+")
    with Client(gateway.mqtt_port, 5).connect("w") as writer:
        for i in range(100):
            writer.publish("c/%d" % (i % 2), "%d" % i, 1, packet_id=i + 1)
        gateway.stop()
        gateway.start()
        began = time.monotonic()
        keep = [(SESSION_EXPIRY, 1000)]
        with Client(gateway.mqtt_port, 5).connect("a", clean=False, props=keep) as a:
            times = []
            for i in range(40, 100):
                assert a.delivery().payload == b"%d" % i
                times.append(time.monotonic() - began)
            for number, at in enumerate(times):
                assert at > (number - 5) / 50 - 0.05, (number, at)
            assert figure(gateway, "dropped_total", "session_records", "") == 40
    with Client(gateway.mqtt_port, 5).connect("w") as writer, \
            Client(gateway.mqtt_port, 5).connect("a", clean=False, props=keep) as a:
        for i in range(100):
            writer.publish("c/1", "%d" % i, 1, packet_id=i + 1)
        assert [a.delivery().payload for _ in range(100)] == [b"%d" % i for i in range(100)]
    assert gateway.stop() == 0


def test_what_is_gone_is_not_dropped():
    """What was purged counts no longer: the rest is within the limit."""
    gateway = limited("limit.session_records=60", "limit.session_bytes=1M")
    member(gateway, "s", "p")
    with Client(gateway.mqtt_port, 5).connect("w") as writer:
        for i in range(50):
            writer.publish("p", "old", 1, packet_id=i + 1)
        assert gateway.call("POST", "/v1/default/queues/mqtt/purge")[0] in (200, 204)
        for i in range(50):
            writer.publish("p", "%d" % i, 1, packet_id=i + 1)
    with Client(gateway.mqtt_port, 5).connect("s", clean=False, props=[(SESSION_EXPIRY, 1000)]) as client:
        assert received(client) == [b"%d" % i for i in range(50)]
    assert gateway.stop() == 0


def test_a_full_queue_keeps_nobody_out(gateway):
    """The group of a session was deleted, and there is no room for it any more: the session goes on without it, and
    has it again when there is, also when its client has asked meanwhile."""
    keep = [(SESSION_EXPIRY, 1000)]
    make(gateway, "full", None)
    member(gateway, "s", "$share/mine/$queue/full")
    member(gateway, "s", "other")
    assert gateway.call("DELETE", "/v1/default/queues/full/groups/mine")[0] in (200, 204)
    for i in range(10):
        with Client(gateway.mqtt_port, 5).connect("filler") as filler:
            filters = [("$share/g%d-%d/$queue/full" % (i, j), 1) for j in range(100)]
            assert filler.subscribe(*filters) == [1] * 100
    with Client(gateway.mqtt_port, 5).connect("w") as writer:
        before = figure(gateway, "refused_total", "limit")
        with Client(gateway.mqtt_port, 5).connect("s", clean=False, props=keep) as client:
            assert client.connack.body[0] & 1
            assert figure(gateway, "refused_total", "limit") == before + 1
            writer.publish("other", "x", 1)
            assert client.delivery().payload == b"x"
            assert client.subscribe(("$share/mine/$queue/full", 1)) == [0x97]
            assert gateway.call("DELETE", "/v1/default/queues/full/groups/g0-0")[0] in (200, 204)
            packet_ids = iter(range(10, 60))  # for seconds

            def comes():
                writer.publish("$queue/full", "z", 1, packet_id=next(packet_ids))
                try:
                    return client.delivery().payload == b"z"
                except TimeoutError:
                    return False
            client.socket.settimeout(0.2)
            while not comes():
                pass
            client.disconnect()
        with Client(gateway.mqtt_port, 5).connect("s", clean=False, props=keep) as client:
            writer.publish("$queue/full", "y", 1, packet_id=2)
            got = [client.delivery().payload]
            while got[-1] == b"z":
                got.append(client.delivery().payload)
            assert got[-1] == b"y", got


if __name__ == "__main__":
    run(test_subscriptions, test_topic_levels, test_user_properties, test_coming_back, test_bytes_of_a_session,
        test_a_share_comes_back, test_what_is_gone_is_not_dropped, test_a_full_queue_keeps_nobody_out,
        test_publish_rate, test_connection_rate,
        test_connection_rate_of_an_address, test_in_flight, test_slow_reader_of_qos_0)
