#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Statements of MQTT 5.0 that no other test is about, one by one (docs/mqtt-statements.md)."""

import time

from gateway import run
from standstill import needs_pace
from websocket import BINARY, TEXT, Socket, frame
from wire import *  # noqa: F403 - the names of the protocol


def connect_bytes(flags, payload, name=b"MQTT", version=5, props=b"\0"):
    return packet(CONNECT, 0, text(name) + bytes([version, flags]) + b"\0\x3c" + props + payload)


def ends(gateway, data, *reasons):
    """After a CONNECT of its own, or as the first bytes: the connection ends with one of the reasons."""
    with Client(gateway.mqtt_port, 5) as client:
        if data[0] >> 4 != CONNECT:
            client.connect("ends")
        client.send(data)
        got = client.expect_end()
        assert got in reasons, (data, got)


def test_connect_flags_and_fields(gateway):
    """Each flag announces its field; the reserved one is 0."""
    will = b"\0" + text("w") + text("x")
    for flags, payload in (
            (0x03, text("a")),  # the reserved flag
            (0x06, text("a")),  # will flag without will
            (0x82, text("a")),  # user name flag without user name
            (0x42, text("a")),  # password flag without password
            (0x02, text("a") + text("user")),  # user name without its flag
            (0x82, text("a") + text("user") + text("password")),  # password without its flag
            (0x0A, text("a")), (0x12, text("a")),  # will QoS without will
            (0x22, text("a")),  # will retain without will
            (0x1E, text("a") + will),  # will QoS 3
            (0x02, b""),  # no client identifier at all
            (0x06, text("a") + b"\0" + text(b"\xff") + text("x")),  # a will topic that is no text
            (0x82, text("a") + text(b"\xff"))):  # a user name that is no text
        ends(gateway, connect_bytes(flags, payload), 0x81, 0x82, 0x90)
    ends(gateway, connect_bytes(0x02, text(b"\xff")), 0x81, 0x85)
    for qos in (0, 1, 2):
        with Client(gateway.mqtt_port, 5) as client:
            client.send(connect_bytes(0x06 | qos << 3, text("a") + will))
            assert client.expect(CONNACK).reason == 0


def test_protocol_name_and_version(gateway):
    for level in (0, 2, 7, 0x82, 0x85, 0x8F):
        ends(gateway, connect_bytes(0x02, text("a"), version=level), 0x84)
    for name, level in ((b"MQIsdp", 0x83), (b"MQTT", 0x84)):  # a bridge: no local, retain as published
        with Client(gateway.mqtt_port, level & 7) as client, Client(gateway.mqtt_port, 4).connect("w") as writer:
            client.send(connect_bytes(0x02, text("b"), name=name, version=level, props=b""))
            assert client.expect(CONNACK).reason == 0
            assert client.subscribe(("bridged/+", 1), ("$share/g/bridged/s", 1)) == [1, 1]
            client.publish("bridged/own", "x", 1)
            writer.publish("bridged/other", "y", 1, retain=True)
            got = client.delivery()
            assert (got.topic, got.flags & 1) == ("bridged/other", 1), got
            client.publish("bridged/s", "z", 1)  # no local is not for shares (3.8.3-4)
            assert client.delivery().payload == b"z"
            client.expect_silence(0.05)
            writer.publish("bridged/other", "", 1, retain=True)
    keep = [(SESSION_EXPIRY, 100)]  # 3.x has no retain as published, also when MQTT 5 subscribed (3.1.1, 3.3.1-9)
    with Client(gateway.mqtt_port, 5).connect("both", clean=False, props=keep) as client:
        client.subscribe(("as-published", 1 | 8))
    with Client(gateway.mqtt_port, 4).connect("both", clean=False) as client:
        assert client.connack.body[0] & 1
        client.publish("as-published", "x", 1, retain=True)
        assert client.delivery().flags & 1 == 0
    with Client(gateway.mqtt_port, 5) as client:
        client.send(connect_bytes(0x02, text("a"), name=b"HTTP"))
        assert client.receive() is None


def test_first_packet(gateway):
    """The first packet is CONNECT, and nothing is sent before CONNACK; there is one CONNACK."""
    for first in (packet(PINGREQ, 0, b""), publish(5, "a", b"x"), packet(AUTH, 0, b""), packet(DISCONNECT, 0, b"")):
        with Client(gateway.mqtt_port, 5) as client:
            client.send(first)
            assert client.receive() is None
    with Client(gateway.mqtt_port, 5) as client:
        client.send(connect_bytes(0x02, text("a")) + packet(PINGREQ, 0, b"") * 3)
        assert [client.receive().type for _ in range(4)] == [CONNACK, PINGRESP, PINGRESP, PINGRESP]
        client.expect_silence(0.05)


def test_refused_connect_processes_nothing(gateway):
    with Client(gateway.mqtt_port, 5).connect("watch") as watch:
        watch.subscribe(("after", 1))
        with Client(gateway.mqtt_port, 5) as client:
            client.send(connect_bytes(0x02, text("x" * 1025)) + publish(5, "after", b"x", 1))
            got = client.expect(CONNACK)
            assert got.reason == 0x85 and got.body[0] == 0, got  # session present is 0
            assert client.receive() is None
        watch.expect_silence(0.1)


def test_client_identifiers(gateway):
    """1 to 23 letters and digits always pass; an empty one is replaced by one of its own each time."""
    for name in ("0", "abcdefghijklmnopqrstuvw", "ABCDEFGHIJKLMNOPQRSTUVW", "XYZxyz0123456789"):
        Client(gateway.mqtt_port, 5).connect(name).close()
    given = set()
    for _ in range(3):
        client = Client(gateway.mqtt_port, 5).connect("")
        given.add(client.connack.get(ASSIGNED_ID))
    assert len(given) == 3 and None not in given
    with Client(gateway.mqtt_port, 5).connect("mine") as client:
        assert client.connack.get(ASSIGNED_ID) is None
    keep = [(SESSION_EXPIRY, 100)]
    with Client(gateway.mqtt_port, 5).connect("", clean=False, props=keep) as client:
        name = client.connack.get(ASSIGNED_ID).decode()
        client.subscribe(("a", 1))
    with Client(gateway.mqtt_port, 5).connect(name, clean=False, props=keep) as client:
        assert client.connack.body[0] & 1  # as if it had brought the name itself


def test_fixed_header_bits(gateway):
    """Reserved bits are what the specification lists, or the packet is malformed."""
    subscribe, unsubscribe = b"\0\1\0" + text("a") + b"\0", b"\0\1\0" + text("a")
    for kind, body, right in ((SUBSCRIBE, subscribe, 2), (UNSUBSCRIBE, unsubscribe, 2), (PUBREL, b"\0\1", 2),
                              (PUBACK, b"\0\1", 0), (PUBREC, b"\0\1", 0), (PUBCOMP, b"\0\1", 0), (PINGREQ, b"", 0),
                              (DISCONNECT, b"", 0), (AUTH, b"", 0)):
        for flags in range(16):
            if flags != right:
                ends(gateway, packet(kind, flags, body), 0x81)
    for flags in range(1, 16):
        ends(gateway, bytes([CONNECT << 4 | flags]) + connect_bytes(0x02, text("a"))[1:], 0x81)


def test_publish_head(gateway):
    ends(gateway, packet(PUBLISH, 6, text("a") + b"\0\1\0x"), 0x81)  # both QoS bits
    ends(gateway, packet(PUBLISH, 8, text("a") + b"\0x"), 0x81, 0x82)  # DUP with QoS 0
    ends(gateway, packet(PUBLISH, 2, text("a") + b"\0\0\0x"), 0x81, 0x82)  # packet identifier 0
    ends(gateway, publish(5, "a", b"x", props=[(ALIAS, 0)]), 0x82, 0x94)
    ends(gateway, publish(5, "a", b"x", props=[(SUBSCRIPTION_ID, 1)]), 0x82)
    ends(gateway, publish(5, "a", b"x", props=[(RESPONSE_TOPIC, b"a/+")]), 0x82, 0x90)
    for name in (RESPONSE_TOPIC, CONTENT_TYPE):
        ends(gateway, publish(5, "a", b"x", props=[(name, b"\xff")]), 0x81, 0x82, 0x90)
    ends(gateway, publish(5, "a", b"x", props=[(USER, (b"\xff", b"x"))]), 0x81)
    ends(gateway, publish(5, "a", b"x", props=[(USER, (b"x", b"\xff"))]), 0x81)


def test_subscribe_payload(gateway):
    """Packet identifier, at least one filter, no reserved option bits, no QoS 3, no retain handling 3."""
    ends(gateway, packet(SUBSCRIBE, 2, b"\0\0\0" + text("a") + b"\0"), 0x81, 0x82)
    ends(gateway, packet(SUBSCRIBE, 2, b"\0\1\0"), 0x81, 0x82)
    ends(gateway, packet(UNSUBSCRIBE, 2, b"\0\1\0"), 0x81, 0x82)
    ends(gateway, packet(SUBSCRIBE, 2, b"\0\1\0" + text("") + b"\0"), 0x81, 0x82, 0x8F)
    ends(gateway, packet(UNSUBSCRIBE, 2, b"\0\1\0" + text("")), 0x81, 0x82, 0x8F)
    for options in (0x40, 0x80, 3, 0x30):
        ends(gateway, packet(SUBSCRIBE, 2, b"\0\1\0" + text("a") + bytes([options])), 0x81, 0x82)


def test_subscribe_many_as_one_by_one(gateway):
    """One reason per filter in their order; identifiers come back; what was granted is kept to."""
    with Client(gateway.mqtt_port, 5).connect("many") as client:
        found = client.subscribe(("a", 2), ("$delayed/1/x", 1), ("b/+", 0), ("c/#", 1),
                                 packet_id=77)
        assert found == [2, 0x8F, 0, 1], found
        for topic, qos in (("a", 2), ("b/1", 0), ("c/1/2", 1)):
            client.publish(topic, topic, 2, packet_id=9)
            got = client.delivery()
            assert (got.topic, got.qos) == (topic, qos), got
        assert client.unsubscribe("a", "never", "b/+", "c/+", packet_id=78) == [0, 0x11, 0, 0x11]
        client.publish("a", "x", 1)
        client.publish("b/1", "x", 1)
        client.publish("c/1", "still", 1)
        assert client.delivery().payload == b"still"
        client.expect_silence(0.05)


def test_unsubscribe_completes_what_was_begun(gateway):
    with Client(gateway.mqtt_port, 5).connect("u") as client:
        client.subscribe(("u/#", 2))
        client.publish("u/1", "1", 1)
        client.publish("u/2", "2", 2, packet_id=2)
        one, two = client.expect(PUBLISH), client.expect(PUBLISH)
        assert client.unsubscribe("u/#") == [0]
        client.ack(PUBACK, one.id)
        client.ack(PUBREC, two.id)
        assert client.expect(PUBREL).id == two.id
        client.ack(PUBCOMP, two.id)
        client.publish("u/3", "3", 1)
        client.ping()
        client.expect_silence(0.05)


def test_resubscribe_loses_nothing(gateway):
    """A subscription is replaced while records flow: each arrives once."""
    with Client(gateway.mqtt_port, 5).connect("r") as reader, Client(gateway.mqtt_port, 5).connect("w") as writer:
        reader.subscribe(("f", 1 | 0x20))
        for i in range(200):
            writer.send(publish(5, "f", b"%d" % i, 1, i + 1))
            if i % 20 == 0:
                reader.subscribe(("f", 1 | 0x20), packet_id=i + 1)
        for i in range(200):
            assert reader.delivery().payload == b"%d" % i
        reader.expect_silence(0.05)


def test_identifiers_of_the_server(gateway):
    """Not 0, and none twice while it is unanswered."""
    with Client(gateway.mqtt_port, 5).connect("i", props=[(RECEIVE_MAXIMUM, 20)]) as client:
        client.subscribe(("i", 2))
        for i in range(40):
            client.publish("i", "%d" % i, 1 + i // 2 % 2, packet_id=i + 1)
        first = [client.expect(PUBLISH) for _ in range(20)]
        assert len({got.id for got in first}) == 20 and 0 not in {got.id for got in first}
        for got in first[::2]:
            client.ack(PUBACK if got.qos == 1 else PUBREC, got.id)
            if got.qos == 2:
                assert client.expect(PUBREL).id == got.id
                client.ack(PUBCOMP, got.id)
        for got in first[1::2]:
            if got.qos == 2:  # in use until PUBCOMP
                client.ack(PUBREC, got.id)
                assert client.expect(PUBREL).id == got.id
        unanswered = {got.id for got in first[1::2]}
        second = [client.expect(PUBLISH) for _ in range(10)]
        assert not unanswered & {got.id for got in second}
        client.ping()  # other packets are answered although the quota is used up
        assert client.unsubscribe("i") == [0]


def test_identifier_is_free_again(gateway):
    """After PUBACK, and after PUBCOMP, the same identifier is a new message; before PUBREL it is not."""
    with Client(gateway.mqtt_port, 5).connect("f") as client:
        client.subscribe(("f", 2))
        for value in ("1", "2"):
            client.send(publish(5, "f", value.encode(), 1, 5, duplicate=value == "2"))
            assert client.expect(PUBACK).id == 5
            got = client.delivery()
            assert got.payload == value.encode() and got.flags & 8 == 0, got
        for value in ("3", "4"):
            client.send(publish(5, "f", value.encode(), 2, 5))
            assert client.expect(PUBREC).id == 5
            client.send(publish(5, "f", value.encode(), 2, 5, duplicate=True))
            assert client.expect(PUBREC).id == 5
            client.ack(PUBREL, 5)
            assert client.expect(PUBCOMP).id == 5
            assert client.delivery().payload == value.encode()
        client.send(publish(5, "$queue/none", b"x", 2, 6))  # refused: the identifier is free at once
        assert client.expect(PUBREC).reason >= 0x80
        client.send(publish(5, "f", b"5", 2, 6))
        assert client.expect(PUBREC).reason == 0
        assert client.delivery().payload == b"5"
        client.expect_silence(0.05)


def test_no_second_sending(gateway):
    """On a live connection nothing is sent again; a refusal of the client settles a delivery, also for its session."""
    keep = {"clean": False, "props": [(RECEIVE_MAXIMUM, 1), (SESSION_EXPIRY, 100)]}
    with Client(gateway.mqtt_port, 5).connect("n", **keep) as client:
        client.subscribe(("n", 2))
        for qos, kind in ((1, PUBACK), (2, PUBREC)):
            client.publish("n", "x", qos)
            got = client.expect(PUBLISH)
            assert got.flags & 8 == 0
            client.expect_silence(0.3)
            client.ack(kind, got.id, 0x80)
            client.publish("n", "y", qos)
            got = client.delivery()
            assert got.payload == b"y" and got.flags & 8 == 0
            client.publish("n", "z", qos)
            client.ack(kind, client.expect(PUBLISH).id, 0x80)
        client.ping()
    with Client(gateway.mqtt_port, 5).connect("n", **keep) as client:
        assert client.connack.body[0] & 1
        client.expect_silence(0.2)


@needs_pace
def test_expiry_after_sending(gateway):
    """What has been sent is completed, and sent again to a session that goes on, although it has expired since; a
    client's exchange is completed as well."""
    keep = {"clean": False, "props": [(SESSION_EXPIRY, 100)]}
    with Client(gateway.mqtt_port, 5).connect("e", **keep) as client, \
            Client(gateway.mqtt_port, 5).connect("w") as writer:
        client.subscribe(("e", 2))
        writer.publish("e", "1", 2, props=[(MESSAGE_EXPIRY, 1)])
        writer.publish("e", "2", 2, props=[(MESSAGE_EXPIRY, 1)])
        writer.publish("e", "taken", 2, props=[(MESSAGE_EXPIRY, 1)])
        first, second, taken = (client.expect(PUBLISH) for _ in range(3))
        client.ack(PUBREC, taken.id)
        assert client.expect(PUBREL).id == taken.id
        writer.send(publish(5, "e/other", b"3", 2, 3, props=[(MESSAGE_EXPIRY, 1)]))
        assert writer.expect(PUBREC).reason == 0
        time.sleep(1.2)
        writer.send(publish(5, "e/other", b"3", 2, 3, duplicate=True, props=[(MESSAGE_EXPIRY, 1)]))
        assert writer.expect(PUBREC).reason == 0
        writer.ack(PUBREL, 3)
        got = writer.expect(PUBCOMP)
        assert (got.id, got.reason) == (3, 0), got
        client.ack(PUBREC, first.id)
        assert client.expect(PUBREL).id == first.id
        client.ack(PUBCOMP, first.id)
        client.ping()
    with Client(gateway.mqtt_port, 5).connect("e", **keep) as client:
        got, released = client.expect(PUBLISH), client.receive()
        assert got.id == second.id and got.payload == b"2" and got.flags & 8, got
        assert (released.type, released.id) == (PUBREL, taken.id), released


def test_text_is_passed_on_as_it_is(gateway):
    """No normalisation, and U+FEFF is a character."""
    names = ["caf\u00e9", "cafe\u0301", "\ufeffa", "a\ufeff", "A", "\u00c5", "\u212b"]
    with Client(gateway.mqtt_port, 5).connect("t") as client:
        for name in names:
            client.subscribe((name, 1))
        for name in names:
            client.publish(name, name, 1, props=[(CONTENT_TYPE, name.encode()), (USER, (name, name))])
            got = client.delivery()
            assert got.topic == name and got.get(CONTENT_TYPE) == name.encode() and got.users() == [(name, name)], got
        client.expect_silence(0.05)


def test_lengths_in_few_bytes(gateway):
    """A variable byte integer that is longer than it must be is malformed."""
    ends(gateway, packet(PUBLISH, 0, text("a") + b"\x80\x00" + b"x"), 0x81)
    ends(gateway, packet(SUBSCRIBE, 2, b"\0\1" + b"\x03\x0b\x81\x00" + text("a") + b"\0"), 0x81)
    with Client(gateway.mqtt_port, 5).connect("l") as client:  # and ours are short: no properties are one zero
        assert client.subscribe(("a", 0)) == [0]
        client.publish("a", "x", 0)
        assert client.expect(PUBLISH).body == text("a") + b"\0x"


def test_goodbye(gateway):
    """After DISCONNECT nothing more comes, from neither side; a server's names no session expiry."""
    with Client(gateway.mqtt_port, 5).connect("g") as client, Client(gateway.mqtt_port, 5).connect("w") as watch:
        watch.subscribe(("after", 1))
        client.send(packet(DISCONNECT, 0, b"") + publish(5, "after", b"x", 1))
        assert client.receive() is None
        watch.expect_silence(0.1)
    with Client(gateway.mqtt_port, 5).connect("g") as client:
        client.subscribe(("g", 1))
        client.send(b"\xf0\x01\x00" + publish(5, "g", b"x", 1))
        got = client.receive()
        assert got.type == DISCONNECT and got.reason == 0x82 and got.get(SESSION_EXPIRY) is None
        assert client.receive() is None
    ends(gateway, packet(DISCONNECT, 0, b"\x05\0"), 0x81, 0x82)  # no reason of a DISCONNECT
    ends(gateway, packet(PUBACK, 0, b"\0\1\x05\0"), 0x81, 0x82)


def test_order(gateway):
    """Of one topic and QoS, in the order of publishing, to each subscriber; for 3.1.1 as well."""
    with Client(gateway.mqtt_port, 5).connect("w") as writer:
        readers = [Client(gateway.mqtt_port, version).connect("r%d" % version) for version in (3, 4, 5)]
        for reader in readers:
            reader.subscribe(("o/#", 2))
        for i in range(900):
            writer.send(publish(5, "o/%d" % (i % 3), b"%d" % i, i // 3 % 3, i + 1))
        for reader in readers:
            seen = {}
            for _ in range(900):
                got = reader.delivery()
                seen.setdefault((got.topic, got.qos), []).append(int(got.payload))
            assert seen == {("o/%d" % k, qos): [i for i in range(900) if i % 3 == k and i // 3 % 3 == qos]
                            for k in range(3) for qos in range(3)}
            reader.close()


def test_websocket_frames(gateway):
    """Binary frames as a stream, wherever they begin and end; a text frame ends the connection."""
    data = connect_bytes(0x02, text("ws")) + packet(SUBSCRIBE, 2, b"\0\1\0" + text("w") + b"\0") + publish(5, "w", b"x")
    for pieces in ([data], [bytes([byte]) for byte in data], [data[:7], data[7:20], data[20:]]):
        with Socket(gateway.http_port, "/mqtt", protocols="mqtt") as link:
            assert link.protocol == "mqtt"
            for piece in pieces:
                link.send(frame(BINARY, piece))
            got = b""
            while len(got) < 2 or not got.endswith(b"\0x"):
                kind, payload = link.receive_message()
                assert kind == BINARY
                got += payload
            assert [got[0] >> 4, got[-7] >> 4] == [CONNACK, PUBLISH], got
    with Socket(gateway.http_port, "/mqtt", protocols="mqtt") as link:
        link.send(frame(TEXT, b"x"))
        link.expect_close(1003)
    with Socket(gateway.http_port, "/mqtt", protocols="mqtt") as link:
        link.send(frame(BINARY, connect_bytes(0x02, text("ws"))))
        kind, payload = link.receive_message()
        assert kind == BINARY and payload[0] >> 4 == CONNACK
        link.send(frame(TEXT, packet(PINGREQ, 0, b"")))
        link.expect_close(1003)


if __name__ == "__main__":
    run(*(value for name, value in list(globals().items()) if name.startswith("test_")))
